"""What the broker remembers of a client between its connections (MQTT 5, section 4.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from broker.embedded.access import Identity
from broker.embedded.config import BrokerLimits
from broker.embedded.holdings import Holdings
from broker.embedded.message import Message
from broker.embedded.outbox import Link, Outbox
from broker.embedded.stats import Counters

NEVER_S = 0xFFFF_FFFF  # the session expiry interval that means "keep it for ever"


class Timer(Protocol):
    """A call that has been put off."""

    def cancel(self) -> None:
        """Forget it."""
        ...


class Clock(Protocol):
    """The part of an event loop that decides when. Tests bring their own."""

    def time(self) -> float:
        """Seconds on a monotonic clock."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], /, *args: object) -> Timer:
        """Call back once, ``delay`` seconds from now."""
        ...


class Peer(Link, Protocol):
    """The connection of a session, as far as the broker is concerned."""

    def close(self, code: int, reason: str) -> None:
        """Say DISCONNECT with this reason code and hang up."""
        ...

    def hang_up(self) -> None:
        """End the connection without another word, after what was already sent."""
        ...

    def forget_permissions(self) -> None:
        """The access rules have changed: ask them again."""
        ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """One filter of one session. ``filter`` is as the client wrote it, ``topic_filter`` what matches."""

    filter: str
    topic_filter: str
    group: str | None
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LastWill:
    """A will, ready to be published. ``lifetime_s`` counts from then on."""

    message: Message
    delay_s: int
    lifetime_s: int | None


class Session:
    """Subscriptions, unfinished deliveries both ways, and the clocks that run while nobody is there."""

    __slots__ = (
        "expiry_s",
        "expiry_timer",
        "identity",
        "last_will",
        "outbox",
        "peer",
        "subscriptions",
        "unreleased",
        "will_timer",
    )  # fmt: skip

    def __init__(
        self,
        identity: Identity,
        limits: BrokerLimits,
        counters: Counters,
        clock: Callable[[], float],
        holdings: Holdings,
    ) -> None:
        self.identity = identity
        self.peer: Peer | None = None
        self.outbox = Outbox(limits, counters, clock, holdings)
        self.subscriptions: dict[str, Subscription] = {}  # by the filter as the client wrote it
        self.unreleased: set[int] = set()  # QoS 2 packet ids that came in and wait for their PUBREL
        self.expiry_s = 0
        self.last_will: LastWill | None = None
        self.expiry_timer: Timer | None = None
        self.will_timer: Timer | None = None

    def cancel_timers(self) -> None:
        """Somebody is back, or the session is over."""
        for timer in (self.expiry_timer, self.will_timer):
            if timer is not None:
                timer.cancel()
        self.expiry_timer = self.will_timer = None
