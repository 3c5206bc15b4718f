"""Writes WebAssembly text (core specification, section 6), one function at a time.

Instructions are written as folded expressions, so a kernel reads like arithmetic:

    f.set("sum", add(get("sum"), load("x", 16)), "v128")

Offsets belong in the memory argument (``load(p, 16)``) and loops count down to zero: both are what Cranelift
turns into one addressing mode and one compare-and-branch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """One function of the module. ``name`` says everything that its text depends on.

    It takes the addresses of its node's operands and of the result, and, where it needs ``scratch_bytes``, of
    a workspace whose contents nobody else relies on. ``helpers``: functions that it calls.
    """

    name: str
    wat: str
    scratch_bytes: int = 0
    helpers: tuple["Kernel", ...] = ()


def get(local: str) -> str:
    """The value of a local."""
    return f"(local.get ${local})"


def const(value: int) -> str:
    """An i32 constant."""
    return f"(i32.const {value})"


def assign(local: str, expression: str) -> str:
    """The instruction that assigns a local."""
    return f"(local.set ${local} {expression})"


def tee(local: str, expression: str) -> str:
    """The value of an expression, which a local keeps, too."""
    return f"(local.tee ${local} {expression})"


class Function:
    """Collects the body of one function and the locals that it turns out to need."""

    def __init__(self, name: str, parameters: Sequence[str] = (), comment: str = "") -> None:
        self._name, self._parameters, self._comment = name, tuple(parameters), comment
        self._locals: dict[str, str] = {}
        self._lines: list[str] = []
        self._labels = 0
        self._depth = 1

    def emit(self, line: str) -> None:
        """One instruction."""
        self._lines.append("  " * self._depth + line)

    def set(self, local: str, expression: str, kind: str = "i32") -> None:
        """Assign a local; its first assignment declares it."""
        if local not in self._parameters:
            self._locals[local] = kind
        self.emit(assign(local, expression))

    def declare(self, local: str, kind: str) -> None:
        """A local that lines from elsewhere assign."""
        self._locals[local] = kind

    def advance(self, pointer: str, nbytes: int) -> None:
        """Move a pointer."""
        self.set(pointer, f"(i32.add {get(pointer)} {const(nbytes)})")

    @contextmanager
    def loop(self, trips: int, *, always: bool = False) -> Iterator[None]:
        """Repeat the body a fixed number of times (at least once; once is no loop, except ``always``)."""
        if trips == 1 and not always:
            yield
            return
        label = self._label("loop")
        left = f"{label}_left"
        self.set(left, const(trips))
        with self._nested(f"(loop ${label}"):
            yield
            self.emit(f"(br_if ${label} (local.tee ${left} (i32.sub {get(left)} {const(1)})))")

    @contextmanager
    def block(self) -> Iterator[str]:
        """A block; gives the label that leaves it."""
        label = self._label("block")
        with self._nested(f"(block ${label}"):
            yield label

    def kernel(self, *, scratch_bytes: int = 0, helpers: Sequence[Kernel] = ()) -> Kernel:
        """The finished function."""
        parameters = "".join(f" (param ${one} i32)" for one in self._parameters)
        variables = "".join(f" (local ${name} {kind})" for name, kind in self._locals.items())
        head = [f"  ;; {self._comment}"] if self._comment else []
        lines = [
            *head,
            f"  (func ${self._name}{parameters}{variables}",
            *(f"  {one}" for one in self._lines),
            "  )",
        ]
        return Kernel(self._name, "\n".join(lines), scratch_bytes, tuple(helpers))

    def _label(self, kind: str) -> str:
        self._labels += 1
        return f"{kind}{self._labels}"

    @contextmanager
    def _nested(self, opening: str) -> Iterator[None]:
        self.emit(opening)
        self._depth += 1
        yield
        self._depth -= 1
        self.emit(")")
