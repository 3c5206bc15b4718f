"""Request -> exactly one reply, or a deadline. The calling side.

A caller learns *definite* (:class:`Refused`: it did not happen) or *indefinite* (:class:`TimedOut`: it may
have), because that decides whether a retry is safe. Replies are matched by correlation; the second answer
to one request (a retry elsewhere whose first attempt lived after all) is counted and dropped.

A request whose receiver knows it by its correlation, and does nothing twice, may be *repeatable*: it is sent
without acknowledgements (QoS 0), and once more with them when nothing was heard for ``REPEAT_S``.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from math import inf
from typing import Any

import msgspec

from broker.awake import Awake
from broker.bus import Bus, Delivery
from broker.service import properties_of
from shared.core import Publish
from shared.errors import Refused, RemoteError, TimedOut
from shared.messages import Reply, ReplyStatus, Request
from shared.topics import APP_REPLY, REPLY, Address, M, Topic
from shared.wire import decode, encode

WAITING_MAX = 4096
REPEAT_S = 0.5
LOOK_S = 0.05  # how late a repeat or the end of a deadline may be noticed
GRACE_S = 0.25  # a definite refusal made at the deadline itself is worth waiting for: it allows a retry


class _Waiting(msgspec.Struct):
    """A request without its reply yet. ``deadline``, ``repeat_at``: on the loop's clock."""

    future: "asyncio.Future[Reply]"
    to: Address[Any]
    build: Callable[[str, float], Any]
    budget_s: float
    deadline: float
    repeat_at: float


class Asker:
    """Sends requests over a bus and waits for their replies. One per process and caller id.

    ``session``: something no other process with the same caller id uses; it keeps correlations apart.
    """

    def __init__(self, bus: Bus, caller: str, session: str) -> None:
        self.late = 0
        self._bus, self._session = bus, session
        self._numbers = itertools.count(1)
        self._waiting: dict[str, _Waiting] = {}
        self._looking = False
        self._awake = Awake()
        self._topics: tuple[Topic[Reply], ...] = (APP_REPLY, REPLY)
        filters = [APP_REPLY.filter_for(app=caller), REPLY.filter_for(caller=caller)]
        self._subscription = bus.subscribe(filters, self._answered)

    def close(self) -> None:
        """Stop listening; requests in flight end as indefinite."""
        self._subscription.close()
        for one in self._waiting.values():
            if not one.future.done():
                one.future.set_exception(TimedOut("closed", "the caller went away before the reply"))

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
        now = loop.time()
        # While the link is down QoS 0 is dropped, and QoS 1 waits.
        quick = repeatable and budget_s > REPEAT_S and self._bus.link.up
        waiting = _Waiting(
            loop.create_future(), to, build, budget_s, now + budget_s, now + REPEAT_S if quick else inf
        )
        self._waiting[correlation] = waiting
        if not self._looking:
            self._look(loop)
        try:
            self._send(Publish(to, build(correlation, budget_s), 0 if quick else None))
            return checked(await (waiting.future if len(self._waiting) > 1 else self._alone(waiting.future)))
        finally:
            del self._waiting[correlation]

    async def _alone(self, answer: "asyncio.Future[Reply]") -> Reply:
        """Wait for the only request on its way. With more of them the process has enough to do."""
        asked_at = time.monotonic()
        self._awake.expect(answer.get_loop())
        reply = await answer
        self._awake.answered(time.monotonic() - asked_at)
        return reply

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to those who have waited too long, and again as long as anybody waits.

        A timer for each request, made and cancelled, would cost as much as sending it.
        """
        self._looking = bool(self._waiting)
        if not self._looking:
            return
        loop.call_later(LOOK_S, self._look, loop)  # first: what fails below is one request's loss
        now = loop.time()
        for correlation, one in tuple(self._waiting.items()):
            if one.future.done():
                continue
            if now >= one.deadline + GRACE_S:
                one.future.set_exception(
                    TimedOut("deadline", f"no reply on {one.to} within {one.budget_s:g} s")
                )
            elif one.repeat_at <= now < one.deadline:
                one.repeat_at = inf
                self._repeat(correlation, one, one.deadline - now)

    def _repeat(self, correlation: str, one: "_Waiting", left_s: float) -> None:
        try:
            self._send(Publish(one.to, one.build(correlation, left_s)))
        except Refused as refused:  # the outbox is full; the first may have arrived
            one.future.set_exception(TimedOut(refused.code, refused.detail))
        except Exception as error:  # of who built it: the one who waits shall hear of it, and nobody else
            one.future.set_exception(error)

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
        waiting = self._waiting.get(reply.correlation)
        if waiting is None or waiting.future.done():
            self.late += 1
        else:
            waiting.future.set_result(reply)


def checked(reply: Reply) -> Reply:
    """The reply itself when it is good; otherwise raise what it says."""
    match reply.status:
        case ReplyStatus.OK:
            return reply
        case ReplyStatus.REFUSED:
            raise Refused(reply.code, reply.detail)
        case ReplyStatus.FAILED:
            raise TimedOut(reply.code, reply.detail)
