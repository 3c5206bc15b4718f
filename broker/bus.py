"""What a service needs from a message broker, and nothing more.

Three implementations keep this contract, and the same tests hold them to it: ``memory`` (a dictionary),
``native`` (asyncio on the mqtt5 codec), ``aiomqtt_bus`` (3.1.1 brokers and websockets).

The promises:
- ``publish`` never blocks. While the link is down QoS 1 messages wait in a bounded outbox, retained facts
  replacing their older version; QoS 0 messages are dropped and counted. At the bound it returns False.
- Messages of one topic reach a handler in the order they were published (per QoS).
- A handler gets a message once, however many of its filters match; one that raises is logged and counted,
  and keeps nothing from the others. Facts may be repeated when somebody else subscribes to them.
- A QoS 1 message is acknowledged only after its handler returned; a handler that returns a future delays
  the acknowledgement until the future is done, so that the broker's receive maximum holds senders back.
- A link watcher is called with "up" only after every subscription stands.
- Topics are relative to the bus's root; a bus never delivers anything from outside of it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

Handler = Callable[["Delivery"], "asyncio.Future[None] | None"]
LinkWatcher = Callable[["Link"], None]


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message as it arrived. ``retained``: it was already there when we subscribed."""

    topic: str
    payload: bytes
    retained: bool = False


class Properties(msgspec.Struct, frozen=True, gc=False):
    """What travels beside the payload where the broker speaks MQTT 5. All of it is also in the payload."""

    expiry_s: int | None = None
    response_topic: str | None = None
    correlation: bytes | None = None
    content_type: str | None = None


NO_PROPERTIES = Properties()


@dataclass(frozen=True, slots=True)
class Link:
    """State of the connection. ``resumed``: the broker had kept our session."""

    up: bool
    resumed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says for us when we are gone without a word. ``topic`` is relative."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True
    delay_s: int = 5


@dataclass(slots=True)
class BusStats:
    """Counters of one bus since its start.

    ``dropped_offline`` and ``dropped_congested``: QoS 0 only. ``compacted``: facts that a newer one replaced
    before they were sent. ``refused``: the broker did not take them. ``unroutable``: nobody listens.
    """

    published: int = 0
    received: int = 0
    dropped_offline: int = 0
    dropped_congested: int = 0
    dropped_full: int = 0
    dropped_expired: int = 0
    compacted: int = 0
    refused: int = 0
    unroutable: int = 0
    handler_errors: int = 0
    reconnects: int = 0


class Subscription(Protocol):
    """A handler bound to filters."""

    def close(self) -> None:
        """Unsubscribe. The handler is not called again."""
        ...


class Bus(Protocol):
    """One client of a broker."""

    stats: BusStats

    @property
    def link(self) -> Link:
        """The state of the connection now."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
        done: Callable[[], None] | None = None,
    ) -> bool:
        """Send, or queue to be sent. False: the outbox is full and nothing was queued.

        ``done`` is called once the broker acknowledged (QoS 1) or the bytes were handed over (QoS 0);
        never when the message was dropped.
        """
        ...

    def subscribe(self, filters: Sequence[str], handler: Handler, *, qos: int = 1) -> Subscription:
        """Call ``handler`` for each message that matches, now and after every reconnect."""
        ...

    def watch_link(self, watcher: LinkWatcher) -> Callable[[], None]:
        """Call ``watcher`` at each change, and at once when the link is up. Returns how to stop it."""
        ...

    async def drained(self) -> None:
        """Wait until everything published so far was acknowledged. Bound it with ``asyncio.timeout``."""
        ...


class ConnectedBus(Bus, Protocol):
    """A bus on a network: somebody has to keep its connection alive."""

    async def run(self) -> None:
        """Connect, and again whenever the link is lost, until cancelled or :meth:`close`.

        Cancelled, it drops the connection without a word and the broker publishes the will: a process that
        falls must not look as if it had left in good order.
        """
        ...

    async def close(self) -> None:
        """Say goodbye: no will. ``run`` returns. What is still queued is lost; see :meth:`drained`."""
        ...
