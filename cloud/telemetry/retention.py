"""Takes old telemetry out of the store, a small step at a time, so that nothing waits for it.

    IDLE ──every_s──> list the streams ──> trim one, and again while there is more ──> ... ──> letters ──>
          positions of boots that are over and complete, and of which nothing is kept ──> IDLE

Each step is one short transaction, and between two there is a tick. The counts of the ledger stay: what was
produced and stored is true also when it is no longer kept.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick, Work

DAY_S = 86400.0
STEP = 500  # rows of one transaction


@dataclass(frozen=True, slots=True)
class Keep:
    """``days``, and at most ``samples`` of each node (0: no limit)."""

    days: float = 30.0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """By stream, else by grade, else the default. ``letters``: of all nodes together."""

    default: Keep = Keep()
    grades: Mapping[str, Keep] = field(default_factory=dict)
    streams: Mapping[str, Keep] = field(default_factory=dict)
    letters: int = 10_000
    every_s: float = 600.0

    def of(self, stream: str, grade: str) -> Keep:
        """What holds for a stream."""
        return self.streams.get(stream) or self.grades.get(grade) or self.default


@dataclass(frozen=True, slots=True)
class ListStreams(Work):
    """Which streams are there, and what time is it?"""


@dataclass(frozen=True, slots=True)
class Listed:
    """(node, stream, grade) of each, and the time."""

    streams: tuple[tuple[str, str, str], ...]
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Trim(Work):
    """Delete a step's worth of a stream's old chunks."""

    node: str
    stream: str
    before_unix_s: float
    samples_max: int


@dataclass(frozen=True, slots=True)
class TrimLetters(Work):
    """Delete a step's worth of the oldest letters."""

    keep: int


@dataclass(frozen=True, slots=True)
class Retire(Work):
    """Delete a step's worth of positions that are over."""

    before_unix_s: float


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A step is done; it deleted so many rows."""

    work: Trim | TrimLetters | Retire
    rows: int


Event = Listed | Trimmed | Tick | LinkUp | LinkDown | Failed


@dataclass(slots=True)
class Retention:
    """``deleted``: rows since the start."""

    policy: Policy
    todo: deque[Trim | TrimLetters | Retire] = field(default_factory=deque)
    working: bool = False
    next_round: float = 60.0  # a cloud that starts has better things to do
    deleted: int = 0
    failures: int = 0
    started: bool = False

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Listed(streams, at_unix_s):
                self.working = False
                self._plan(streams, at_unix_s)
            case Trimmed(work, rows):
                self.working = False
                self.deleted += rows
                if rows >= STEP:
                    self.todo.appendleft(work)
            case Failed(_, reason):  # the next round tries again
                self.working, self.failures = False, self.failures + 1
                self.todo.clear()
                return [Ignore(reason)]
            case Tick():
                return self._tick(now)
        return []

    def _tick(self, now: float) -> list[Effect]:
        if not self.started:
            self.started, self.next_round = True, now + self.next_round
        if self.working:
            return []
        if self.todo:
            self.working = True
            return [self.todo.popleft()]
        if now < self.next_round:
            return []
        self.working, self.next_round = True, now + self.policy.every_s
        return [ListStreams()]

    def _plan(self, streams: tuple[tuple[str, str, str], ...], at_unix_s: float) -> None:
        days_max = 0.0
        for node, stream, grade in streams:
            keep = self.policy.of(stream, grade)
            days_max = max(days_max, keep.days)
            self.todo.append(Trim(node, stream, at_unix_s - keep.days * DAY_S, keep.samples))
        self.todo.append(TrimLetters(self.policy.letters))
        self.todo.append(Retire(at_unix_s - days_max * DAY_S))

    def check(self) -> None:
        """Invariants."""
        assert self.deleted >= 0
