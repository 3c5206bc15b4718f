"""What data may be where, as a pure function of (policy, tag, place, action).

    value ──labels of its fields──> label ─┐
    key ──────[[data]] of the policy───────┴─> Tag ──decide(policy, tag, place, action)──> Decision
                                                            ^
                           where the node was enrolled ─────┘

The order of the questions is the order of :func:`decide`: a tag, still valid, for this purpose, a region that
the tag allows, no rule that forbids, one rule that permits. The first "no" is the answer, and no answer at
all is "no". So a new forbid can only take nodes away, and a new permit never undoes a tag.

A permit names the highest label that it covers, a forbid the lowest: a stricter label never opens a door. A
node of which we know less than a rule asks is treated as the worse of the two: enrolled as ``eu``, it is hit
by a forbid for ``eu/de`` and not helped by a permit for it; enrolled nowhere, every forbid with regions hits.

Source: default deny and "forbid overrides permit" as in Cedar (Cutler et al., OOPSLA 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from shared.tags import ANY, Label, Tag, outwards, touches, within

RULES_MAX = 200
REGIONS_MAX = 64  # of one tag or rule
NAMES_MAX = 1000  # of any other list of a rule
REGIONS_REMEMBERED_MAX = 4096


class Place(msgspec.Struct, frozen=True):
    """A node and where it was enrolled; ``region`` empty: nobody said.

    ``node`` empty: it may be any, as whoever hears what is said to all.
    """

    node: str
    region: str = ""


ANYBODY = Place("")
"""Who reads a topic that all may read. Only what may be everywhere can be said there."""


class Kind(StrEnum):
    """What the data is for the platform."""

    DATA = "data"
    MODEL = "model"
    CONFIG = "config"
    TELEMETRY = "telemetry"


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What is to happen: data of this key comes to a node, for a purpose, now."""

    key: str
    kind: Kind = Kind.DATA
    purpose: str = "operation"
    at_unix_s: float = 0.0


class Why(StrEnum):
    """Reason of a decision; the first question that was answered with no, or PERMITTED."""

    PERMITTED = "permitted"
    NO_TAG = "no-tag"
    EXPIRED = "expired"
    PURPOSE = "purpose"
    OUTSIDE = "outside"
    FORBIDDEN = "forbidden"
    NO_PERMIT = "no-permit"
    NO_POLICY = "no-policy"  # a device that was not told any yet
    NO_LOG = "no-log"  # the decision could not be written down
    UNREADABLE = "unreadable"  # a tag or a value that can't be looked through


class Decision(msgspec.Struct, frozen=True):
    """The answer. ``rule``: the name of the rule that decided, where one did. True when allowed."""

    allow: bool
    why: Why
    rule: str = ""
    policy: int = 0

    def __bool__(self) -> bool:
        return self.allow


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A permit or a forbid. Everything that it names narrows it; what is empty does not ask.

    ``label``: a permit covers it and all below, a forbid it and all above. ``regions``: of the node;
    ``homes``: of the data; ``keys``: exact, or a prefix that ends in ``*``.
    """

    name: str
    label: Label | None = None
    regions: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = ()
    purposes: tuple[str, ...] = ()


class DataClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[data]]``: which tag data with these keys gets. ``fields``: labels of single fields (``a.b`` for b
    inside of a); the label of a value is the highest of those that it has, at least ``label``."""

    keys: tuple[str, ...]
    label: Label
    home: str = ""
    allowed: tuple[str, ...] = ()
    purposes: tuple[str, ...] = (ANY,)
    expires_at_unix_s: float = 0.0
    fields: dict[str, Label] = {}


class View(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[view]]``: what of some data may be shown where the data itself may not.

    ``prefix`` + key is the view's own key: a reduced copy never comes back as the original. ``drop``: fields
    that are left out; ``pseudonym``: fields whose value becomes a keyed pseudonym, of label ``label_after``;
    ``allowed``: where the view may be, beside the home.
    """

    keys: tuple[str, ...]
    prefix: str
    drop: tuple[str, ...] = ()
    pseudonym: tuple[str, ...] = ()
    label_after: Label = Label.INTERNAL
    allowed: tuple[str, ...] = ()


class PolicyText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy as it is written and as it travels. ``regions``: the tree, each leaf or node as a path."""

    version: int
    regions: tuple[str, ...] = ()
    data: tuple[DataClass, ...] = ()
    permit: tuple[Rule, ...] = ()
    forbid: tuple[Rule, ...] = ()
    view: tuple[View, ...] = ()


# Decisions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Test:
    """A rule in the form that is quick to ask."""

    name: str
    regions: tuple[str, ...]
    within: frozenset[str]  # the regions, and
    around: frozenset[str]  # everything that they are inside of
    homes: tuple[str, ...]
    nodes: frozenset[str]
    kinds: frozenset[str]
    purposes: frozenset[str]
    any_key: bool
    keys: frozenset[str]
    prefixes: tuple[str, ...]

    def concerns(self, action: Action) -> bool:
        """The parts that a permit and a forbid read alike."""
        if self.purposes and action.purpose not in self.purposes:
            return False
        if self.kinds and action.kind not in self.kinds:
            return False
        return self.any_key or action.key in self.keys or action.key.startswith(self.prefixes)


