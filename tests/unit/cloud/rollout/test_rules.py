"""What the rules add up to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.rollout.rules import CATALOG_MAX, Catalog, NoSuchModel, Rule, RuleBook
from cloud.rollout.targets import parse_target
from shared.messages import DesiredModel


def rule(number: int, model: str, target: str, version: str) -> Rule:
    return Rule(number, model, target, version, digest=f"{model}-{version}")


def test_the_newest_rule_that_matches_governs_a_node():
    book = RuleBook([rule(2, "cat", "site=a", "2"), rule(1, "cat", "all", "1"), rule(3, "dog", "n9", "1")])
    assert book.wanted("n1", {"site": "a"}) == {"cat": DesiredModel(digest="cat-2", version="2")}
    assert book.wanted("n9", {}) == {
        "cat": DesiredModel(digest="cat-1", version="1"),
        "dog": DesiredModel(digest="dog-1", version="1"),
    }


def test_withdrawing_the_newer_rule_uncovers_the_older_one():
    book = RuleBook([rule(1, "cat", "all", "1"), rule(2, "cat", "site=a", "2")])
    book.withdraw(("cat", "site=a"))
    assert book.wanted("n1", {"site": "a"})["cat"].version == "1"
    book.withdraw(("cat", "all"))
    assert book.wanted("n1", {"site": "a"}) == {}
    assert len(book) == 0
    assert list(book.models) == []


def test_the_same_model_and_target_again_replaces_the_rule_and_makes_it_the_newest():
    book = RuleBook([rule(1, "cat", "all", "1"), rule(2, "cat", "site=a", "2"), rule(3, "cat", "all", "3")])
    assert len(book) == 2
    assert book.wanted("n1", {"site": "a"})["cat"].version == "3"
    assert book.number == 3


_TARGETS = ("all", "n1", "n2", "n1,n2", "site=a", "site=b,n1", "site=a+gpu=yes", "n3,site=a")


@given(steps=st.lists(st.tuples(st.booleans(), st.sampled_from(["cat", "dog"]), st.sampled_from(_TARGETS))))
def test_any_rules_govern_as_the_newest_one_that_matches_would(steps):
    """However the book finds it."""
    book, kept = RuleBook(), {}
    for number, (put, model, target) in enumerate(steps, 1):
        one = rule(number, model, target, str(number))
        kept.pop(one.key, None)
        if put:
            book.put(one)
            kept[one.key] = one
        elif book.get(one.key) is not None:
            book.withdraw(one.key)
    for node in ("n1", "n2", "n3", "n4"):
        for labels in ({}, {"site": "a"}, {"site": "b"}, {"site": "a", "gpu": "yes"}):
            for model in ("cat", "dog"):
                ours = [one for one in kept.values() if one.model == model]
                matching = [one for one in ours if parse_target(one.target).matches(node, labels)]
                assert book.governing(model, node, labels) == (matching[-1] if matching else None)
    assert sorted(book, key=lambda one: one.number) == sorted(kept.values(), key=lambda one: one.number)
    assert book.of("cat") == [one for one in kept.values() if one.model == "cat"]


def test_the_version_added_last_is_the_default():
    catalog = Catalog()
    for version in ("1", "3", "2"):
        catalog.add("cat", version, f"digest-{version}")
    assert catalog.resolve("cat") == ("cat", "2", "digest-2")
    assert catalog.resolve("cat@3") == ("cat", "3", "digest-3")
    catalog.add("cat", "1", "digest-1b")
    assert catalog.resolve("cat") == ("cat", "1", "digest-1b")


def test_an_unknown_model_or_version_is_answered_with_what_there_is():
    catalog = Catalog()
    with pytest.raises(NoSuchModel, match="'cat'; the catalog holds nothing yet"):
        catalog.resolve("cat")
    for n in range(30):
        catalog.add(f"m{n:02}", "1", "d")
    with pytest.raises(NoSuchModel, match=r"m00, m01.*m19 and 10 more$"):
        catalog.resolve("cat")
    with pytest.raises(NoSuchModel, match="no version '9' of m00; there is 1"):
        catalog.resolve("m00@9")


def test_a_full_catalog_says_so():
    catalog = Catalog()
    assert all(catalog.add("cat", str(n), "d") for n in range(CATALOG_MAX))
    assert not catalog.add("cat", "one more", "d")
    assert catalog.resolve("cat")[1] == str(CATALOG_MAX - 1)
