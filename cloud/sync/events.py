"""What the sync core hears (past tense) and what it wants done (imperative)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloud.facts import NodeChanged, NodeForgotten
from cloud.sync.records import NodeMemory, Record, SyncTask
from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.sync import Decision, Setting, SyncAsk, SyncMessage


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store held: the answer to :class:`Load`. ``cleared``: rounds of forgotten tombstones;
    ``stamp``: the newest that was ever given, also to what is not there any more."""

    records: tuple[Record, ...] = field(default=(), repr=False)
    tasks: tuple[SyncTask, ...] = field(default=(), repr=False)
    nodes: Mapping[str, NodeMemory] = field(default_factory=dict)
    cleared: int = 0
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """An application asks. ``unix_ms``: the wall clock when it was heard."""

    app: str
    ask: SyncAsk
    unix_ms: int


@dataclass(frozen=True, slots=True)
class MessageHeard:
    """A device speaks on its sync topic."""

    node: str
    message: SyncMessage
    unix_ms: int


@dataclass(frozen=True, slots=True)
class ReportedHeard:
    """A device reports one key of its configuration."""

    node: str
    key: str
    setting: Setting
    unix_ms: int


@dataclass(frozen=True, slots=True)
class Saved:
    """The :class:`Save` under way is durable."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """The store belongs to a newer term: nothing was saved, and nothing will be."""

    term: int


@dataclass(frozen=True, slots=True)
class ModelDeployed:
    """The standing rule of a model is durable. ``digest``: of the artifact."""

    task_id: str
    digest: str


Event = (
    Restored
    | Asked
    | MessageHeard
    | ReportedHeard
    | NodeChanged
    | NodeForgotten
    | Saved
    | Fenced
    | ModelDeployed
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)


@dataclass(frozen=True, slots=True)
class Load(Work):
    """Read everything of this capability. Answer: :class:`Restored`."""


@dataclass(frozen=True, slots=True)
class Save(Work):
    """Make all of it durable in one transaction, if the store's newest term is still ``term``.

    Answer: :class:`Saved`, or :class:`Fenced`. With nothing to write it only confirms the term: that is how
    a STRONG read learns that nobody else serves meanwhile.
    """

    term: int
    records: tuple[Record, ...] = field(default=(), repr=False)
    forgotten: tuple[str, ...] = ()
    tasks: tuple[SyncTask, ...] = field(default=(), repr=False)
    tasks_forgotten: tuple[str, ...] = ()
    nodes: Mapping[str, NodeMemory] = field(default_factory=dict)
    cleared: int = 0
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class DeployModel(Work):
    """Make it a standing rule that these nodes hold the model. Answer: :class:`ModelDeployed`."""

    task_id: str
    model: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decided(Effect):
    """The gate was asked: for the audit log."""

    node: str
    name: str
    action: str
    decision: Decision
