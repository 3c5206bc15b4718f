"""Who could be asked, and who is: eligibility by what devices and the registry say, a draw from a seed.

A draw gives each candidate the number ``u ** (1 / weight)``, u from a hash of seed, job, round, attempt and
name, and takes the largest (Efraimidis and Spirakis 2006): the same seed asks the same devices, on any
machine, whatever order they registered in. The weight grows with the rounds since a client took part, and
falls with an empty battery. The amount of data is not in it: averaging weighs by that already.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from cloud.facts import NodeFact, NodeStatus
from shared.learning import Criteria, JobSpec, Learner, Power

LEARNERS_MAX = 16_384
IDLE_ROUNDS_MAX = 4
BATTERY_WEIGHT_MIN = 0.1


@dataclass(slots=True)
class Fleet:
    """``apps``: who speaks for a client without MQTT. A node that the registry calls UNKNOWN is not offline:
    it is asked like any other, and its silence costs what any silence costs."""

    learners: dict[str, Learner] = field(default_factory=dict)
    facts: dict[str, NodeFact] = field(default_factory=dict)
    apps: dict[str, str] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    seen_at: dict[str, float] = field(default_factory=dict)

    def learn(self, client: str, learner: Learner, now: float) -> str:
        """What it says holds from now on; or why not."""
        known = self.learners.get(client)
        if known is None and len(self.learners) >= LEARNERS_MAX:
            return f"{LEARNERS_MAX} learners are known; no room for {client}"
        if known is not None and learner.epoch < known.epoch:
            return f"{client} says what it said before its last start"
        self.learners[client] = learner
        self.seen_at[client] = now
        return ""

    def forget(self, client: str) -> None:
        """It is off the books."""
        for book in (self.learners, self.facts, self.apps, self.accepted, self.rejected, self.seen_at):
            book.pop(client, None)

    def candidates(self, spec: JobSpec, busy: Mapping[str, int]) -> list[str]:
        """Everybody who may be asked to train now, by name. A gateway answers for others only."""
        return sorted(
            client
            for client, learner in self.learners.items()
            if client not in spec.gateways
            and busy.get(client, 0) < learner.room
            and self._fits(client, learner, spec)
        )

    def evaluators(self, spec: JobSpec, clients: Iterable[str]) -> list[str]:
        """Of these, those with held-out examples, by name."""
        return sorted(client for client in clients if self._held_out(client, spec))

    def _held_out(self, client: str, spec: JobSpec) -> bool:
        learner = self.learners.get(client)
        source = learner.sources.get(spec.plan.source) if learner else None
        return source is not None and source.held_out > 0

    def _fits(self, client: str, learner: Learner, spec: JobSpec) -> bool:
        criteria, source = spec.criteria, learner.sources.get(spec.plan.source)
        if source is None or source.samples < max(1, criteria.samples_min):
            return False
        if criteria.nodes and client not in criteria.nodes:
            return False
        if spec.link_codecs.get(learner.link, spec.codec).name not in learner.codecs:
            return False
        return _powered(learner, criteria) and self._there(client, criteria)

    def _there(self, client: str, criteria: Criteria) -> bool:
        fact = self.facts.get(client)
        if fact is None:  # not a node, or one of which the registry knows nothing yet
            return not criteria.labels and not criteria.memory_bytes_min
        if fact.status is NodeStatus.OFFLINE or fact.draining:
            return False
        if fact.capabilities.memory_bytes < criteria.memory_bytes_min:
            return False
        return all(fact.labels.get(name) == value for name, value in criteria.labels.items())

    def weight(self, client: str, idle_rounds: int) -> float:
        """How readily it is drawn."""
        learner = self.learners[client]
        charge = 1.0 if learner.power is not Power.BATTERY else learner.battery_ratio
        idle = min(max(idle_rounds, 1), IDLE_ROUNDS_MAX)
        return max(BATTERY_WEIGHT_MIN, min(charge, 1.0)) * idle


def _powered(learner: Learner, criteria: Criteria) -> bool:
    if criteria.ac_only and learner.power is not Power.AC:
        return False
    return learner.power is not Power.BATTERY or learner.battery_ratio >= criteria.battery_ratio_min


def draw(weights: Mapping[str, float], count: int, seed: str) -> tuple[str, ...]:
    """``count`` of the candidates, by name; all of them where there are no more."""
    if len(weights) <= count:
        return tuple(sorted(weights))
    keys = {name: _uniform(f"{seed}/{name}") ** (1.0 / weight) for name, weight in weights.items()}
    return tuple(sorted(sorted(keys, key=lambda name: (-keys[name], name))[:count]))


def _uniform(text: str) -> float:
    """In (0, 1)."""
    return (int.from_bytes(sha256(text.encode()).digest()[:7], "big") + 0.5) / 2**56


def codecs_of(spec: JobSpec, gateways: bool) -> frozenset[str]:
    """How an update of this job may be written."""
    names: Collection[str] = {spec.codec.name, *(one.name for one in spec.link_codecs.values())}
    return frozenset({*names, *(("sum",) if gateways else ())})
