"""A policy as a person writes it: TOML, checked as a whole before any of it holds.

version = 3                              # grows with every change; the log says when each came into force
regions = ["eu/de/berlin", "eu/fr", "us"]    # the tree; a region that is not in it is a spelling mistake

[[data]]                                 # which tag data get, by key
keys = ["patients/*"]
label = "internal"                       # of every field that is not named below
home = "eu/de"
allowed = ["eu"]                         # where they may be beside their home
purposes = ["operation"]
fields = { name = "personal", "visits.diagnosis" = "sensitive" }

[[permit]]                               # nothing is allowed that no permit allows
name = "Europe"
label = "sensitive"                      # up to
regions = ["eu"]

[[forbid]]                               # and no permit helps against a forbid
name = "no diagnoses in France"
label = "sensitive"                      # from
regions = ["eu/fr"]

[[view]]                                 # what may be shown where the data may not be
keys = ["patients/*"]
prefix = "study/"                        # patients/7 is shown as study/patients/7
drop = ["name", "visits.diagnosis"]
pseudonym = ["insurance"]
allowed = ["us"]
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from shared.errors import ConfigError
from shared.ids import is_id
from shared.residency import NAMES_MAX, REGIONS_MAX, RULES_MAX, DataClass, PolicyText, Rule, View
from shared.tags import ANY, is_region

POLICY_BYTES_MAX = 256 * 1024
CLASSES_MAX = 500


def read_policy(path: Path) -> PolicyText:
    """The policy in a file. Raises :class:`ConfigError` that says what is wrong and where."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read the policy {path}: {error.strerror}") from None
    if len(data) > POLICY_BYTES_MAX:
        raise ConfigError(f"the policy {path} has {len(data)} bytes; at most {POLICY_BYTES_MAX} are read")
    try:
        return parse_policy(data.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"the policy {path} is not UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"the policy {path}: {error}") from None


def parse_policy(toml: str) -> PolicyText:
    """As :func:`read_policy`, from its text."""
    try:
        text = msgspec.convert(tomllib.loads(toml), PolicyText)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None
    for complaint in _complaints(text):
        raise ConfigError(complaint)
    return text


def known_regions(paths: Iterable[str]) -> frozenset[str]:
    """Every node of the tree: ``eu/de`` also means ``eu``."""
    levels = (path.split("/") for path in paths)
    return frozenset("/".join(one[:depth]) for one in levels for depth in range(1, len(one) + 1))


def _complaints(text: PolicyText) -> Iterator[str]:
    yield from _about_all(text)
    tree, rules = known_regions(text.regions), (*text.permit, *text.forbid)
    names = Counter(rule.name for rule in rules)
    for name, count in names.items():
        if not name or count > 1:
            yield f"rule {name!r}: every rule needs a name of its own, for the log names it"
    for rule in rules:
        yield from (f"rule {rule.name!r}: {one}" for one in _about_rule(rule, tree))
    for number, data in enumerate(text.data, 1):
        yield from (f"[[data]] number {number}: {one}" for one in _about_data(data, tree))
    for number, view in enumerate(text.view, 1):
        yield from (f"[[view]] number {number}: {one}" for one in _about_view(view, tree))


def _about_all(text: PolicyText) -> Iterator[str]:
    if text.version < 1:
        yield "version must be at least 1, and grow with every change"
    if not text.permit:
        yield "there is no [[permit]]: nothing would be allowed anywhere"
    bad = [path for path in text.regions if not is_region(path) or path == ANY]
    if bad:
        yield f"regions: {bad[0]!r} is not a region; write ids with slashes between them, like eu/de/berlin"
    if len(text.permit) + len(text.forbid) > RULES_MAX:
        yield f"{len(text.permit) + len(text.forbid)} rules; at most {RULES_MAX}"
    if len(text.data) + len(text.view) > CLASSES_MAX:
        yield f"{len(text.data) + len(text.view)} [[data]] and [[view]]; at most {CLASSES_MAX}"


def _about_rule(rule: Rule, tree: frozenset[str]) -> Iterator[str]:
    yield from _about_regions((*rule.regions, *rule.homes), tree)
    yield from _about_keys(rule.keys)
    if max(len(rule.nodes), len(rule.purposes)) > NAMES_MAX:
        yield f"at most {NAMES_MAX} names in a list"
    yield from (f"{node!r} is not a node's id" for node in rule.nodes if not is_id(node))


def _about_data(data: DataClass, tree: frozenset[str]) -> Iterator[str]:
    if not data.keys:
        yield "keys are missing"
    if not data.home and not data.allowed:
        yield "without home and allowed these data could be nowhere"
    yield from _about_regions((*((data.home,) if data.home else ()), *data.allowed), tree)
    yield from _about_keys(data.keys)


def _about_view(view: View, tree: frozenset[str]) -> Iterator[str]:
    if not view.keys or not view.prefix:
        yield "keys and prefix are needed: a reduced copy must not be mistaken for the original"
    if not view.drop and not view.pseudonym:
        yield "nothing is dropped and nothing gets a pseudonym: the view would show everything"
    yield from _about_regions(view.allowed, tree)
    yield from _about_keys(view.keys)


def _about_regions(regions: tuple[str, ...], tree: frozenset[str]) -> Iterator[str]:
    if len(regions) > REGIONS_MAX:
        yield f"at most {REGIONS_MAX} regions in a list"
    for region in regions:
        if region != ANY and region not in tree:
            yield f"region {region!r} is not in the tree; add it to regions, or correct the spelling"


def _about_keys(keys: tuple[str, ...]) -> Iterator[str]:
    if len(keys) > NAMES_MAX:
        yield f"at most {NAMES_MAX} keys in a list"
    for key in keys:
        if not key or ANY in key[:-1]:
            yield f"key {key!r}: write the whole key, or its beginning with a * at the end"
