"""One step of every unit of a recurrent layer, from the sums of its gates, in short loops.

    LSTM     c = (c A G + g F) / (A F G)         A, F, O = 1 + e^-x      the sigmoid of a gate is 1 / A
             h = t / (O T)                       g, t = 1 - e^-2x        its hyperbolic tangent g / G,
    GRU      n = n's input + its memory / R      G, T = 2 - g, 2 - t     of the new c: t / T
             h = (e t + h T) / (Z T)             Z = 1 + e               the update gate; t / T: tanh of n

Why in one fraction: a division takes as long as four products, and keeps their unit. Exponents are cut at
2^40 and 2^-40, where both functions are flat to the last bit of one, so that three factors stay finite.

Why in two loops: a processor overlaps neighbouring turns of a loop only as far as it can look ahead. The
chain of a unit (exponential and division of a gate, then those of tanh; some 170 cycles, one operation after
another) is too long for that, and behind the tile of a product it is worse. Short loops of short chains
overlap. Exponentials of several gates and vectors are also written side by side, in stages, which the branch
that is never taken keeps apart (see ``dot``): 1.25 times faster than one after another (Zen 5).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.kernels import maths
from cloud.compiler.kernels.expression import vector
from cloud.compiler.kernels.maths import add, mul, splat, sub
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, store
from cloud.compiler.wat import Function, get

ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Units:
    """Some neighbouring vectors of units of one row. ``widths``: the lanes of each that exist."""

    f: Function
    hidden: int
    widths: Sequence[int]

    def load(self, side: str, gate: int, index: int) -> str:
        """What one side says to a gate, or a state (gate 0), of the vector ``index``."""
        return load(f"{side}_at", self._offset(gate, index), self.widths[index])

    def store(self, side: str, gate: int, index: int, value: str) -> None:
        """Write a local in the place of what :meth:`load` reads."""
        for line in store(f"{side}_at", self._offset(gate, index), value, self.widths[index]):
            self.f.emit(line)

    def _offset(self, gate: int, index: int) -> int:
        return gate * self.hidden * ITEM_BYTES + index * VECTOR_BYTES

    def sums(self, gates: Iterable[str]) -> None:
        """Local ``<name><index>``: what both sides say to each of the first gates."""
        for index in range(len(self.widths)):
            for gate, name in enumerate(gates):
                both = add(self.load("x", gate, index), self.load("z", gate, index))
                self.f.set(f"{name}{index}", both, "v128")

    def powers(self, functions: Mapping[str, Fn]) -> None:
        """Those locals := what :func:`maths.gate_powers` makes of them, all side by side."""
        found = {f"{name}{i}": fn for name, fn in functions.items() for i in range(len(self.widths))}
        maths.gate_powers(self.f, found)


Body = Callable[[Units], None]


@dataclass(frozen=True, slots=True)
class Loop:
    """``vectors`` of units a turn: each turn also asks whether the run is to be interrupted. ``moving``: the
    pointers that it uses.
    """

    body: Body
    vectors: int
    moving: tuple[str, ...]


def write_cells(f: Function, kind: str, hidden: int) -> None:
    """The loops over the units of one row, at the addresses in the locals x, z, h, c and y, which stay."""
    for loop in LOOPS[kind]:
        for pointer in loop.moving:
            f.set(f"{pointer}_at", get(pointer))
        vectors, lanes = divmod(hidden, LANES)
        turns, rest = divmod(vectors, loop.vectors)
        if turns:
            with f.loop(turns):
                loop.body(Units(f, hidden, (LANES,) * loop.vectors))
                for pointer in loop.moving:
                    f.advance(f"{pointer}_at", loop.vectors * VECTOR_BYTES)
        if rest or lanes:
            loop.body(Units(f, hidden, (LANES,) * rest + (lanes,) * (lanes > 0)))


_LSTM_GATES = {"given": Fn.SIGMOID, "forgotten": Fn.SIGMOID, "new": Fn.TANH, "shown": Fn.SIGMOID}


def _lstm_memory(units: Units) -> None:
    """c, and 1 + e^-o in the place of the output gate's sum."""
    f, one = units.f, splat(1)
    units.sums(_LSTM_GATES)
    units.powers(_LSTM_GATES)
    for index in range(len(units.widths)):
        given, forgotten, new, shown = (get(f"{name}{index}") for name in _LSTM_GATES)
        f.set("open", add(shown, one), "v128")
        units.store("z", 3, index, "open")
        f.set("kept", add(forgotten, one), "v128")
        f.set("both", mul(add(given, one), add(new, splat(2))), "v128")
        above = sub(mul(units.load("c", 0, index), get("both")), mul(new, get("kept")))
        f.set("memory", f"(f32x4.div {above} {mul(get('both'), get('kept'))})", "v128")
        units.store("c", 0, index, "memory")


def _lstm_shown(units: Units) -> None:
    """h = tanh(c) / (1 + e^-o)."""
    f = units.f
    for index in range(len(units.widths)):
        f.set(f"c{index}", units.load("c", 0, index), "v128")
    units.powers({"c": Fn.TANH})
    for index in range(len(units.widths)):
        below = mul(sub(splat(-2), get(f"c{index}")), units.load("z", 3, index))
        _show(units, index, f"(f32x4.div {get(f'c{index}')} {below})")


def _gru_new(units: Units) -> None:
    """The new gate's sum, and e^-z in the place of the update gate's."""
    f = units.f
    units.sums(("reset", "kept"))
    units.powers({"reset": Fn.SIGMOID, "kept": Fn.SIGMOID})
    for index in range(len(units.widths)):
        units.store("z", 1, index, f"kept{index}")
        memory = f"(f32x4.div {units.load('z', 2, index)} {add(get(f'reset{index}'), splat(1))})"
        f.set("sum", add(units.load("x", 2, index), memory), "v128")
        units.store("z", 2, index, "sum")


def _gru_shown(units: Units) -> None:
    """h between tanh of the new gate's sum and the h before."""
    f = units.f
    for index in range(len(units.widths)):
        f.set(f"new{index}", units.load("z", 2, index), "v128")
    units.powers({"new": Fn.TANH})
    for index in range(len(units.widths)):
        f.set("kept", units.load("z", 1, index), "v128")
        f.set("below", add(get(f"new{index}"), splat(2)), "v128")
        above = sub(mul(units.load("h", 0, index), get("below")), mul(get("kept"), get(f"new{index}")))
        _show(units, index, f"(f32x4.div {above} {mul(get('below'), add(get('kept'), splat(1)))})")


def _plain(fn: Fn) -> Body:
    """h is a function of the only gate."""

    def body(units: Units) -> None:
        units.sums(("sum",))
        for index in range(len(units.widths)):
            _show(units, index, vector(units.f, call(fn, Arg(0)), [get(f"sum{index}")], ["f32"]))

    return body


def _show(units: Units, index: int, value: str) -> None:
    units.f.set("h_new", value, "v128")
    for side in ("h", "y"):
        units.store(side, 0, index, "h_new")


LOOPS: Mapping[str, tuple[Loop, ...]] = {
    "lstm": (Loop(_lstm_memory, 2, ("x", "z", "c")), Loop(_lstm_shown, 4, ("z", "h", "c", "y"))),
    "gru": (Loop(_gru_new, 4, ("x", "z")), Loop(_gru_shown, 4, ("z", "h", "y"))),
    "rnn_tanh": (Loop(_plain(Fn.TANH), 2, ("x", "z", "h", "y")),),
    "rnn_relu": (Loop(_plain(Fn.RELU), 4, ("x", "z", "h", "y")),),
}
