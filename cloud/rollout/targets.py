"""Which nodes a rule means.

    target = term {"," term}                     a comma widens: any of the terms
    term   = "all" | node-id | pair {"+" pair}   a plus narrows: all of the pairs
    pair   = label "=" value

``region=eu+gpu=yes,edge-7`` means the European nodes with a GPU, and edge-7. The canonical text of a target
is sorted and has no blanks, so that two ways to write the same thing are the same rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import ShoalError
from shared.ids import is_id

TERMS_MAX = 1000
EVERYONE = "all"

Pair = tuple[str, str]


class BadTarget(ShoalError):
    """The text is not a target; the message says which part and what it may be."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target: a node matches by being anyone, by its id, or by all pairs of one of ``selectors``."""

    everyone: bool = False
    nodes: frozenset[str] = frozenset()
    selectors: frozenset[frozenset[Pair]] = frozenset()

    def matches(self, node: str, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is meant."""
        if self.everyone or node in self.nodes:
            return True
        return any(all(labels.get(key) == value for key, value in pairs) for pairs in self.selectors)

    def __str__(self) -> str:
        if self.everyone:
            return EVERYONE
        selectors = ("+".join(f"{key}={value}" for key, value in sorted(pairs)) for pairs in self.selectors)
        return ",".join(sorted([*self.nodes, *selectors]))


def parse_target(text: str) -> Target:
    """Read a target. Raises :class:`BadTarget`."""
    terms = [term.strip() for term in text.split(",")]
    if len(terms) > TERMS_MAX:
        raise BadTarget(f"a target has at most {TERMS_MAX} terms, this one {len(terms)}; use a label")
    nodes = frozenset(term for term in terms if "=" not in term and term != EVERYONE)
    for node in sorted(nodes):
        if not is_id(node):
            raise BadTarget(f"{node!r} is neither 'all', a node id, nor label=value")
    selectors = frozenset(_pairs(term) for term in terms if "=" in term)
    if EVERYONE in terms:
        return Target(everyone=True)
    return Target(nodes=nodes, selectors=selectors)


def _pairs(term: str) -> frozenset[Pair]:
    pairs: dict[str, str] = {}
    for part in term.split("+"):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or "=" in value:
            raise BadTarget(f"{part!r} in {term!r} is not label=value; join pairs of one node with '+'")
        if pairs.setdefault(key, value) != value:
            raise BadTarget(f"{term!r}: no node has two values for {key!r}; a ',' means either")
    return frozenset(pairs.items())
