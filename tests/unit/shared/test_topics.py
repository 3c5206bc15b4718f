"""Every topic is one line of one table, and everything about it follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.filters import matches
from shared.ids import is_id
from shared.topics import ALL, APP_REPLY, CHUNK, CHUNK_BYTES, PRESENCE, REPLY, TELEMETRY, Writer, find, root

ids = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)


def holes(pattern: str) -> list[str]:
    return [level[1:-1] for level in pattern.split("/") if level.startswith("{")]


@given(st.sampled_from(ALL), st.data())
def test_an_address_leads_back_to_its_topic_and_ids(topic, data):
    chosen = {hole: data.draw(ids) for hole in holes(topic.pattern)}
    address = topic.at(**chosen)
    assert topic.ids(address.name) == chosen
    assert matches(topic.filter, address.name)
    assert find(address.name) == (topic, chosen)


@given(st.text(max_size=70))
def test_only_an_id_can_stand_in_a_topic(text):
    if is_id(text):
        assert PRESENCE.at(node=text).name == f"node/{text}/up/presence"
    else:
        with pytest.raises(ValueError, match="usable"):
            PRESENCE.at(node=text)


def test_a_strangers_level_is_nobodys_id():
    for name in (
        "node/N1/up/presence",
        "node/a b/up/presence",
        "node//up/presence",
        f"node/{'x' * 65}/up/presence",
    ):
        assert PRESENCE.ids(name) is None
        assert find(name) is None


def test_no_two_topics_can_be_mistaken_for_each_other():
    for one in ALL:
        name = one.at(**{hole: "x" for hole in holes(one.pattern)}).name
        assert [other.pattern for other in ALL if other.ids(name) is not None] == [one.pattern]


def test_every_topic_names_its_one_writer_by_its_place():
    for topic in ALL:
        expected = Writer.CLOUD
        if "/up/" in topic.pattern:
            expected = Writer.DEVICE
        elif "/request/" in topic.pattern:
            expected = Writer.APP
        assert topic.writer is expected, topic.pattern


def test_facts_are_retained_and_acknowledged():
    assert all(topic.qos == 1 for topic in ALL if topic.retain)
    assert not any(topic.retain and topic.expiry_s for topic in ALL)


def test_a_narrowed_subscription_keeps_the_other_holes_open():
    assert REPLY.filter_for(caller="cli") == "node/+/up/reply/cli"
    assert TELEMETRY.filter_for(node="n1") == "node/n1/up/telemetry/+"
    assert APP_REPLY.filter_for(app="cli") == "app/cli/reply"
    with pytest.raises(ValueError, match="usable"):
        REPLY.filter_for(caller="#")


def test_a_chunk_fits_its_topic():
    assert CHUNK_BYTES < CHUNK.bytes_max < 128 * 1024


def test_a_fleet_has_its_own_root():
    assert root("plant-7") == "shoal/1/plant-7"
    with pytest.raises(ValueError, match="fleet name"):
        root("plant/7")


def naive_match(pattern: str, topic: str) -> bool:
    """The specification's words as recursion, for comparison."""

    def walk(wanted: list[str], given: list[str]) -> bool:
        if not wanted:
            return not given
        if wanted[0] == "#":
            return True
        return bool(given) and wanted[0] in ("+", given[0]) and walk(wanted[1:], given[1:])

    if topic.startswith("$") and pattern[0] in "+#":
        return False
    return walk(pattern.split("/"), topic.split("/"))


levels = st.sampled_from(["a", "b", "", "$x"])


@given(
    st.lists(st.one_of(levels, st.just("+")), min_size=1, max_size=5),
    st.booleans(),
    st.lists(levels, min_size=1, max_size=5),
)
def test_filters_match_as_the_specification_says(pattern, open_end, topic):
    text = "/".join([*pattern, "#"] if open_end else pattern) or "a"
    name = "/".join(topic) or "a"
    assert matches(text, name) == naive_match(text, name)
