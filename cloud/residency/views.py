"""Residency as operators read it: from a running cloud, or from its files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud.residency import files
from cloud.residency.core import Residency
from cloud.residency.log import AuditLog
from shared.audit import Point, Record, record_of
from shared.audit_views import PAGE_RECORDS, AuditPage, ProofView, ResidencyView, Ruling
from shared.classify import UNSEEN
from shared.judged import judged
from shared.residency import Place, PolicyText, ready
from shared.transparency import (
    consistency_path,
    inclusion_path,
    leaf_hash,
    root_of,
    subtrees,
)

PLACES_SHOWN_MAX = 1000


class NoSuchRecord(LookupError):
    """There is no such record, or no such number of them."""


# A running cloud ------------------------------------------------------------------------------------


def page_of(audit: AuditLog, first: int) -> AuditPage:
    """Up to 100 records from ``first`` on; a negative one counts from the end."""
    size = audit.size
    if first < 0:
        first = max(0, size + first)
    lines = audit.lines(first, PAGE_RECORDS)
    return AuditPage(size=size, head=audit.head, records=tuple(map(record_of, lines)))


def proof_of(audit: AuditLog, question: str) -> ProofView:
    """``inclusion:INDEX:SIZE`` or ``consistency:OLD:SIZE``; SIZE 0: of the newest head.

    Raises :class:`NoSuchRecord` when it can't be proved, or can't be read.
    """
    try:
        kind, first, size_text = question.split(":")
        number, size = int(first), int(size_text) or (audit.head.size if audit.head else 0)
        if kind == "inclusion":
            path = audit.inclusion(number, size)
            line = audit.lines(number, 1)[0]
            return _inclusion(line, number, size, path, audit.root(size))
        if kind != "consistency":
            raise ValueError(f"{kind[:40]!r} is neither inclusion nor consistency")
        path = audit.consistency(number, size)
        return _consistency(number, size, path, audit.root(number), audit.root(size))
    except ValueError as error:
        raise NoSuchRecord(str(error)) from None


def _inclusion(line: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> ProofView:
    return ProofView(
        size=size,
        root=root.hex(),
        path=tuple(one.hex() for one in path),
        index=index,
        record=record_of(line),
        leaf=leaf_hash(line).hex(),
    )


def _consistency(old: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes) -> ProofView:
    return ProofView(
        size=size,
        root=root.hex(),
        path=tuple(one.hex() for one in path),
        old=old,
        old_root=old_root.hex(),
    )


# Files ----------------------------------------------------------------------------------------------


def prove_from(folder: Path, *, index: int | None = None, old: int | None = None, size: int = 0) -> ProofView:
    """As :func:`proof_of`, from a log's files. ``size`` 0: all that is there."""
    lines = list(files.all_lines(folder))[: size or None]
    leaves = [leaf_hash(line) for line in lines]
    try:
        if size > len(lines):
            raise ValueError(f"the log has {len(lines)} records, not {size}")
        if index is not None:
            path = inclusion_path(index, len(leaves), subtrees(leaves))
            return _inclusion(lines[index], index, len(leaves), path, root_of(leaves))
        path = consistency_path(old or 0, len(leaves), subtrees(leaves))
        return _consistency(old or 0, len(leaves), path, root_of(leaves[:old]), root_of(leaves))
    except ValueError as error:
        raise NoSuchRecord(str(error)) from None


# What would be --------------------------------------------------------------------------------------


def rulings(
    text: PolicyText,
    key: str,
    places: Iterable[Place],
    at_unix_s: float,
    value: Any = UNSEEN,
) -> list[Ruling]:
    """What a policy says of one key at each of these places."""
    policy = ready(text)
    return [
        Ruling(
            key=key,
            node=place.node,
            region=place.region,
            allow=answer.allowed,
            why=answer.decision.why,
            rule=answer.decision.rule,
        )
        for place in places
        for answer in [judged(policy, place, key, at_unix_s, value=value)]
    ]


def dry_run(text: PolicyText, records: Iterable[Record], at_unix_s: float) -> list[Ruling]:
    """What would have gone where: each question that the log holds, asked of another policy.

    The newest answer for each key and place. The log holds no values, so data are taken to have every field
    that the policy names: where the answer differs from the log's, real data may do better, never worse.
    """
    newest: dict[tuple[str, Place], tuple[bool, str]] = {}
    for record in records:
        if record.action is None or record.point not in (Point.SELECT, Point.PUBLISH, Point.RECEIVE):
            continue
        for outcome in record.outcomes:
            for place in outcome.places:
                newest[record.action.key, place] = (outcome.allow, str(outcome.why))
    return list(_asked_again(text, newest, at_unix_s))


def _asked_again(
    text: PolicyText, newest: Mapping[tuple[str, Place], tuple[bool, str]], at_unix_s: float
) -> Iterator[Ruling]:
    policy = ready(text)
    for (key, place), (allowed, why) in sorted(
        newest.items(), key=lambda item: (item[0][0], item[0][1].node)
    ):
        answer = judged(policy, place, key, at_unix_s)
        yield Ruling(
            key=key,
            node=place.node,
            region=place.region,
            allow=answer.allowed,
            why=answer.decision.why,
            rule=answer.decision.rule,
            before="allowed" if allowed else why,
        )


def shown_places(regions: Mapping[str, str]) -> dict[str, str]:
    """The first ones by name."""
    return {node: regions[node] for node in sorted(regions)[:PLACES_SHOWN_MAX]}


def residency_view(core: Residency, withheld: int) -> ResidencyView:
    """What is in force, of a core."""
    return ResidencyView(
        policy=core.policy.text,
        cloud_region=core.cloud_region,
        enrolled=len(core.regions),
        places=shown_places(core.regions),
        records=core.size,
        waiting=len(core.queue) + len(core.appending),
        withheld=withheld,
        head=core.head.head if core.head else None,
        alarms=tuple(core.alarms),
    )
