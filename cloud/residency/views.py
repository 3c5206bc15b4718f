"""Residency as operators read it: from a running cloud, or from its files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cloud.residency import files
from cloud.residency.core import Residency
from cloud.residency.log import AuditLog
from shared.audit import Outcome, Point, Record, record_of
from shared.audit_views import PAGE_RECORDS, AuditPage, ProofView, ResidencyView, Ruling
from shared.carried import kind_of
from shared.classify import UNSEEN, tag_of
from shared.judged import judged
from shared.residency import Action, Place, PolicyText, decide, matches_any, ready
from shared.tags import ANY, Tag
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

    The newest answer for each key and place. The log holds no values: data are taken to have the label that
    they had, where this policy can give it to the key, and every field that the policy names otherwise.
    """
    newest: dict[tuple[str, Place], tuple[Record, Outcome]] = {}
    for record in records:
        if record.action is None or record.point not in (Point.SELECT, Point.PUBLISH, Point.RECEIVE):
            continue
        for outcome in record.outcomes:
            for place in outcome.places:
                key = record.action.key.replace(f"/{ANY}/", f"/{place.node}/", 1)
                newest[key, place] = (record, outcome)
    policy = ready(text)
    found = []
    for (key, place), (record, outcome) in sorted(newest.items(), key=_by_key_and_node):
        action = Action(key=key, kind=kind_of(key), at_unix_s=at_unix_s)
        answer = decide(policy, _tag_again(text, key, record.tag), place, action)
        before = "allowed" if outcome.allow else str(outcome.why)
        found.append(
            Ruling(
                key=key,
                node=place.node,
                region=place.region,
                allow=answer.allow,
                why=answer.why,
                rule=answer.rule,
                before=before,
            )
        )
    return found


def _by_key_and_node(item: tuple[tuple[str, Place], object]) -> tuple[str, str, str]:
    (key, place), _ = item
    return key, place.node, place.region


def _tag_again(text: PolicyText, key: str, before: Tag | None) -> Tag | None:
    worst, least = tag_of(text, key), tag_of(text, key, None)
    if worst is None or least is None or before is None:
        return worst
    classes = [one for one in text.data if matches_any(key, one.keys)]
    possible = {least.label, *(label for one in classes for label in one.fields.values())}
    if before.label in possible and before.label >= least.label:
        return msgspec.structs.replace(worst, label=before.label)
    return worst


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
