"""Random policies, tags, places and actions over a small tree, so that rules and nodes really meet."""

from hypothesis import strategies as st

from shared.residency import Action, Kind, Place, PolicyText, Rule
from shared.tags import Label, Tag

REGIONS = ("eu", "eu/de", "eu/de/berlin", "eu/fr", "us", "us/ohio")
NODES = ("n1", "n2", "n3")
KEYS = ("a", "a/b", "a/c", "b")
PURPOSES = ("care", "billing")

labels = st.sampled_from(list(Label))
regions = st.sampled_from(REGIONS)
keys = st.sampled_from(KEYS)
tags = st.builds(
    Tag,
    label=labels,
    home=st.sampled_from(("", *REGIONS)),
    allowed=st.lists(st.sampled_from((*REGIONS, "*")), max_size=3).map(tuple),
    purposes=st.lists(st.sampled_from((*PURPOSES, "*")), max_size=2).map(tuple),
    expires_at_unix_s=st.sampled_from((0.0, 50.0, 150.0)),
)
places = st.builds(Place, node=st.sampled_from(NODES), region=st.sampled_from(("", *REGIONS)))
actions = st.builds(
    Action,
    key=keys,
    kind=st.sampled_from(list(Kind)),
    purpose=st.sampled_from(PURPOSES),
    at_unix_s=st.just(100.0),
)


def _few(of: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(of, max_size=2, unique=True).map(tuple)


rules = st.builds(
    Rule,
    name=st.sampled_from(("r1", "r2", "r3")),
    label=st.none() | labels,
    regions=_few(regions),
    homes=_few(regions),
    nodes=_few(st.sampled_from(NODES)),
    keys=_few(st.sampled_from((*KEYS, "a/*", "*"))),
    kinds=_few(st.sampled_from(list(Kind))),
    purposes=_few(st.sampled_from(PURPOSES)),
)
policies = st.builds(
    PolicyText,
    version=st.integers(1, 9),
    regions=st.just(REGIONS),
    permit=st.lists(rules, max_size=4).map(tuple),
    forbid=st.lists(rules, max_size=3).map(tuple),
)
