"""Is a history of concurrent operations linearizable? The checker of Wing and Gong, with Lowe's memory.

A history is linearizable if every operation can be given one instant between its call and its end so that,
in the order of these instants, each result is what a single copy would have answered. The search takes as the
next operation any that was called before the first end of those left, and remembers what it has been through:
the same operations done and the same state reached can't end otherwise a second time.

An operation that nobody knows the end of (``end`` infinite) may have happened at any time after its call, or
never. Operations on different keys don't touch each other, so each key is checked alone (the locality of
linearizability: Herlihy and Wing, 1990, theorem 1).

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability"
(2017); the form of the entries follows Porcupine (A. Athalye).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

NODES_MAX = 500_000


@dataclass(frozen=True, slots=True)
class Operation:
    """``result`` None: nobody knows; then ``end`` is infinite. ``by``: for people."""

    key: str
    call: float
    what: Any
    end: float = inf
    result: Any = None
    by: str = ""


class Model(Protocol):
    """A single copy, as a function. States are values."""

    def initial(self) -> Hashable:
        """Before anything happened."""
        ...

    def step(self, state: Any, what: Any, result: Any) -> Hashable | None:
        """The state after it; None: a single copy in this state would not have answered so."""
        ...

    def hopeless(self, state: Any, what: Any, result: Any) -> bool:
        """Whether it can't happen in this state nor in any that follows: the search need not go on."""
        ...


class TooHard(Exception):
    """The search was given up; the history is neither right nor wrong."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``key``: the first one without a linearization; ``stuck``: the longest order that was found for it, and
    ``left`` what could not follow."""

    good: bool
    key: str = ""
    stuck: tuple[Operation, ...] = ()
    left: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return self.good

    def __str__(self) -> str:
        if self.good:
            return "linearizable"
        lines = [f"{self.key} is not linearizable; the longest order:", *map(_line, self.stuck)]
        return "\n".join([*lines, "after which none of these can be next:", *map(_line, self.left)])


def _line(one: Operation) -> str:
    return f"  [{one.call:8.3f}, {one.end:8.3f}] {one.by:>6} {one.what} -> {one.result}"


def linearizable(history: Iterable[Operation], model: Model) -> Verdict:
    """Check each key alone. Raises :class:`TooHard`."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for one in history:
        by_key[one.key].append(one)
    for key in sorted(by_key):
        verdict = _Search(key, sorted(by_key[key], key=lambda one: one.call), model).run()
        if not verdict:
            return verdict
    return Verdict(True)


@dataclass(slots=True)
class _Search:
    key: str
    operations: Sequence[Operation]
    model: Model
    seen: set[tuple[int, Hashable]] = field(default_factory=set)
    longest: tuple[int, ...] = ()

    def run(self) -> Verdict:
        needed = sum(1 << at for at, one in enumerate(self.operations) if one.end < inf)
        # Depth first without recursion: (done, state, the order so far).
        stack: list[tuple[int, Any, tuple[int, ...]]] = [(0, self.model.initial(), ())]
        while stack:
            done, state, order = stack.pop()
            if done & needed == needed:
                return Verdict(True)
            if len(order) > len(self.longest):
                self.longest = order
            for at, after in self._next(done, state):
                node = (done | 1 << at, after)
                if node not in self.seen:
                    self.seen.add(node)
                    stack.append((*node, (*order, at)))
            if len(self.seen) > NODES_MAX:
                raise TooHard(f"{self.key}: {len(self.operations)} operations, {NODES_MAX} states seen")
        left = (one for at, one in enumerate(self.operations) if at not in self.longest and one.end < inf)
        return Verdict(False, self.key, tuple(self.operations[at] for at in self.longest), tuple(left))

    def _next(self, done: int, state: Any) -> Iterable[tuple[int, Hashable]]:
        """Which can be next, and the state after it; those that ended first are tried first."""
        left = [at for at in range(len(self.operations)) if not done >> at & 1]
        first_end = min(self.operations[at].end for at in left)
        found = []
        for at in left:
            one = self.operations[at]
            if one.call > first_end:
                break
            after = self.model.step(state, one.what, one.result)
            if after is not None and not self._is_lost(after, left, at):
                found.append((one.end, at, after))
        found.sort(key=lambda entry: -entry[0])  # the stack turns it round
        return [(at, after) for _, at, after in found]

    def _is_lost(self, after: Any, left: Sequence[int], at: int) -> bool:
        others = (self.operations[other] for other in left if other != at)
        return any(one.end < inf and self.model.hopeless(after, one.what, one.result) for one in others)


# A register with revisions: one STRONG key ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """``value`` None erases; ``expected``: the revision that the writer saw, -1 whatever it is."""

    value: Hashable
    expected: int = -1


@dataclass(frozen=True, slots=True)
class Get:
    """A read."""


@dataclass(frozen=True, slots=True)
class Done:
    """A write that was a success, and the revision that it made."""

    revision: int


@dataclass(frozen=True, slots=True)
class Stale:
    """A conflict: nothing was written. ``revision``: as the key was; None: the answer does not say."""

    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """What a reader was told. ``revision`` None: not told."""

    value: Hashable
    revision: int | None = None


class Register:
    """(value, revision), written with or without compare-and-set. Revisions only grow."""

    def initial(self) -> tuple[Hashable, int]:
        return None, 0

    def step(self, state: tuple[Hashable, int], what: Any, result: Any) -> tuple[Hashable, int] | None:
        value, revision = state
        if isinstance(what, Get):
            if result is None:
                return state
            right = result.value == value and result.revision in (None, revision)
            return state if right else None
        stale = what.expected not in (-1, revision)
        if isinstance(result, Stale):
            return state if stale and result.revision in (None, revision) else None
        if stale:
            return state if result is None else None
        return (what.value, revision + 1) if result is None or result.revision == revision + 1 else None

    def hopeless(self, state: tuple[Hashable, int], what: Any, result: Any) -> bool:
        told = result.revision
        return told is not None and (told < state[1] or (isinstance(result, Done) and told == state[1]))
