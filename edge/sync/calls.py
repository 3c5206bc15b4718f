"""STRONG operations of this device on their way to the cloud, which puts them in order.

    asked ──link──> SENT ──Result──> answered
      │               └──deadline──> INDETERMINATE     (it may land later, and exactly once)
      └──deadline, never sent──> REFUSED               (it certainly did not happen)

A call is sent again under the same number after every reconnect and ``REPEAT_S``; the cloud does it once.
"""

from dataclasses import dataclass, field

from edge.sync.events import Answer
from shared.core import Effect
from shared.sync import Call, Outcome, Result, Status

CALLS_MAX = 256
REPEAT_S = 2.0


@dataclass(slots=True)
class Calling:
    """One operation. ``sent_at`` None: nobody but us knows of it."""

    ref: int
    call: Call
    deadline: float
    sent_at: float | None = None


@dataclass(slots=True)
class Calls:
    """All of this boot that have no answer, by number."""

    sequence: int = 0
    waiting: dict[int, Calling] = field(default_factory=dict)

    def add(self, ref: int, call: Call, now: float) -> list[Effect]:
        """One more, unless there are too many."""
        if len(self.waiting) >= CALLS_MAX:
            detail = f"{CALLS_MAX} STRONG operations wait already; slow down"
            return [Answer(ref, Outcome(status=Status.REFUSED, code="overloaded", detail=detail))]
        self.waiting[call.sequence] = Calling(ref, call, now + call.budget_s)
        return []

    def next_sequence(self) -> int:
        """Names the next operation of this boot."""
        self.sequence += 1
        return self.sequence

    def due(self, now: float) -> list[Call]:
        """What is to be sent now, for the first time or again."""
        calls = []
        for one in self.waiting.values():
            if one.sent_at is None or now >= one.sent_at + REPEAT_S:
                one.sent_at = now
                calls.append(one.call)
        return calls

    def link_up(self) -> None:
        """What was sent may have been lost with the link."""
        for one in self.waiting.values():
            if one.sent_at is not None:
                one.sent_at -= REPEAT_S

    def answered(self, result: Result) -> list[Effect]:
        """The cloud's word."""
        one = self.waiting.pop(result.sequence, None)
        return [] if one is None else [Answer(one.ref, result.outcome)]

    def expire(self, now: float) -> list[Effect]:
        """Nobody waits for ever."""
        late = [number for number, one in self.waiting.items() if now >= one.deadline]
        return [self._gave_up(self.waiting.pop(number)) for number in late]

    def _gave_up(self, one: Calling) -> Effect:
        if one.sent_at is None:
            detail = "the cloud can't be reached; nothing was done"
            return Answer(one.ref, Outcome(status=Status.REFUSED, code="offline", detail=detail))
        detail = f"no answer within {one.call.budget_s:g} s; it may still land, exactly once"
        return Answer(one.ref, Outcome(status=Status.INDETERMINATE, code="deadline", detail=detail))

    def check(self) -> None:
        """Invariants."""
        assert len(self.waiting) <= CALLS_MAX
        assert all(number <= self.sequence for number in self.waiting)
