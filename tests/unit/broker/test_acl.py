"""Who may write and hear what, asked the way a broker asks."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.acl import Access, Role, compiled, covers, reads, writes
from shared.filters import matches
from shared.topics import ALL, Writer, root

ROOT = root("main")
PRINCIPALS = {
    "n1": Role.DEVICE,
    "n2": Role.DEVICE,
    "cloud": Role.CLOUD,
    "till": Role.APP,
    "ann": Role.OPERATOR,
}


@dataclass(frozen=True)
class Who:
    username: str | None


@pytest.fixture
def access() -> Access:
    return Access("main", PRINCIPALS)


def named(pattern: str, **ids: str) -> str:
    """The concrete topic, with a filler for every hole that is not given."""
    levels = pattern.split("/")
    return "/".join(ids.get(level[1:-1], "x") if level.startswith("{") else level for level in levels)


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.pattern)
def test_every_topic_has_exactly_one_kind_of_writer(access: Access, topic) -> None:
    own = {
        Writer.DEVICE: {"n1"},
        Writer.CLOUD: {"cloud"},
        Writer.APP: {"till"},
    }[topic.writer]
    name = f"{ROOT}/{named(topic.pattern, node='n1', app='till')}"
    assert {user for user in PRINCIPALS if access.may_publish(Who(user), name, False)} == own
    assert {user for user in PRINCIPALS if access.may_publish(Who(user), name, True)} == (
        own if topic.retain else set()
    )


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.pattern)
def test_whoever_a_topic_is_meant_for_hears_it(access: Access, topic) -> None:
    name = f"{ROOT}/{named(topic.pattern, node='n1', app='till', caller='till')}"
    hearers = {user for user in PRINCIPALS if access.may_receive(Who(user), name)}
    assert "ann" in hearers
    if topic.writer is Writer.DEVICE:
        assert hearers == {"ann", "cloud"} | ({"till"} if "{caller}" in topic.pattern else set())
    elif topic.writer is Writer.APP:
        assert hearers == {"ann", "cloud"}
    elif topic.pattern.startswith("node/"):
        assert hearers == {"ann", "n1"}
    elif topic.pattern.startswith("app/"):
        assert hearers == {"ann", "till"}
    else:
        assert hearers >= {"ann", "cloud", "n1", "n2"}
        assert ("till" in hearers) == (topic.pattern == "all/cloud")


@pytest.mark.parametrize(
    ("user", "filter", "allowed"),
    [
        ("n1", f"{ROOT}/node/n1/down/#", True),
        ("n1", f"{ROOT}/node/n1/down/infer/+", True),
        ("n1", f"{ROOT}/all/chunk/some-model/+", True),
        ("n1", f"{ROOT}/node/n2/down/#", False),
        ("n1", f"{ROOT}/node/+/down/#", False),
        ("n1", f"{ROOT}/node/n1/#", False),
        ("n1", f"{ROOT}/#", False),
        ("n1", "#", False),
        ("n1", "+/#", False),
        ("n1", "$SYS/#", False),
        ("n1", "shoal/1/other/all/#", False),
        ("n1", f"$share/workers/{ROOT}/node/+/up/#", False),
        ("n1", f"$share/workers/{ROOT}/node/n1/down/#", False),
        ("cloud", f"$share/workers/{ROOT}/node/+/up/#", True),
        ("cloud", f"$share/workers/{ROOT}/node/+/down/#", False),
        ("cloud", "$share/workers", False),
        ("cloud", f"{ROOT}/node/+/up/telemetry/+", True),
        ("cloud", "$SYS/#", True),
        ("till", f"{ROOT}/app/till/reply", True),
        ("till", f"{ROOT}/node/+/up/reply/till", True),
        ("till", f"{ROOT}/node/n1/up/reply/till", True),
        ("till", f"{ROOT}/node/+/up/reply/+", False),
        ("till", f"{ROOT}/app/+/reply", False),
        ("till", "$SYS/broker/uptime", False),
        ("ann", f"{ROOT}/#", True),
        ("ann", f"$share/workers/{ROOT}/#", False),
        ("ann", "#", False),
        ("ann", "$SYS/#", True),
        ("stranger", f"{ROOT}/all/#", False),
        (None, f"{ROOT}/all/#", False),
    ],
)
def test_a_subscription_stands_only_where_all_it_matches_may_be_heard(
    access: Access, user: str | None, filter: str, allowed: bool
) -> None:
    assert access.may_subscribe(Who(user), filter) is allowed


@pytest.mark.parametrize(
    "topic",
    [
        f"{ROOT}/node/n1/up/presence/more",
        f"{ROOT}/node/n1/up",
        f"{ROOT}/node/n1/up/unheard-of",
        f"{ROOT}/node/n1/up/presence\n",
        "node/n1/up/presence",
        "shoal/1/other/node/n1/up/presence",
        "$SYS/broker/uptime",
    ],
)
def test_an_unknown_topic_is_nobodys_to_write(access: Access, topic: str) -> None:
    assert not [user for user in PRINCIPALS if access.may_publish(Who(user), topic, False)]


def test_rights_follow_the_principals_as_they_change() -> None:
    principals: dict[str, Role] = {}
    access = Access("main", principals)
    topic = f"{ROOT}/node/n9/up/presence"
    assert not access.may_publish(Who("n9"), topic, True)
    principals["n9"] = Role.DEVICE
    assert access.may_publish(Who("n9"), topic, True)
    principals["n9"] = Role.APP
    assert not access.may_publish(Who("n9"), topic, True)
    del principals["n9"]
    assert not access.may_publish(Who("n9"), f"{ROOT}/app/n9/request/query", False)


def test_no_role_hears_the_same_subtree_twice() -> None:
    for role in Role:
        heard = reads(role, "me")
        assert not [(a, b) for a in heard for b in heard if a != b and covers(a, b)]


def test_what_one_role_writes_some_other_role_hears() -> None:
    for role in Role:
        for written in writes(role, "me"):
            assert any(covers(heard, written) for other in Role for heard in reads(other, "+")), written


# Filters against each other, with shared.filters.matches as the oracle -----------------------------

LEVEL = st.sampled_from(["a", "b", "", "$s"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw: st.DrawFn) -> str:
    levels = draw(st.lists(st.sampled_from(["a", "b", "", "+", "$s"]), max_size=3))
    tail = draw(st.sampled_from([[], ["#"]]))
    return "/".join([*levels, *tail]) or "+"


@given(filters(), TOPIC)
@settings(max_examples=300)
def test_a_compiled_filter_matches_what_the_filter_matches(filter: str, topic: str) -> None:
    assert (compiled([filter]).fullmatch(topic) is not None) is matches(filter, topic)


@given(filters(), filters(), TOPIC)
@settings(max_examples=300)
def test_a_covering_filter_matches_whatever_the_covered_one_does(
    granted: str, asked: str, topic: str
) -> None:
    if covers(granted, asked) and matches(asked, topic):
        assert matches(granted, topic)


ALL_TOPICS = ["/".join(levels) for n in (1, 2, 3, 4, 5) for levels in itertools.product("abz", repeat=n)]


@given(
    st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=100)
def test_covering_is_exact(have: list[str], want: list[str], have_all: bool, want_all: bool) -> None:
    """``z`` stands in no filter, so the topics below tell ``+`` from any literal."""
    granted, asked = "/".join(have) + "/#" * have_all, "/".join(want) + "/#" * want_all
    reached = [topic for topic in ALL_TOPICS if matches(asked, topic)]
    assert covers(granted, asked) is all(matches(granted, topic) for topic in reached)
