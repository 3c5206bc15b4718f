"""What the device knows of itself (examples, power, load), and what the cloud was told of it."""

from dataclasses import dataclass, field
from math import inf

from edge.training.events import Conditions, ReadConditions, ReadSources, SourcesRead
from shared.core import Effect, Ignore, Publish
from shared.learning import Learner, Source
from shared.topics import LEARNER

SOURCES_S = 30.0
CONDITIONS_S = 30.0
FRESH_S = 5.0


@dataclass(slots=True)
class Machine:
    """Readings are asked for once at a time; ``sources`` and ``conditions`` are None before the first."""

    node: str
    epoch: int
    room: int
    link: str
    online: bool = False
    sources: dict[str, Source] | None = None
    problems: dict[str, str] = field(default_factory=dict)
    conditions: Conditions | None = None
    read_at: float = -inf
    sources_due: float = -inf
    reading: set[type] = field(default_factory=set)
    told: Learner | None = None

    def linked(self, up: bool) -> None:
        """A broker may have lost what it had retained."""
        self.online, self.told = up, None

    def sources_read(self, event: SourcesRead) -> list[Effect]:
        """Each complaint is said once."""
        self.reading.discard(ReadSources)
        self.sources = dict(event.sources)
        news = {name: why for name, why in event.problems.items() if self.problems.get(name) != why}
        self.problems = dict(event.problems)
        return [Ignore(f"source {name}: {why}") for name, why in sorted(news.items())]

    def conditions_read(self, conditions: Conditions, now: float) -> None:
        """Power, load and time of day are these."""
        self.reading.discard(ReadConditions)
        self.conditions, self.read_at = conditions, now

    def fresh(self, now: float) -> Conditions | None:
        """Conditions that are good enough to decide by."""
        return self.conditions if now - self.read_at <= FRESH_S else None

    def tick(self, now: float) -> list[Effect]:
        """Look again from time to time."""
        effects: list[Effect] = []
        if now >= self.sources_due:
            self.sources_due = now + SOURCES_S
            effects += self.read(ReadSources())
        if now - self.read_at >= CONDITIONS_S:
            effects += self.read(ReadConditions())
        return effects

    def read(self, work: ReadConditions | ReadSources) -> list[Effect]:
        """Ask for a reading, unless one is on its way."""
        if type(work) in self.reading:
            return []
        self.reading.add(type(work))
        return [work]

    def tell(self, draining: bool) -> list[Effect]:
        """Retained, so only what is new; the charge in steps of a tenth."""
        if not self.online or self.sources is None or self.conditions is None:
            return []
        learner = Learner(
            epoch=self.epoch,
            sources=self.sources,
            room=0 if draining else self.room,
            power=self.conditions.power,
            battery_ratio=round(self.conditions.battery_ratio, 1),
            link=self.link,
        )
        if learner == self.told:
            return []
        self.told = learner
        return [Publish(LEARNER.at(node=self.node), learner)]
