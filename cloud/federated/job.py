"""One job: rounds in sequence, and the legal moves of the coordinator.

    INITIALIZING ──a cohort──> TRAINING ──enough updates, or deadline──> AGGREGATING ──> COMPLETED ──┐
        ^  ^                      └── no quorum, or an exception ──> ERROR <──┘                      │
        │  └──────────────── reset: by itself a few times, then by a person ──┘                      │
        └───────────────────────────── the next round, or its evaluation ────────────────────────────┘

An evaluation is a pass like training, with the same moves: AGGREGATING is then no more than adding up a few
numbers. When no round follows, the model to be deployed is made, still in AGGREGATING, and the job stays in
COMPLETED.

Nothing takes effect before it is durable: each move makes a new :class:`JobState` and marks it to be
written. What follows from a state (facts, pieces of work) is derived from it, by ``saying.py`` and by the
coordinator, once the write is confirmed. So there is no list of things to do after a write, and a restart
needs no other code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import msgspec

from cloud.federated.events import Asker, Heard, StoredJob, Write
from cloud.federated.fleet import Fleet, draw
from cloud.federated.gate import NORMS_KEPT
from cloud.federated.history import History
from cloud.federated.opening import opening_of, round_of
from cloud.federated.progress import better, combined, evaluation_due, newest, why_enough
from cloud.federated.records import Asked, Entry, JobState, Version
from cloud.federated.round import Round
from cloud.federated.rows import accepted_in, view_of, with_late
from cloud.federated.spec import asked_for
from cloud.federated.strategies import Strategy, resolve
from shared.core import Work
from shared.errors import InvalidTransition
from shared.learning import (
    ClientRow,
    JobFact,
    JobSpec,
    Phase,
    RoundFact,
    RoundView,
    Task,
)
from shared.messages import Manifest

NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.INITIALIZING: frozenset({Phase.TRAINING, Phase.AGGREGATING, Phase.COMPLETED, Phase.ERROR}),
    Phase.TRAINING: frozenset({Phase.AGGREGATING, Phase.COMPLETED, Phase.ERROR}),
    Phase.AGGREGATING: frozenset({Phase.COMPLETED, Phase.ERROR}),
    Phase.COMPLETED: frozenset({Phase.INITIALIZING}),
    Phase.ERROR: frozenset({Phase.INITIALIZING, Phase.COMPLETED}),
}

GATHER_S = 3.0  # at the start, for those who are about to register
RESETS_MAX = 5
RESET_S_MIN = 1.0
RESET_S_MAX = 60.0
WORK_S_MAX = 600.0


@dataclass(slots=True)
class Job:
    """``answered``: (client, task) -> of its newest update that counts, the round it answers and the digest.

    ``due``: not before then is something tried (again). ``told_*``, ``offered``: what the broker holds.
    """

    state: JobState
    strategy: Strategy
    history: History = field(default_factory=History)
    round: Round | None = None
    answered: dict[tuple[str, Task], tuple[int, str]] = field(default_factory=dict)
    since: float = 0.0
    due: float = 0.0
    gathering: bool = True
    fresh: bool = True  # nothing was tried yet in this phase
    unsaved: bool = False
    ended: RoundView | None = None
    failed: RoundView | None = None
    note: str = ""  # what INITIALIZING waits for
    writing: Write | None = None
    write_again: float = inf
    working: Work | None = None
    work_deadline: float = inf
    expecting: str = ""  # digest of the model that the catalog was given
    waiting: list[Asker] = field(default_factory=list)
    told_state: JobState | None = None
    told_round: RoundFact | None = None
    told_job: JobFact | None = None
    offered: dict[str, Manifest] = field(default_factory=dict)
    gone: tuple[str, ...] = ()

    @classmethod
    def of(cls, stored: StoredJob, term: int, now: float) -> "Job":
        """As it was found on the disk: in the phase, and in the pass, that it was in."""
        state = msgspec.structs.replace(stored.state, term=term)
        strategy = resolve(state.spec.strategy, state.spec.options)
        job = cls(state, strategy, History.of(stored.views), since=now)
        for client, known in state.clients.items():
            job.answered[client, Task.TRAIN] = (known.answered, "")
        for one in (*stored.recent, *stored.answers):
            job.answered[one.client, one.header.task] = (one.asked, one.header.digest)
        if state.phase is Phase.ERROR:
            job.due = now + job.backoff_s
        if state.opening is not None and state.phase in (Phase.TRAINING, Phase.AGGREGATING):
            job.round = round_of(state, job.strategy, state.opening)
            job.round.restore(stored.answers)
        return job

    @property
    def name(self) -> str:
        """Of the job."""
        return self.state.spec.job

    @property
    def spec(self) -> JobSpec:
        """What was asked for."""
        return self.state.spec

    @property
    def views(self) -> list[RoundView]:
        """The rounds that are over, oldest first."""
        return self.history.views

    @property
    def durable(self) -> bool:
        """Whether the state is on the disk as it is here."""
        return not (self.unsaved or self.writing)

    @property
    def overlap(self) -> bool:
        """Whether an update to an older version still counts."""
        return self.strategy.kind == "async"

    @property
    def backoff_s(self) -> float:
        """Before it is tried again by itself; infinite: a person has to reset it."""
        if self.state.failures > RESETS_MAX:
            return inf
        return min(RESET_S_MIN * 2.0 ** max(0, self.state.failures - 1), RESET_S_MAX)

    @property
    def opens_again(self) -> bool:
        """Whether training in this round failed and will be tried again: its updates may count then."""
        state = self.state
        waits = state.phase is Phase.ERROR and state.failures <= RESETS_MAX
        return state.task is Task.TRAIN and (waits or state.phase is Phase.INITIALIZING)

    def enter(self, phase: Phase, now: float, **changes: object) -> None:
        """Move. Raises :class:`InvalidTransition` where the table does not allow it."""
        if phase not in NEXT[self.state.phase]:
            raise InvalidTransition(f"job {self.name}: {self.state.phase} -> {phase}")
        self.change(phase=phase, **changes)
        self.since, self.due, self.fresh = now, now, True

    def change(self, **changes: object) -> None:
        """Another state, to be written."""
        self.state = msgspec.structs.replace(self.state, **changes)
        self.unsaved = True

    def write(self) -> Write:
        """All that has changed since the last one. It is repeated as it is until it is confirmed.

        That a pass of training is over is what its log says: the log has every update that counts.
        """
        over = self.state.phase is Phase.AGGREGATING and self.round is not None and self.ended is None
        self.writing = Write(self.name, Entry(state=self.state, ended=self.ended), derived=over)
        self.unsaved, self.ended = False, None
        return self.writing

    # A pass ----------------------------------------------------------------------------------------------

    def open(self, fleet: Fleet, busy: Mapping[str, int], now: float) -> None:
        """INITIALIZING: ask somebody, if there are enough to ask."""
        if self.state.finishing:
            self.enter(Phase.AGGREGATING, now, opening=None)
        elif self.state.task is Task.EVALUATE:
            self._open_evaluation(fleet, now)
        else:
            self._open_training(fleet, busy, now)

    def _open_training(self, fleet: Fleet, busy: Mapping[str, int], now: float) -> None:
        spec, state = self.spec, self.state
        candidates = fleet.candidates(spec, busy)
        self.note = f"{len(candidates)} devices fit and have room; the quorum is {spec.quorum}"
        if len(candidates) < spec.quorum:
            if now - self.since >= spec.deadline_s_max:
                self.fail(self.note, now)
            return
        if len(candidates) < spec.clients and self.gathering and now - self.since < GATHER_S:
            return
        self.gathering = False
        weights = {
            client: fleet.weight(client, state.round - self.history.last.get(client, 0))
            for client in candidates
        }
        seed = f"{spec.seed}/{spec.job}/{state.round}/{state.attempt}"
        self._open(draw(weights, asked_for(spec), seed), now)

    def _open_evaluation(self, fleet: Fleet, now: float) -> None:
        """Those who just trained are awake. The draw is another one than for training."""
        spec, state = self.spec, self.state
        candidates = fleet.evaluators(spec, accepted_in(state.view)) or fleet.evaluators(
            spec, fleet.candidates(spec, {})
        )
        if not candidates:
            self.enter(Phase.TRAINING, now, opening=opening_of(self.state, ()))
            self.enter(Phase.AGGREGATING, now)
            self.evaluated({}, now)
            return
        count = spec.evaluators or len(candidates)
        self._open(
            draw(dict.fromkeys(candidates, 1.0), count, f"{spec.seed}/{spec.job}/{state.round}/e"), now
        )

    def _open(self, cohort: tuple[str, ...], now: float) -> None:
        opening = opening_of(self.state, cohort)
        changes: dict[str, object] = {"opening": opening, "detail": ""}
        if self.overlap and opening.task is Task.TRAIN:
            clients = {
                client: Asked(opening.round, self.state.clients.get(client, Asked()).answered)
                for client in cohort
            }
            changes["clients"] = {**self._recent(), **clients}
        self.round = round_of(self.state, self.strategy, opening)
        self.enter(Phase.TRAINING, now, **changes)

    def _recent(self) -> dict[str, Asked]:
        """Clients whose update could still be fresh enough."""
        oldest = self.state.round - self.strategy.staleness_max
        return {client: one for client, one in self.state.clients.items() if one.asked >= oldest}

    def closed(self, now: float) -> None:
        """The pass takes nothing more."""
        assert self.round is not None
        if self.round.reason:
            self.fail(self.round.reason, now)
            return
        for (client, asked), digest in self.round.done.items():
            self.answered[client, self.round.at.opening.task] = (asked, digest)
        self.enter(Phase.AGGREGATING, now)
        if self.round.at.opening.task is Task.EVALUATE:
            self.evaluated(self.round.rows, now)

    # What came of it -------------------------------------------------------------------------------------

    def aggregated(self, version: Version, aggregate_s: float, now: float) -> None:
        """The next version is durable."""
        assert self.round is not None
        state, done = self.state, self.round
        view = view_of(state, done, Phase.COMPLETED, now)
        self.gone = tuple(one.digest for one in state.before.manifests) if state.before else ()
        clients = {
            **state.clients,
            **{client: Asked(state.clients.get(client, Asked()).asked, asked) for client, asked in done.done},
        }
        self.change(
            version=version,
            before=state.version,
            made=done.at.opening,
            norms=(*state.norms, *sorted(done.norms))[-NORMS_KEPT:],
            train_s=newest(state.train_s, done.rows),
            clients=clients if self.overlap else {},
            failures=0,
        )
        row = msgspec.structs.replace(view.row, aggregate_s=aggregate_s, version=version.ref.version)
        view = RoundView(row=row, clients=view.clients)
        self.round = None
        if evaluation_due(self.spec, state.round):
            self.enter(Phase.COMPLETED, now, opening=None)
            self.enter(Phase.INITIALIZING, now, view=view, task=Task.EVALUATE, attempt=0)
        else:
            self._end(view, now)

    def evaluated(self, rows: Mapping[str, ClientRow], now: float) -> None:
        """The round is over, and this is how good its version is."""
        metrics, state = combined(rows.values()), self.state
        view = state.view
        assert view is not None
        clients = tuple(
            msgspec.structs.replace(row, metrics=rows[row.client].metrics or row.metrics)
            if row.client in rows
            else row
            for row in view.clients
        )
        value = metrics.get(self.spec.stop.metric)
        if value is not None and better(self.spec.stop, value, state.best):
            self.change(best=value, best_round=state.round)
        self.change(metrics=metrics or state.metrics, evaluate_s=newest(state.evaluate_s, rows), failures=0)
        self.round = None
        self._end(RoundView(row=msgspec.structs.replace(view.row, metrics=metrics), clients=clients), now)

    def _end(self, view: RoundView, now: float) -> None:
        """The round is over: the next one, or none."""
        self.ended = view
        self.history.add(view)
        enough = why_enough(self.state)
        if enough:
            self.finish(enough, now)
            return
        self.enter(Phase.COMPLETED, now, opening=None, view=None)
        number = self.state.round + 1
        self.enter(Phase.INITIALIZING, now, round=number, task=Task.TRAIN, attempt=0)

    def finish(self, detail: str, now: float) -> None:
        """No round follows. Where a package is to serve the result, it is made first."""
        self.round = None
        changes: dict[str, object] = {"opening": None, "view": None, "detail": detail}
        if not self.spec.serve or self.state.version.ref.version == 0:
            self.enter(Phase.COMPLETED, now, closed=True, **changes)
            return
        if self.state.phase is Phase.ERROR:
            self.enter(Phase.INITIALIZING, now)
        if self.state.phase is not Phase.AGGREGATING:
            self.enter(Phase.AGGREGATING, now)
        self.change(finishing=True, **changes)

    def fail(self, reason: str, now: float) -> None:
        """ERROR, until it is reset: by itself after a while, a few times."""
        if self.round is not None:
            self.failed = view_of(self.state, self.round, Phase.ERROR, now)
        self.round, self.working = None, None
        self.enter(Phase.ERROR, now, opening=None, detail=reason, failures=self.state.failures + 1)
        self.due = now + self.backoff_s

    def reset(self, now: float) -> None:
        """The same round again, from its start."""
        self.enter(Phase.INITIALIZING, now, attempt=self.state.attempt + 1)
        self.gathering = True

    def late(self, heard: Heard) -> None:
        """An update came when its round was closed: the report says so, if the round is a recent one."""
        if heard.header.task is not Task.TRAIN:
            return
        view = self.state.view
        if view is not None and view.row.round == heard.asked:
            self.state = msgspec.structs.replace(self.state, view=with_late(view, heard.client))
        else:
            self.history.late(heard.asked, heard.client)

    def counted(self, heard: Heard) -> bool:
        """Whether this very update counts in a round that is over."""
        if heard.header.task is not Task.TRAIN:
            return False
        overlap = self.strategy.staleness_max
        return self.history.counted(heard.asked, heard.client, heard.header, overlap)

    def round_view(self, number: int, now: float) -> RoundView | None:
        """One round: over, under way, or the attempt that failed last."""
        over = self.history.find(number)
        if over is not None or number != self.state.round:
            return over
        now_open = view_of(self.state, self.round, self.state.phase, now)
        return now_open if self.round else self.state.view or self.failed or now_open

    def check(self) -> None:
        """Invariants."""
        state = self.state
        assert (state.opening is not None) or state.phase is not Phase.TRAINING
        assert (self.round is not None) == (
            state.phase is Phase.TRAINING or (state.phase is Phase.AGGREGATING and state.opening is not None)
        )
        assert not state.closed or state.phase is Phase.COMPLETED
        assert state.phase is not Phase.COMPLETED or state.closed
        assert self.working is None or state.phase is Phase.AGGREGATING
        self.history.check()
        if self.round is not None:
            assert self.round.at.opening == state.opening
            self.round.check()
