"""Answers questions about telemetry: decides which are sensible, reads aside, replies once.

TelemetryAsk ──> Read (a thread of its own) ──> Reply
     └── not sensible, or too many at once ──> refused
"""

from dataclasses import dataclass

import msgspec

from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick, Work
from shared.ids import is_id
from shared.messages import Reply, ReplyStatus
from shared.telemetry import POINTS_MAX, ROWS_MAX, TelemetryAsk, TelemetryKind
from shared.topics import APP_REPLY

READING_MAX = 8
BODY_BYTES_MAX = APP_REPLY.bytes_max - 4096


@dataclass(frozen=True, slots=True)
class AskArrived:
    """An application wants to read."""

    app: str
    ask: TelemetryAsk


@dataclass(frozen=True, slots=True)
class Read(Work):
    """Look it up."""

    app: str
    ask: TelemetryAsk


@dataclass(frozen=True, slots=True)
class Found:
    """The answer, packed."""

    app: str
    correlation: str
    body: msgspec.Raw


Event = AskArrived | Found | Tick | LinkUp | LinkDown | Failed


@dataclass(slots=True)
class History:
    """``reading``: questions under way."""

    reading: int = 0

    def step(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002 (a read ends by itself)
        """See :class:`shared.core.Core`."""
        match event:
            case AskArrived(app, ask):
                return [self._take(app, ask)]
            case Found(app, correlation, body):
                self.reading -= 1
                if len(bytes(body)) > BODY_BYTES_MAX:
                    detail = f"the answer is {len(bytes(body))} bytes; ask for fewer points or rows"
                    return [_refused(app, correlation, "too-large", detail)]
                return [Publish(APP_REPLY.at(app=app), Reply(correlation=correlation, body=body))]
            case Failed(Read(app, ask), reason):
                self.reading -= 1
                return [_refused(app, ask.correlation, "not-stored", f"the store did not answer: {reason}")]
            case Failed(_, reason):
                return [Ignore(reason)]
        return []

    def _take(self, app: str, ask: TelemetryAsk) -> Effect:
        why = senseless(ask)
        if why:
            return _refused(app, ask.correlation, "bad-request", why)
        if self.reading >= READING_MAX:
            return _refused(app, ask.correlation, "overloaded", f"{READING_MAX} questions are being read")
        self.reading += 1
        return Read(app, ask)

    def check(self) -> None:
        """Invariants."""
        assert 0 <= self.reading <= READING_MAX


def senseless(ask: TelemetryAsk) -> str:
    """Why a question can't be answered; empty: it can."""
    if ask.node and not is_id(ask.node):
        return "node: 1 to 64 of a-z, 0-9 and '-'"
    if ask.kind is not TelemetryKind.SERIES:
        return "" if 1 <= ask.limit <= ROWS_MAX else f"limit: 1 to {ROWS_MAX}"
    if not is_id(ask.node) or not is_id(ask.stream):
        return "name a node and a stream"
    if not 1 <= ask.limit <= POINTS_MAX:
        return f"limit: 1 to {POINTS_MAX}"
    if not 0.0 <= ask.every_s <= 1e9:
        return "every: seconds, 0 for each sample"
    if not (-1e12 < ask.since_unix_s < 1e12 and -1e12 < ask.until_unix_s < 1e12):
        return "since, until: seconds since 1970"
    return ""


def _refused(app: str, correlation: str, code: str, detail: str) -> Effect:
    reply = Reply(correlation=correlation, status=ReplyStatus.REFUSED, code=code, detail=detail)
    return Publish(APP_REPLY.at(app=app), reply)
