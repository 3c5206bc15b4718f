"""Rows that belong to no capability's own vocabulary."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One artifact that can be deployed. ``manifest``: the signed manifest, packed."""

    name: str
    version: str
    digest: str
    size_bytes: int
    kind: str
    created_at_unix_s: float
    manifest: bytes


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A device that was seen, ``capabilities`` as in its birth."""

    node: str
    first_seen_unix_s: float
    last_epoch: int
    address: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    capabilities: dict[str, Any] = field(default_factory=dict)
