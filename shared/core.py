"""The shape of every state machine in the platform: events in, effects out, one door.

What passes through that door for every request are msgspec Structs: made in C, an eighth of the time that a
frozen dataclass takes.
"""

from typing import Generic, Protocol, TypeVar

import msgspec

from shared.topics import Address, M

E_contra = TypeVar("E_contra", contravariant=True)


class Tick(msgspec.Struct, frozen=True):
    """Time has passed. The only way a core learns that anything can be overdue."""


class LinkUp(msgspec.Struct, frozen=True):
    """This process can reach the broker (again). ``resumed``: the broker kept our session."""

    resumed: bool


class LinkDown(msgspec.Struct, frozen=True):
    """This process lost the broker. Silence says nothing about anybody until it is back."""


class Effect:
    """Something the core wants done. The shell does it, in order, and says nothing back."""

    __slots__ = ()


class Work(Effect):
    """An effect that takes time. The shell runs it aside and feeds the result back as an event."""

    __slots__ = ()


class Publish(Effect, msgspec.Struct, Generic[M], frozen=True):
    """Send one message. Never blocks: it waits in a bounded outbox while the link is down.

    ``qos``: None is the topic's own; 0 where the sender would repeat it anyway.
    """

    to: Address[M]
    message: M
    qos: int | None = None


class Clear(Effect, msgspec.Struct, Generic[M], frozen=True):
    """Delete the retained fact at this address."""

    to: Address[M]


class Ignore(Effect, msgspec.Struct, frozen=True):
    """The core looked at the event and decided to do nothing. Counted, never silent."""

    reason: str


class Failed(msgspec.Struct, frozen=True):
    """A piece of work raised. The core decides what that means."""

    work: Work
    reason: str


class Chance(Protocol):
    """Where a core gets its randomness: a seeded ``random.Random`` is passed in."""

    def random(self) -> float:
        """From 0 up to, not including, 1."""
        ...

    def uniform(self, a: float, b: float) -> float:
        """From ``a`` to ``b``."""
        ...


class Core(Protocol[E_contra]):
    """A plain synchronous object with one door. No I/O, clock, randomness, asyncio or logging."""

    def step(self, event: E_contra, now: float) -> list[Effect]:
        """Take one event at monotonic time ``now`` (seconds) and say what is to be done."""
        ...

    def check(self) -> None:
        """Assert every invariant. Tests and simulations call it after each step."""
        ...
