"""The cloud's side of a simulated federation: the coordinator's core, its executor and its disk, in a process
that can be killed at any moment and is started again with nothing but the disk.

A kill strikes at a moment, or around a piece of work: before it was done, or after it was done and before
the core was told. What a dead process had published was published; what it waited for comes to nobody.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.federated.core import Coordinator
from cloud.federated.events import (
    Aggregate,
    LearnAsked,
    LearnerSeen,
    MakeModel,
    ModelAdded,
    ModelMade,
    Offer,
    PartArrived,
    Withdraw,
    Write,
    Written,
)
from cloud.federated.executor import Executor
from cloud.federated.records import JobState
from cloud.federated.versions import artifact_path
from shared.core import Effect, Tick, Work
from shared.learning import JobSpec, LearnAsk, LearnVerb, RoundView
from shared.messages import Manifest
from shared.topics import LEARNER, UPDATE
from simulation.federation.artifacts import Artifacts
from simulation.federation.audit import Audit
from simulation.federation.troubles import chance
from simulation.network import Member, Network

TICK_S = 0.5
WORK_S = (0.002, 0.05)  # of virtual time, for one piece
DOWN_S = (0.5, 5.0)
APP = "operator"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the cloud stands. ``nodes``: those that the registry knows. ``moved``: hears what each entry of
    the journal says."""

    net: Network
    folder: Path
    artifacts: Artifacts
    audit: Audit
    nodes: tuple[str, ...]
    seed: int
    moved: Callable[[JobState | None, RoundView | None], None]


class Cloud:
    """One process after the other."""

    def __init__(self, place: Place) -> None:
        self.place, self.clock = place, place.net.clock
        self.term, self.kills = 0, 0
        self.random = chance(place.seed, "cloud")
        self.executor: Executor
        self.core: Coordinator
        self._member: Member
        self._queue: deque[Work] = deque()
        self._busy = False
        self._doomed: Callable[[], bool] | None = None
        self._owed = False  # a doom has not struck yet
        self._next_s: float | None = None  # within which the next process shall die, too

    def boot(self) -> None:
        """Start a process, with a clock of its own and the next term."""
        self.term += 1
        place, began_s = self.place, self.random.uniform(0, 1e5) - self.clock.now
        self._queue.clear()
        self._busy, self._doomed = False, None
        self.executor = Executor(
            place.folder, place.artifacts, lambda manifest: manifest, lambda: self.clock.now, _no_sync
        )
        self.executor.open()
        self.core = Coordinator(self.term, -began_s)
        self._member = Member(place.net, "cloud", self.core, self._perform, lambda: began_s + self.clock.now)
        self._member.hears(LEARNER, lambda ids, learner: LearnerSeen(ids["node"], learner))
        self._member.hears(
            UPDATE, lambda ids, part: PartArrived(ids["node"], ids["job"], int(ids["round"]), part)
        )
        self._member.connect()
        for node in place.nodes:
            self._member.feed(NodeChanged(NodeFact(node, 1, NodeStatus.IDLE)))
        self._tick(self.term)
        if self._next_s is not None:
            within_s, self._next_s = self._next_s, None
            self.doom(within_s)

    def create(self, spec: JobSpec) -> None:
        """Ask for a job, as an application does."""
        ask = LearnAsk(correlation="c1", budget_s=60.0, verb=LearnVerb.CREATE, job=spec.job, spec=spec)
        self._member.feed(LearnAsked(APP, ask))

    def kill(self, term: int | None = None) -> None:
        """End the process, if it is still that one; the next one comes after a while."""
        if self._member.gone or (term is not None and term != self.term):
            return
        self.kills += 1
        self._owed = False
        self._member.kill()
        self.executor.close()
        self.clock.after(self.random.uniform(*DOWN_S), self.boot)

    def doom(self, within_s: float) -> None:
        """Kill this process once, somewhere in the next ``within_s`` seconds or in one of its next pieces of
        work. Where the last doom has not struck yet it does so now, and this one is the next process's."""
        if self._owed:
            self._next_s = within_s
            self.clock.after(0.0, self.kill, self.term)
            return
        self._owed = True
        if self.random.random() < 0.5:
            self.clock.after(self.random.uniform(0, within_s), self.kill, self.term)
        else:
            left = iter(range(self.random.randrange(12), -1, -1))
            self._doomed = lambda: next(left, 0) == 0

    def close(self) -> None:
        """Give the folder back."""
        self.executor.close()

    # Time and work ------------------------------------------------------------------------------------------

    def _tick(self, term: int) -> None:
        if term == self.term and not self._member.gone:
            self._member.feed(Tick())
            self.core.check()
            self.clock.after(TICK_S, self._tick, term)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Work():
                self._queue.append(effect)
                self._work()
            case Offer(manifest):
                self._show(manifest)
            case Withdraw(digest):
                self.place.artifacts.withdraw(digest)
            case _:
                raise AssertionError(f"nothing performs {effect}")

    def _show(self, manifest: Manifest) -> None:
        path = artifact_path(self.executor.artifacts, manifest.digest)
        self.place.artifacts.show(manifest.digest, path)

    def _work(self) -> None:
        if not self._busy and self._queue:
            self._busy = True
            self.clock.after(self.random.uniform(*WORK_S), self._done, self.term, self._queue.popleft())

    def _done(self, term: int, work: Work) -> None:
        """One piece at a time, in their order."""
        if term != self.term or self._member.gone:
            return
        doomed = self._doomed is not None and self._doomed()
        if doomed and self.random.random() < 0.5:
            self.kill()
            return
        (answer,) = self.executor.perform([work])
        self._look_at(work, answer)
        if doomed:
            self.kill()
            return
        self._busy = False
        if answer is not None:
            self._member.feed(answer)
        if isinstance(work, MakeModel) and isinstance(answer, ModelMade):
            self._member.feed(ModelAdded(work.spec.version_name, "1", answer.digest))
        self._work()

    def _look_at(self, work: Work, answer: object) -> None:
        self.place.audit.judged(answer)
        if isinstance(work, Aggregate):
            self.place.audit.aggregated(work, answer)
        elif isinstance(work, Write) and isinstance(answer, Written):
            self.place.moved(work.entry.state, work.entry.ended)


def _no_sync(_: int) -> None:
    """The simulated machine is never cut off: what was written is there."""
