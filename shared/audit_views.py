"""What an operator reads about residency: bodies of replies to queries, and the API's JSON. Data only."""

import msgspec

from shared.audit import Record
from shared.residency import PolicyText
from shared.transparency import Head

PAGE_RECORDS = 100


class ResidencyView(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force. ``places``: node -> region, at most the first 1,000 of ``enrolled``; ``records``: of
    the audit log; ``waiting``: not durable yet; ``withheld``: messages that were not published."""

    policy: PolicyText
    cloud_region: str
    enrolled: int
    places: dict[str, str]
    records: int
    waiting: int
    withheld: int
    head: Head | None
    alarms: tuple[str, ...]


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some records, in order, of so many."""

    size: int
    head: Head | None
    records: tuple[Record, ...]


class ProofView(msgspec.Struct, frozen=True, kw_only=True):
    """A proof for whoever holds a head: hashes in hex, from the bottom up.

    Inclusion: ``record`` (``index``) is in the tree of ``size``. Consistency: the tree of ``old`` records is
    the beginning of it; ``root`` and ``old_root`` are what the hashes lead to.
    """

    size: int
    root: str
    path: tuple[str, ...]
    index: int = -1
    record: Record | None = None
    leaf: str = ""
    old: int = -1
    old_root: str = ""


class Ruling(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy says of one key at one place. ``before``: what the log says it was answered."""

    key: str
    node: str
    region: str
    allow: bool
    why: str
    rule: str = ""
    before: str = ""
