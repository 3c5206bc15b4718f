from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.embedded import BrokerLimits
from broker.embedded.topics import (
    TopicTree,
    fits,
    has_wildcard,
    is_topic_filter,
    is_topic_name,
    split_shared,
)

LIMITS = BrokerLimits()

levels = st.sampled_from(["", "a", "b", "c", "$x"])
topics = st.lists(levels, min_size=1, max_size=5).map("/".join).filter(bool)
filters = st.builds(
    lambda head, tail: "/".join([*head, *tail]),
    st.lists(st.sampled_from(["", "a", "b", "+", "$x"]), min_size=0, max_size=4),
    st.sampled_from([["#"], ["+"], ["a"], [""], ["b"]]),
).filter(bool)


def naive_match(topic_filter: str, topic: str) -> bool:
    """Section 4.7 as it is written, level by level."""
    wanted, given_levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        if len(given_levels) < len(wanted):
            return False
        given_levels = given_levels[: len(wanted)]
    return len(wanted) == len(given_levels) and all(
        want in ("+", have) for want, have in zip(wanted, given_levels, strict=True)
    )


@given(st.sets(filters, max_size=12), topics)
def test_a_tree_of_filters_finds_what_the_specification_says(stored: set[str], topic: str) -> None:
    tree: TopicTree[str] = TopicTree()
    for key in stored:
        tree.put(key, key)
    assert sorted(tree.match(topic)) == sorted(key for key in stored if naive_match(key, topic))


@given(st.sets(topics, max_size=12), filters)
def test_a_tree_of_topics_finds_what_a_filter_covers(stored: set[str], topic_filter: str) -> None:
    tree: TopicTree[str] = TopicTree()
    for key in stored:
        tree.put(key, key)
    assert sorted(tree.covered_by(topic_filter)) == sorted(
        key for key in stored if naive_match(topic_filter, key)
    )


@given(st.lists(st.tuples(st.booleans(), filters), max_size=30))
def test_any_history_of_puts_and_pops_equals_a_dictionary_and_leaves_no_branch(
    history: list[tuple[bool, str]],
) -> None:
    tree: TopicTree[int] = TopicTree()
    model: dict[str, int] = {}
    for number, (put, key) in enumerate(history, start=1):
        if put:
            tree.put(key, number)
            model[key] = number
        else:
            assert tree.pop(key) == model.pop(key, None)
        assert len(tree) == len(model)
        assert tree.get(key) == model.get(key)
    for key in model:
        tree.pop(key)
    root: Any = tree._root
    assert not root.children


@pytest.mark.parametrize("topic", ["a", "/", "a//b", "$SYS/x", "ä/ö", " "])
def test_topic_names(topic: str) -> None:
    assert is_topic_name(topic)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a+b", "x\0y"])
def test_no_topic_names(topic: str) -> None:
    assert not is_topic_name(topic)


@pytest.mark.parametrize("text", ["#", "+", "a/+/b", "+/+", "/+", "a/#", "$SYS/#", "/"])
def test_topic_filters(text: str) -> None:
    assert is_topic_filter(text)


@pytest.mark.parametrize("text", ["", "a#", "#/a", "a/b+", "+a", "a/##", "++", "a\0", "#a/b"])
def test_no_topic_filters(text: str) -> None:
    assert not is_topic_filter(text)


@pytest.mark.parametrize(("text", "answer"), [("/" * 200, True), ("/" * 201, False), ("x" * 65_535, True)])
def test_two_hundred_slashes_and_every_length_of_the_wire_fit(text: str, answer: bool) -> None:
    assert fits(text, LIMITS) is answer


def test_a_limit_on_bytes_counts_bytes_not_characters() -> None:
    limits = BrokerLimits(topic_bytes_max=8)
    assert fits("x" * 8, limits)
    assert fits("ä" * 4, limits)
    assert not fits("ä" * 5, limits)


def test_shared_filters_are_split_and_malformed_ones_lose_their_filter() -> None:
    assert split_shared("$share/g/a/b") == ("g", "a/b")
    assert split_shared("$share/g//b") == ("g", "/b")
    assert split_shared("a/$share/g") == (None, "a/$share/g")
    assert split_shared("$shared/g/a") == (None, "$shared/g/a")
    for malformed in ("$share", "$share/", "$share/g", "$share//a", "$share/g+/a", "$share/#/a", "$share/g/"):
        assert split_shared(malformed)[1] == "", malformed


def test_a_deep_topic_needs_no_recursion() -> None:
    deep = "/".join("+" * 5000)
    tree: TopicTree[int] = TopicTree()
    tree.put(deep, 1)
    assert tree.match("/".join("a" * 5000)) == [1]
    assert tree.pop(deep) == 1
    assert has_wildcard(deep)
