"""The standing rules, and what they add up to for one node.

A rule puts one version of one model on every node that its target matches, now and later. Rules of one
model may overlap; the newest that matches a node governs it, so that "all get 1, site a gets 2" is two rules,
and withdrawing the second brings site a back to 1. A rule is known by its model and target: the same again
replaces it.

A fleet whose every device has a rule of its own is no rarity, so a rule is found by the nodes that its target
names; only those that mean more than names are tried one after the other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cloud.rollout.targets import Target, parse_target
from shared.errors import ShoalError
from shared.ids import is_id
from shared.messages import DesiredModel

RULES_MAX = 1000  # each adds at most one model to a node, so DESIRED stays under its size limit
CATALOG_MAX = 10_000
_SHOWN_MAX = 20

Key = tuple[str, str]  # model, canonical target


class NoSuchModel(ShoalError):
    """The catalog does not hold it; the message lists what it does."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``version`` and ``digest`` are pinned when the rule is made: an upload alone never moves the fleet.

    ``number`` grows with each rule made; the larger one is the newer. ``target`` is canonical.
    """

    number: int
    model: str
    target: str
    version: str
    digest: str
    created_at_unix_s: float = 0.0
    created_by: str = ""

    @property
    def key(self) -> Key:
        """What the rule is known by."""
        return self.model, self.target


class Catalog:
    """What can be deployed: model -> version -> digest, the version added last being the default."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, str]] = {}
        self._count = 0

    def add(self, name: str, version: str, digest: str) -> bool:
        """False: there is no room; nothing was added."""
        new = version not in self._versions.get(name, {})
        if new and self._count >= CATALOG_MAX:
            return False
        self._count += new
        versions = self._versions.setdefault(name, {})
        versions.pop(version, None)  # to the end: dictionaries keep the order of insertion
        versions[version] = digest
        return True

    def resolve(self, model: str) -> tuple[str, str, str]:
        """(name, version, digest) of ``name`` or ``name@version``. Raises :class:`NoSuchModel`."""
        name, at, version = model.partition("@")
        versions = self._versions.get(name)
        if versions is None:
            raise NoSuchModel(f"no model {name[:80]!r}; the catalog holds {_some(self._versions)}")
        if not at:
            version = next(reversed(versions))
        if version not in versions:
            raise NoSuchModel(f"no version {version[:80]!r} of {name}; there is {_some(versions)}")
        return name, version, versions[version]


class _ModelRules:
    """The rules of one model, oldest first: dictionaries keep the order of insertion."""

    def __init__(self) -> None:
        self.rules: dict[str, tuple[Rule, Target]] = {}
        self._named: dict[str, dict[str, Rule]] = {}  # node -> target -> rule
        self._broad: dict[str, tuple[Rule, Target]] = {}

    def put(self, rule: Rule, target: Target) -> None:
        self.withdraw(rule.target)
        self.rules[rule.target] = rule, target
        if target.everyone or target.selectors:
            self._broad[rule.target] = rule, target
        for node in target.nodes:
            self._named.setdefault(node, {})[rule.target] = rule

    def withdraw(self, target: str) -> None:
        found = self.rules.pop(target, None)
        if found is None:
            return
        self._broad.pop(target, None)
        for node in found[1].nodes:
            del self._named[node][target]
            if not self._named[node]:
                del self._named[node]

    def governing(self, node: str, labels: Mapping[str, str]) -> Rule | None:
        named = self._named.get(node)
        newest = next(reversed(named.values())) if named else None
        for rule, target in reversed(self._broad.values()):
            if newest is not None and rule.number < newest.number:
                break
            if target.matches(node, labels):
                return rule
        return newest


class RuleBook:
    """All rules by model, oldest first."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._models: dict[str, _ModelRules] = {}
        self.number = 0
        for rule in sorted(rules, key=lambda rule: rule.number):
            self.put(rule)

    def __len__(self) -> int:
        return sum(len(of.rules) for of in self._models.values())

    def __iter__(self) -> Iterator[Rule]:
        return (rule for of in self._models.values() for rule, _ in of.rules.values())

    @property
    def models(self) -> Iterable[str]:
        """Every model that has a rule."""
        return self._models.keys()

    def get(self, key: Key) -> Rule | None:
        """The rule, or None."""
        of = self._models.get(key[0])
        found = None if of is None else of.rules.get(key[1])
        return None if found is None else found[0]

    def of(self, model: str) -> list[Rule]:
        """The rules of one model, oldest first."""
        of = self._models.get(model)
        return [] if of is None else [rule for rule, _ in of.rules.values()]

    def put(self, rule: Rule) -> None:
        """Add the newest rule. Raises :class:`BadTarget`."""
        self._models.setdefault(rule.model, _ModelRules()).put(rule, parse_target(rule.target))
        self.number = max(self.number, rule.number)

    def withdraw(self, key: Key) -> None:
        """Drop a rule that is there."""
        model, target = key
        of = self._models[model]
        of.withdraw(target)
        if not of.rules:
            del self._models[model]

    def governing(self, model: str, node: str, labels: Mapping[str, str]) -> Rule | None:
        """The newest rule of a model that matches the node."""
        of = self._models.get(model)
        return None if of is None else of.governing(node, labels)

    def wanted(self, node: str, labels: Mapping[str, str]) -> dict[str, DesiredModel]:
        """Everything that the node is to hold, by model."""
        rules = (self.governing(model, node, labels) for model in self._models)
        return {rule.model: desired(rule) for rule in rules if rule is not None}


def desired(rule: Rule) -> DesiredModel:
    """What a rule puts on a node."""
    return DesiredModel(digest=rule.digest, version=rule.version)


def model_name(model: str) -> str:
    """The name in ``name`` or ``name@version``; empty when it can't name a model."""
    name = model.partition("@")[0]
    return name if is_id(name) else ""


def _some(names: Iterable[str]) -> str:
    every = sorted(names)
    more = f" and {len(every) - _SHOWN_MAX} more" if len(every) > _SHOWN_MAX else ""
    return (", ".join(every[:_SHOWN_MAX]) or "nothing yet") + more
