"""Request -> exactly one reply, or a deadline. The calling side.

A caller learns *definite* (:class:`Refused`: it did not happen) or *indefinite* (:class:`TimedOut`: it may
have), because that decides whether a retry is safe. Replies are matched by correlation; the second answer
to one request (a retry elsewhere whose first attempt lived after all) is counted and dropped.

A request whose receiver knows it by its correlation, and does nothing twice, may be *repeatable*: it is sent
without acknowledgements (QoS 0), and once more with them when nothing was heard for ``REPEAT_S``.
"""

import asyncio
import itertools
from collections.abc import Callable

from broker.bus import Bus, Delivery
from broker.service import properties_of
from shared.core import Publish
from shared.errors import Refused, RemoteError, TimedOut
from shared.messages import Reply, ReplyStatus, Request
from shared.topics import APP_REPLY, REPLY, Address, M, Topic
from shared.wire import decode, encode

WAITING_MAX = 4096
REPEAT_S = 0.5
GRACE_S = 0.25  # a definite refusal made at the deadline itself is worth waiting for: it allows a retry


class Asker:
    """Sends requests over a bus and waits for their replies. One per process and caller id.

    ``session``: something no other process with the same caller id uses; it keeps correlations apart.
    """

    def __init__(self, bus: Bus, caller: str, session: str) -> None:
        self.late = 0
        self._bus, self._session = bus, session
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._topics: tuple[Topic[Reply], ...] = (APP_REPLY, REPLY)
        filters = [APP_REPLY.filter_for(app=caller), REPLY.filter_for(caller=caller)]
        self._subscription = bus.subscribe(filters, self._answered)

    def close(self) -> None:
        """Stop listening; requests in flight end as indefinite."""
        self._subscription.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(TimedOut("closed", "the caller went away before the reply"))

    async def ask(
        self, to: Address[M], build: Callable[[str, float], M], budget_s: float, *, repeatable: bool = False
    ) -> Reply:
        """Send ``build(correlation, budget_s)`` to ``to`` and return the reply.

        ``build`` is called again, with what is left of the budget, when a ``repeatable`` request is repeated.
        Raises :class:`Refused` when it certainly did not happen, :class:`TimedOut` when nobody knows.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Refused("overloaded", f"{WAITING_MAX} requests are waiting already; slow down")
        correlation = f"{self._session}{next(self._numbers):x}"
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting[correlation] = future
        # While the link is down QoS 0 is dropped, and QoS 1 waits.
        quick = repeatable and budget_s > REPEAT_S and self._bus.link.up
        # One timer on the future: half the price of `asyncio.timeout`, which cancels and uncancels a task.
        self._timers[correlation] = (
            loop.call_later(REPEAT_S, self._repeat, to, build, correlation, budget_s)
            if quick
            else loop.call_later(budget_s + GRACE_S, _expire, future, to, budget_s)
        )
        try:
            self._send(Publish(to, build(correlation, budget_s), 0 if quick else None))
            return checked(await future)
        finally:
            self._timers.pop(correlation).cancel()
            del self._waiting[correlation]

    def _repeat(
        self, to: Address[M], build: Callable[[str, float], M], correlation: str, budget_s: float
    ) -> None:
        future, left_s = self._waiting[correlation], budget_s - REPEAT_S
        self._timers[correlation] = future.get_loop().call_later(
            left_s + GRACE_S, _expire, future, to, budget_s
        )
        if not future.done():
            try:
                self._send(Publish(to, build(correlation, left_s)))
            except Refused as refused:  # the outbox is full; the first may have arrived
                future.set_exception(TimedOut(refused.code, refused.detail))

    def _send(self, effect: Publish[M]) -> None:
        topic, message = effect.to.topic, effect.message
        assert isinstance(message, Request)
        payload = encode(message)
        if len(payload) > topic.bytes_max:
            raise Refused("too-large", f"the request is {len(payload)} bytes; the limit is {topic.bytes_max}")
        qos = topic.qos if effect.qos is None else effect.qos
        if not self._bus.publish(effect.to.name, payload, qos=qos, properties=properties_of(topic, message)):
            raise Refused("outbox-full", "the broker does not take messages fast enough; try again later")

    def _answered(self, delivery: Delivery) -> None:
        topic = self._topics[delivery.topic.startswith("node/")]
        try:
            reply = decode(topic, delivery.payload)
        except RemoteError:
            self.late += 1
            return
        future = self._waiting.get(reply.correlation)
        if future is None or future.done():
            self.late += 1
        else:
            future.set_result(reply)


def _expire(future: "asyncio.Future[Reply]", to: Address[M], budget_s: float) -> None:
    if not future.done():
        future.set_exception(TimedOut("deadline", f"no reply on {to} within {budget_s:g} s"))


def checked(reply: Reply) -> Reply:
    """The reply itself when it is good; otherwise raise what it says."""
    match reply.status:
        case ReplyStatus.OK:
            return reply
        case ReplyStatus.REFUSED:
            raise Refused(reply.code, reply.detail)
        case ReplyStatus.FAILED:
            raise TimedOut(reply.code, reply.detail)
