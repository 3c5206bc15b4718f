"""Any history of deployments, joins, outages, failing saves and restarts ends with every node right."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.facts import NodeChanged, NodeFact, NodeForgotten, NodeStatus
from cloud.rollout.core import Phase, Rollout
from cloud.rollout.events import Deployed, Load, ModelAdded, NodeDesired, ReportedSeen, Restored, Save, Saved
from cloud.rollout.rules import Key, Rule
from shared.core import Failed, LinkDown, LinkUp, Publish, Tick
from shared.deploys import DeployResult
from shared.messages import Deploy, DesiredModels, Reply, ReplyStatus, ReportedModels
from shared.wire import unpacked

MODELS = ("cat", "dog")
NODES = ("n1", "n2", "n3", "n4")
TARGETS = ("all", "n1", "n2,n3", "site=a", "site=a+gpu=yes", "site=b,n1")
LABELS = ({}, {"site": "a"}, {"site": "b"}, {"site": "a", "gpu": "yes"})


@dataclass
class World:
    """A store that may fail or be cut off, a broker that retains, and the core between them."""

    core: Rollout = field(default_factory=Rollout)
    rules: dict[Key, Rule] = field(default_factory=dict)
    desired: dict[str, DesiredModels] = field(default_factory=dict)
    stored: dict[str, list[DesiredModels]] = field(default_factory=dict)  # all that ``desired`` ever held
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    retained: dict[str, DesiredModels] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: {"cat": 0, "dog": 0})
    work: Load | Save | None = None
    now: float = 0.0
    asked: int = 0
    answered: set[str] = field(default_factory=set)

    def feed(self, event: object) -> None:
        self.now += 1.0
        effects = self.core.step(event, self.now)  # type: ignore[arg-type]
        self.core.check()
        for effect in effects:
            match effect:
                case Load() | Save():
                    assert self.work is None, "one piece of work at a time"
                    self.work = effect
                case Publish(to, DesiredModels() as orders):
                    self.retain(to.name.split("/")[1], orders)
                case Publish(_, Reply() as reply):
                    self.answer(reply)

    def retain(self, node: str, orders: DesiredModels) -> None:
        assert orders in self.stored[node], "only what was saved is published"
        before = self.retained.get(node)
        if before is not None:
            assert orders.version >= before.version
            assert orders.version > before.version or orders == before
        self.retained[node] = orders

    def answer(self, reply: Reply) -> None:
        assert reply.correlation not in self.answered, "one reply to a request"
        self.answered.add(reply.correlation)
        if reply.status is ReplyStatus.OK:
            result = unpacked(reply.body, DeployResult)
            assert result.model in MODELS

    # What may happen --------------------------------------------------------------------------------

    def commit(self) -> None:
        if isinstance(self.work, Save):
            self.rules.update((rule.key, rule) for rule in self.work.rules)
            for key in self.work.withdrawn:
                self.rules.pop(key, None)
            for one in self.work.desired:
                self.desired[one.node] = one.desired
                self.stored.setdefault(one.node, []).append(one.desired)

    def finish(self, *, committed: bool = True, told: bool = True) -> None:
        """The work under way ends: well; with an error; with an error although it was done; unheard."""
        work = self.work
        if committed:
            self.commit()
        self.work = None
        if work is None:
            return
        if not (committed and told):
            self.feed(Failed(work, "broken disk"))
        elif isinstance(work, Save):
            self.feed(Saved())
        else:
            stored = tuple(NodeDesired(node, orders) for node, orders in self.desired.items())
            self.feed(Restored(tuple(self.rules.values()), stored))

    def restart(self, *, committed: bool) -> None:
        if committed:
            self.commit()
        self.work, self.core, self.answered = None, Rollout(), set()
        for name, version in self.versions.items():
            if version:
                self.feed(ModelAdded(name, str(version), f"{name}-{version}"))
        for node in self.labels:
            self.join(node, self.labels[node])

    def join(self, node: str, labels: dict[str, str]) -> None:
        self.labels[node] = labels
        self.feed(NodeChanged(NodeFact(node=node, epoch=1, status=NodeStatus.IDLE, labels=labels)))

    def forget(self, node: str) -> None:
        self.labels.pop(node, None)
        self.feed(NodeForgotten(node))

    def upload(self, model: str) -> None:
        self.versions[model] += 1
        version = self.versions[model]
        self.feed(ModelAdded(model, str(version), f"{model}-{version}"))

    def deploy(self, model: str, target: str, remove: bool) -> None:
        self.asked += 1
        request = Deploy(correlation=str(self.asked), budget_s=8.0, model=model, target=target, remove=remove)
        self.feed(Deployed("cli", request, at_unix_s=self.now))

    def report(self, node: str, ahead: int) -> None:
        known = self.retained[node].version if node in self.retained else 0
        self.feed(ReportedSeen(node, ReportedModels(epoch=1, version=max(0, known + ahead), models={})))

    def settle(self) -> None:
        """Everything works again, for long enough."""
        self.feed(LinkUp(resumed=False))
        for _ in range(4):
            self.feed(Tick())
            while self.work is not None:
                self.finish()
        assert self.core.phase is Phase.SETTLED

    def held(self, node: str) -> dict[str, str]:
        """Digest by model, from what a device that connects now is told."""
        orders = self.retained.get(node)
        return {} if orders is None else {name: one.digest for name, one in orders.models.items()}

    def fleet_is_told(self) -> dict[str, DesiredModels]:
        """What is retained for the nodes of the fleet.

        Not for those that were taken off the books: one that was while its orders were on their way to a disk
        that did not answer hears of them only after a restart, when all that is stored is told.
        """
        return {node: orders for node, orders in self.retained.items() if node in self.labels}

    def naively(self, node: str) -> dict[str, str]:
        """Digest by model, from what the store holds: go through the rules in order, the last one wins."""
        models = {}
        for rule in sorted(self.rules.values(), key=lambda rule: rule.number):
            for term in rule.target.split(","):
                pairs = [pair.split("=") for pair in term.split("+") if "=" in pair]
                if term in ("all", node) or (pairs and all(self.labels[node].get(k) == v for k, v in pairs)):
                    models[rule.model] = rule.digest
        return models


nodes, models = st.sampled_from(NODES), st.sampled_from(MODELS)
actions = st.one_of(
    st.builds(lambda node, labels: ("join", (node, labels)), nodes, st.sampled_from(LABELS)),
    st.builds(lambda node: ("forget", (node,)), nodes),
    st.builds(lambda model: ("upload", (model,)), models),
    st.builds(lambda *request: ("deploy", request), models, st.sampled_from(TARGETS), st.booleans()),
    st.builds(lambda node, ahead: ("report", (node, ahead)), nodes, st.integers(-1, 2)),
    st.sampled_from([("feed", (Tick(),)), ("feed", (LinkUp(False),)), ("feed", (LinkDown(),))]),
    st.just(("finish", ())),
)
failures = st.one_of(
    st.builds(lambda yes: ("finish", {"committed": yes, "told": False}), st.booleans()),
    st.builds(lambda yes: ("restart", {"committed": yes}), st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(actions, actions, actions, failures), max_size=60))
def test_every_history_ends_with_every_node_holding_what_the_rules_say(history):
    world = World()
    world.settle()
    for name, arguments in history:
        if isinstance(arguments, dict):
            getattr(world, name)(**arguments)
        else:
            getattr(world, name)(*arguments)
    world.settle()
    for node in world.labels:
        assert world.held(node) == world.naively(node), node
    world.restart(committed=False)
    before = world.fleet_is_told()
    world.settle()
    assert world.fleet_is_told() == before, "a restart alone changes nothing"


def stumble(world: World, chance: Random) -> None:
    """One step of a world in which everything goes wrong now and then."""
    acts: list[tuple[int, Callable[[], None]]] = [
        (3, lambda: world.deploy(chance.choice(MODELS), chance.choice(TARGETS), chance.random() < 0.3)),
        (3, lambda: world.finish()),
        (1, lambda: world.finish(committed=chance.random() < 0.5, told=False)),
        (1, lambda: world.join(chance.choice(NODES), chance.choice(LABELS))),
        (1, lambda: world.upload(chance.choice(MODELS))),
        (2, lambda: world.feed(chance.choice([Tick(), LinkUp(False), LinkDown()]))),
        (1, lambda: world.restart(committed=chance.random() < 0.5) if chance.random() < 0.1 else None),
    ]
    weights, functions = zip(*acts, strict=True)
    chance.choices(functions, weights)[0]()


@pytest.mark.parametrize("seed", range(20))
def test_a_long_history_ends_right_too(seed):
    chance, world = Random(seed), World()
    world.settle()
    for _ in range(300):
        stumble(world, chance)
    world.settle()
    assert all(world.held(node) == world.naively(node) for node in world.labels)
