"""Events and effects of the rollout core."""

from dataclasses import dataclass

from cloud.facts import NodeChanged
from cloud.rollout.rules import Key, Rule
from shared.core import Failed, LinkDown, LinkUp, Tick, Work
from shared.messages import Deploy, DesiredModels, ReportedModels


@dataclass(frozen=True, slots=True)
class NodeDesired:
    """The orders of one node."""

    node: str
    desired: DesiredModels


@dataclass(frozen=True, slots=True)
class Deployed:
    """An application asks for a rule, or for its end."""

    app: str
    deploy: Deploy
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """The catalog holds one more version of a model, durably."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class ReportedSeen:
    """A device says what it holds, and which version of its orders it knows."""

    node: str
    reported: ReportedModels


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store held: the answer to :class:`Load`."""

    rules: tuple[Rule, ...]
    desired: tuple[NodeDesired, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """The :class:`Save` under way is durable."""


@dataclass(frozen=True, slots=True)
class Load(Work):
    """Read all rules and orders. Answer: :class:`Restored`."""


@dataclass(frozen=True, slots=True)
class Save(Work):
    """Make all of this durable in one transaction. Answer: :class:`Saved`."""

    rules: tuple[Rule, ...] = ()
    withdrawn: tuple[Key, ...] = ()
    desired: tuple[NodeDesired, ...] = ()


Event = (
    Deployed | ModelAdded | NodeChanged | ReportedSeen | Restored | Saved | Failed | LinkUp | LinkDown | Tick
)
