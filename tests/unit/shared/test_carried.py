"""Which messages are looked at before they are published: a new topic has to be thought about."""

import msgspec
import pytest

from shared import topics
from shared.carried import CARRIES, CLOUD_READER, cargo_in, concerns, reader_of
from shared.messages import Chunk
from shared.residency import Kind
from shared.sync import Outcome, Push, Result, Setting, Status, SyncMessage
from shared.topics import ALL, CHUNK, DESIRED, DESIRED_KEY, REPORTED_KEY, SYNC_DOWN, SYNC_UP, Topic
from shared.versions import WHOLE, Entry, Write, fields_in
from shared.wire import encode

NO_TAGGED_DATA = {
    "what a device or the cloud says of itself": (
        "PRESENCE BIRTH HEARTBEAT REPORTED WANT DECLINED LEARNER STREAMS CLOUD DESIRED"
    ),
    "requests and answers of applications, whose data have no key": (
        "INFER COMMAND REPLY APP_INFER APP_QUERY APP_UPLOAD APP_DEPLOY APP_COMMAND APP_LEARN APP_LEARNER "
        "APP_UPDATE APP_SYNC APP_REPLY APP_TELEMETRY"
    ),
    "what only the cloud reads, from whoever made it": "TELEMETRY UPDATE",
    "acknowledgements and progress": "ACK RECEIPT ROUND JOB",
    "residency itself": "POLICY PLACE AUDIT_HEAD PROOF WITNESS DECISIONS",
}
ENTRY = Entry("a/b", (Write("@", 1, 1, 1, fields_in({"name": "Ada"})),), {"@": (1, 1)})


def named() -> dict[str, Topic]:
    return {name: value for name, value in vars(topics).items() if isinstance(value, Topic)}


def test_every_topic_is_in_the_table() -> None:
    assert {one.pattern for one in named().values()} == {one.pattern for one in ALL}


def test_every_topic_is_looked_at_or_there_is_a_reason() -> None:
    excused = {name for names in NO_TAGGED_DATA.values() for name in names.split()}
    looked_at = {name for name, topic in named().items() if topic.pattern in CARRIES or topic is CHUNK}
    assert looked_at | excused == named().keys()
    assert not looked_at & excused


def test_the_quick_look_at_a_name_agrees_with_the_table() -> None:
    for topic in ALL:
        name = topic.at(**{hole: "x1" for hole in _holes(topic)}).name
        assert concerns(name) == (topic.pattern in CARRIES or topic is CHUNK), name
    assert not concerns(DESIRED.at(node="n1").name)


def _holes(topic: Topic) -> list[str]:
    return [level[1:-1] for level in topic.pattern.split("/") if level.startswith("{")]


@pytest.mark.parametrize(
    ("address", "message", "reader", "keys"),
    [
        (SYNC_DOWN.at(node="n1"), SyncMessage(life=1, part=Push(1, (ENTRY,))), "n1", ["a/b"]),
        (SYNC_UP.at(node="n1"), SyncMessage(life=1, part=Push(1, (ENTRY,))), CLOUD_READER, ["a/b"]),
        (DESIRED_KEY.at(node="n1", key="k"), Setting(life=1, number=1, entry=ENTRY), "n1", ["a/b"]),
        (REPORTED_KEY.at(node="n1", key="k"), Setting(life=1, number=1, entry=ENTRY), CLOUD_READER, ["a/b"]),
        (CHUNK.at(artifact="d1", index="0"), Chunk(data=b"x"), "", [""]),
    ],
)
def test_what_a_message_carries_and_who_reads_it(
    address: object, message: object, reader: str, keys: list[str]
) -> None:
    cargo = cargo_in(address.name, encode(message))  # type: ignore[attr-defined,arg-type]
    assert cargo is not None
    assert cargo.reader == reader
    assert [item.key for item in cargo.items] == keys


def test_the_value_of_a_result_is_judged_under_its_key() -> None:
    outcome = Outcome(status=Status.OK, value=msgspec.msgpack.encode({"name": "Ada"}))
    payload = encode(SyncMessage(life=1, part=Result(1, outcome, "a/b")))
    cargo = cargo_in(SYNC_DOWN.at(node="n1").name, payload)
    assert cargo is not None
    assert (cargo.items[0].key, cargo.items[0].kind) == ("a/b", Kind.DATA)
    assert cargo.items[0].value() == [{"name": "Ada"}]


def test_both_sides_of_a_conflict_are_seen() -> None:
    entry = Entry("k", (Write("@", 1, 1, 1, {WHOLE: msgspec.msgpack.encode(7)}), *ENTRY.writes), {})
    cargo = cargo_in(SYNC_DOWN.at(node="n1").name, encode(SyncMessage(life=1, part=Push(1, (entry,)))))
    assert cargo is not None
    assert cargo.items[0].value() == [7, {"name": "Ada"}]


def test_what_can_not_be_read_on_a_topic_for_data_is_told_apart_from_nothing() -> None:
    assert cargo_in(SYNC_DOWN.at(node="n1").name, b"\xc1") is None
    assert cargo_in("node/n1/down/sync/more", b"x") is None


def test_the_reader_follows_from_the_topic() -> None:
    assert reader_of(topics.MANIFEST, {"artifact": "d1"}) == ""
    assert reader_of(topics.INFER, {"node": "n1", "model": "m"}) == "n1"
