"""Any history of answers, nonsense, outages, crashes and steering keeps every promise, and ends."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.facts import NodeStatus
from cloud.federated.events import LearnerSeen, PartArrived
from shared.core import Failed, LinkDown, LinkUp
from shared.learning import LearnVerb, Phase, ReceiptStatus, RoundFact
from tests.unit.cloud.federated.world import JOB_NAME, SERVE, World, digest_of, learner, update

CLIENTS = ("a", "b", "c", "d")
SETTINGS = {"rounds": 3, "clients": 3, "quorum": 2, "over_select": 1.3, "deadline_s_max": 10.0}
KINDS = ("fedavg", "fedbuff", "median")

MOVES = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from(CLIENTS)),
    st.tuples(st.just("again"), st.integers(0, 30)),
    st.tuples(st.just("stranger"), st.sampled_from(("x", "y"))),
    st.tuples(st.just("poison"), st.sampled_from(CLIENTS)),
    st.tuples(st.just("work"), st.integers(1, 4)),
    st.tuples(st.just("lose"), st.just(0)),
    st.tuples(st.just("tick"), st.sampled_from((0.5, 4.0, 12.0))),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("cut"), st.sampled_from((1.0, 30.0))),
    st.tuples(st.just("leave"), st.sampled_from(CLIENTS)),
    st.tuples(st.just("stop"), st.just(0)),
    st.tuples(st.just("reset"), st.just(0)),
)


class Story:
    """A world and what its devices remember: everything that they ever sent."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.world = World(folder, CLIENTS)
        self.sent: list[tuple[str, RoundFact, dict[str, object]]] = []
        self.world.create(strategy=kind, evaluate_every=2, serve=digest_of(SERVE), **SETTINGS)

    def move(self, name: str, argument) -> None:
        getattr(self, f"_{name}")(argument)

    def _say(self, client: str, fact: RoundFact, claims: dict[str, object]) -> None:
        self.sent.append((client, fact, claims))
        for part in update(client, fact, **claims):
            self.world.feed(PartArrived(client, JOB_NAME, fact.round, part))

    def _answer(self, client: str) -> None:
        fact = self.world.fact()
        if fact.model is not None:
            self._say(client, fact, {})

    _stranger = _answer

    def _poison(self, client: str) -> None:
        fact = self.world.fact()
        if fact.model is not None:
            self._say(client, fact, {"weight": 10**9} if len(self.sent) % 2 else {"digest": "0" * 64})

    def _again(self, index: int) -> None:
        if self.sent:
            client, fact, claims = self.sent[index % len(self.sent)]
            for part in update(client, fact, **claims):
                self.world.feed(PartArrived(client, JOB_NAME, fact.round, part))

    def _work(self, count: int) -> None:
        for _ in range(min(count, len(self.world.works))):
            self.world.work_one()

    def _lose(self, _: int) -> None:
        """The oldest piece of work ends with an error."""
        if self.world.works:
            work = self.world.works.popleft()
            self.world.feed(Failed(work, "the disk is tired"))

    def _tick(self, seconds: float) -> None:
        self.world.tick(seconds, work=False)

    def _crash(self, performed: bool) -> None:
        if performed:  # the disk had all of it, and nobody heard
            self.world.executor.perform(list(self.world.works))
        self.world.crash()

    def _cut(self, seconds: float) -> None:
        self.world.feed(LinkDown())
        self._tick(seconds)
        self.world.feed(LinkUp(False))

    def _leave(self, node: str) -> None:
        self.world.online(node, NodeStatus.OFFLINE)

    def _stop(self, _: int) -> None:
        self.world.ask(LearnVerb.STOP)

    def _reset(self, _: int) -> None:
        self.world.ask(LearnVerb.RESET)

    def end(self) -> None:
        """Peace comes: everybody is there and answers, and the disk works."""
        world = self.world
        for client in CLIENTS:
            world.online(client)
            world.feed(LearnerSeen(client, learner()))
        for _ in range(80):
            world.works_done()
            world.deliver_models()
            state = world.state()
            if state.closed:
                return
            if state.phase is Phase.ERROR:
                world.ask(LearnVerb.RESET)
            if world.fact().phase is Phase.TRAINING:
                world.everybody()
            world.tick(2.0)
        raise AssertionError(f"it never ends: {state}")

    def check(self) -> None:
        """What was said and what was kept agree."""
        world = self.world
        job = world.core.jobs[JOB_NAME]
        versions = [view.row.version for view in job.views]
        assert versions == list(range(1, len(versions) + 1)), "no round counts twice, and none is left out"
        for view in job.views:
            accepted = [row.client for row in view.clients if row.status == ReceiptStatus.ACCEPTED]
            assert set(accepted) <= set(CLIENTS), "no stranger counts"
            assert len(accepted) <= view.row.accepted
        told = Counter(
            (client, one.round, one.digest)
            for client, one in world.receipts
            if one.status is ReceiptStatus.ACCEPTED and one.digest != digest_of(b"")
        )
        attempts = world.state().attempt + sum("attempt" in view.row.detail for view in job.views)
        assert (not attempts and max(told.values(), default=1) == 1) or attempts


@given(
    kind=st.sampled_from(KINDS),
    history=st.lists(MOVES, max_size=40),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_ends_with_every_round_counted_once(kind, history):
    with TemporaryDirectory() as folder:
        story = Story(Path(folder), kind)
        try:
            for name, argument in history:
                story.move(name, argument)
            story.end()
            story.check()
        finally:
            story.world.executor.close()
