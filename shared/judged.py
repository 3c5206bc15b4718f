"""One question and its answer, asked alike by the cloud's gate and the device's.

The tag of data is what its writer said, under what the policy says of its key: both bind. A writer may make
data stricter and never laxer.
"""

from functools import lru_cache
from typing import Any

import msgspec

from shared.carried import Item, kind_of
from shared.classify import UNSEEN, TooDeep, tag_of
from shared.parcels import head_of
from shared.residency import Action, Decision, Place, Policy, PolicyText, Why, decide
from shared.sync import Decision as SyncDecision
from shared.tags import ANY, Tag, inherited, within

_tags = msgspec.msgpack.Decoder(Tag)


class Judged(SyncDecision, frozen=True, kw_only=True):
    """An answer for the sync core, with everything that the log wants to know of it."""

    decision: Decision
    tag: Tag | None
    place: Place
    action: Action


def judged(
    policy: Policy, place: Place, key: str, at_unix_s: float, *, tag: bytes = b"", value: Any = UNSEEN
) -> Judged:
    """May data of this key, with this packed tag of its writer, come to this place?

    A part of a large value is asked for under the key of the whole.
    """
    key = head_of(key) or key
    action = Action(key=key, kind=kind_of(key), at_unix_s=at_unix_s)
    try:
        found = effective_tag(policy.text, key, value, unpacked_tag(tag))
    except (msgspec.MsgspecError, UnicodeDecodeError, TooDeep):
        return refused(policy, place, action, Why.UNREADABLE)
    return _answer(decide(policy, found, place, action), found, place, action)


def refused(policy: Policy, place: Place, action: Action, why: Why, tag: Tag | None = None) -> Judged:
    """No, for a reason that is not the policy's."""
    return _answer(Decision(False, why, "", policy.version), tag, place, action)


def _answer(decision: Decision, tag: Tag | None, place: Place, action: Action) -> Judged:
    reason = f"{decision.why}: {decision.rule}" if decision.rule else str(decision.why)
    return Judged(
        allowed=decision.allow, reason=reason, decision=decision, tag=tag, place=place, action=action
    )


def effective_tag(policy: PolicyText, key: str, value: Any, given: Tag | None) -> Tag | None:
    """What the policy says of the key, under what the writer said. Raises :class:`TooDeep`.

    Where nobody has looked at the value, its writer's label is that of its fields: see :func:`stamped`.
    """
    of_key = tag_of(policy, key, None if value is UNSEEN and given is not None else value)
    if given is None or of_key is None:
        return given or of_key
    both = inherited([of_key, given])
    if both is not None and not given.home and any(within(of_key.home, one) for one in given.regions):
        return msgspec.structs.replace(both, home=of_key.home)  # the writer had no opinion
    return both


def stamped(policy: PolicyText, key: str, value: Any, given: Tag | None) -> Tag | None:
    """What a write takes along: what its writer said, with the label of the fields that it really has.

    Regions and purposes stay with the policy, which may change. Raises :class:`TooDeep`.
    """
    found = effective_tag(policy, head_of(key) or key, value, given)
    if found is None:
        return given
    return msgspec.structs.replace(given or Tag(label=found.label, allowed=(ANY,)), label=found.label)


@lru_cache(maxsize=4096)
def unpacked_tag(tag: bytes) -> Tag | None:
    """The tag that a writer gave; None where it gave none. Raises ``msgspec.MsgspecError``."""
    return _tags.decode(tag) if tag else None


def value_in(item: Item) -> Any:
    """What is on its way, for a look at its fields; unseen where it can't be read."""
    try:
        return item.value() if item.writes else UNSEEN
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return UNSEEN
