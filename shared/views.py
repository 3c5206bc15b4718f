"""What an operator reads: the bodies of replies to :class:`shared.messages.Query`, and the API's JSON.

Data only. Ages are seconds on the cloud's own clock.
"""

import msgspec

from shared.messages import Capabilities


class ModelOnNode(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one node, as the node reported it."""

    digest: str
    state: str


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node. ``why``: the evidence for ``status``, in words."""

    node: str
    status: str
    why: str
    suspect: bool
    draining: bool
    epoch: int
    address: str
    labels: dict[str, str]
    capabilities: Capabilities
    slots: int
    queue_depth: int
    in_flight: int
    cpu_ratio: float
    memory_available_bytes: int
    tasks: tuple[str, ...]
    models: dict[str, ModelOnNode]
    last_heartbeat_age_s: float | None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet in a few numbers. ``nodes``: count by status; ``models``: on how many nodes each is ready."""

    fleet: str
    term: int
    nodes: dict[str, int]
    cores: int
    memory_bytes: int
    slots: int
    in_flight: int
    cpu_ratio_mean: float
    models: dict[str, int]
    requests: dict[str, int]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model in the cloud's catalog."""

    name: str
    version: str
    digest: str
    kind: str
    size_bytes: int
    created_at_unix_s: float


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """One standing rule and how far the fleet is with it. ``failures``: node -> reason."""

    model: str
    version: str
    digest: str
    target: str
    nodes: tuple[str, ...]
    ready: int
    pending: int
    failures: dict[str, str]


class CandidateView(msgspec.Struct, frozen=True, kw_only=True):
    """One node that was considered for a request. ``score_s``: lower is better."""

    node: str
    score_s: float
    why: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request went where it went. ``excluded``: reason -> number of nodes."""

    request: str
    model: str
    chosen: str
    retried: bool
    candidates: tuple[CandidateView, ...]
    excluded: dict[str, int]