def _test(rule: Rule) -> _Test:
    return _Test(
        rule.name,
        rule.regions,
        frozenset(rule.regions),
        frozenset(outer for one in rule.regions for outer in outwards(one)),
        rule.homes,
        frozenset(rule.nodes),
        frozenset(rule.kinds),
        frozenset(rule.purposes),
        not rule.keys,
        frozenset(key for key in rule.keys if not key.endswith(ANY)),
        tuple(key[:-1] for key in rule.keys if key.endswith(ANY)),
    )


_Tests = tuple[_Test, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A :class:`PolicyText` made ready for questions: which rules concern data of a label, where.

    ``by_region``: the forbids of a label that touch a region, remembered from question to question.
    """

    text: PolicyText
    forbids: Mapping[Label, _Tests]
    permits: Mapping[Label, _Tests]
    by_region: dict[tuple[Label, str], _Tests] = field(default_factory=dict, compare=False, repr=False)

    @property
    def version(self) -> int:
        """Only grows; the same number is the same policy."""
        return self.text.version

    def forbids_at(self, label: Label, region: str) -> _Tests:
        """The forbids that can't be excluded for a place in this region."""
        found = self.by_region.get((label, region))
        if found is None:
            outer = outwards(region)
            found = tuple(
                one
                for one in self.forbids[label]
                if not region or not one.regions or region in one.around or not one.within.isdisjoint(outer)
            )
            if len(self.by_region) >= REGIONS_REMEMBERED_MAX:
                self.by_region.clear()
            self.by_region[label, region] = found
        return found


def ready(text: PolicyText) -> Policy:
    """Prepare a policy for :func:`decide`."""
    forbids, permits = ([(rule.label, _test(rule)) for rule in rules] for rules in (text.forbid, text.permit))
    return Policy(
        text,
        {at: tuple(test for label, test in forbids if label is None or at >= label) for at in Label},
        {at: tuple(test for label, test in permits if label is None or at <= label) for at in Label},
    )


OPEN = ready(
    PolicyText(
        version=0,
        data=(DataClass(keys=(ANY,), label=Label.PUBLIC, allowed=(ANY,)),),
        permit=(Rule(name="no policy was written"),),
    )
)
"""What holds where nobody wrote a policy: all data are public. Its decisions are logged like any other."""


def decide(policy: Policy, tag: Tag | None, place: Place, action: Action) -> Decision:
    """Whether data with this tag may come to this place. Depends on nothing but its arguments."""
    why, rule = _judge(policy, tag, place, action)
    return Decision(why is Why.PERMITTED, why, rule, policy.text.version)


def _judge(policy: Policy, tag: Tag | None, place: Place, action: Action) -> tuple[Why, str]:
    if tag is None:
        return Why.NO_TAG, ""
    refused = _refused_by_tag(tag, place, action)
    if refused is not None:
        return refused, ""
    for rule in policy.forbids_at(tag.label, place.region):
        if rule.concerns(action) and _forbids(rule, tag, place):
            return Why.FORBIDDEN, rule.name
    for rule in policy.permits[tag.label]:
        if rule.concerns(action) and _permits(rule, tag, place):
            return Why.PERMITTED, rule.name
    return Why.NO_PERMIT, ""


def _refused_by_tag(tag: Tag, place: Place, action: Action) -> Why | None:
    if tag.expires_at_unix_s and action.at_unix_s >= tag.expires_at_unix_s:
        return Why.EXPIRED
    if ANY not in tag.purposes and action.purpose not in tag.purposes:
        return Why.PURPOSE
    if within(place.region, tag.home) or any(within(place.region, one) for one in tag.allowed):
        return None
    return Why.OUTSIDE


def _forbids(rule: _Test, tag: Tag, place: Place) -> bool:
    """Where it can't be excluded that the rule is meant, it is. (Its regions were looked at before.)"""
    return (not rule.homes or any(touches(tag.home, one) for one in rule.homes)) and (
        not rule.nodes or not place.node or place.node in rule.nodes
    )


def _permits(rule: _Test, tag: Tag, place: Place) -> bool:
    """Only where it is certain that the rule is meant."""
    return (
        (not rule.regions or any(within(place.region, one) for one in rule.regions))
        and (not rule.homes or any(within(tag.home, one) for one in rule.homes))
        and (not rule.nodes or place.node in rule.nodes)
    )


def matches_any(key: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern is the key, or ends in ``*`` and begins it."""
    return any(
        key.startswith(pattern[:-1]) if pattern.endswith(ANY) else key == pattern for pattern in patterns
    )
