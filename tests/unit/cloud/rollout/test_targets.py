"""Who is meant by a target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.rollout.targets import BadTarget, parse_target

BERLIN = {"region": "eu", "gpu": "yes"}
OSLO = {"region": "eu"}


@pytest.mark.parametrize(
    ("text", "node", "labels", "meant"),
    [
        ("all", "anyone", {}, True),
        ("edge-1", "edge-1", {}, True),
        ("edge-1", "edge-2", {}, False),
        ("edge-1, edge-2", "edge-2", {}, True),
        ("region=eu", "b", BERLIN, True),
        ("region=us", "b", BERLIN, False),
        ("region=eu+gpu=yes", "b", BERLIN, True),
        ("region=eu+gpu=yes", "o", OSLO, False),
        ("region=us,gpu=yes", "b", BERLIN, True),
        ("region=us,o", "o", OSLO, True),
        ("zone=eu", "o", OSLO, False),
        ("o,all", "x", {}, True),
    ],
)
def test_a_comma_widens_and_a_plus_narrows(text, node, labels, meant):
    assert parse_target(text).matches(node, labels) is meant


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "neither 'all', a node id, nor label=value"),
        ("a,,b", "neither"),
        ("Edge 1", "'Edge 1' is neither"),
        ("a+b", "'a\\+b' is neither"),
        ("region=", "'region=' in 'region=' is not label=value"),
        ("=eu", "not label=value"),
        ("region=eu+edge-1", "'edge-1' in 'region=eu\\+edge-1' is not label=value"),
        ("a=b=c", "not label=value"),
        ("region=eu+region=us", "no node has two values for 'region'; a ',' means either"),
        (",".join(f"n{n}" for n in range(1001)), "at most 1000 terms"),
    ],
)
def test_a_bad_target_says_which_part_and_what_it_may_be(text, advice):
    with pytest.raises(BadTarget, match=advice):
        parse_target(text)


def test_two_ways_to_write_a_target_are_one_target():
    one, other = parse_target(" n2,n1 ,b=2+a=1"), parse_target("a=1+b=2,n1,n2,n1")
    assert one == other
    assert str(one) == str(other) == "a=1+b=2,n1,n2"
    assert str(parse_target("x=y,all")) == "all"


words = st.from_regex("[a-z]{1,3}", fullmatch=True)
terms = words | st.lists(st.tuples(words, words), min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(
    lambda pairs: "+".join(f"{key}={value}" for key, value in pairs)
)


@given(st.lists(terms, min_size=1, max_size=6))
def test_the_canonical_text_means_the_same(parts):
    target = parse_target(",".join(parts))
    assert parse_target(str(target)) == target


@given(st.text(max_size=40))
def test_no_text_does_more_than_be_refused(text):
    try:
        target = parse_target(text)
    except BadTarget:
        return
    assert parse_target(str(target)) == target
