"""Bytes from the network become typed messages or a typed refusal, and nothing else."""

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import RemoteError, TooLarge, Unreadable
from shared.messages import Heartbeat, InferAsk, NodeState, Presence, Reply, Sample, TelemetryBatch
from shared.topics import ALL, APP_INFER, HEARTBEAT, PRESENCE, REPLY, TELEMETRY
from shared.wire import decode, encode, packed, unpacked


def test_any_messagepack_library_reads_and_writes_our_messages():
    beat = Heartbeat(epoch=3, sequence=7, state=NodeState.BUSY, cpu_ratio=0.5, tasks=("digits",))
    theirs = msgpack.unpackb(encode(beat))
    assert theirs["epoch"] == 3
    assert theirs["state"] == "busy"
    assert theirs["tasks"] == ["digits"]
    assert (
        decode(HEARTBEAT, msgpack.packb({"epoch": 3, "sequence": 7, "state": "idle"})).state is NodeState.IDLE
    )


def test_fields_of_a_later_version_are_ignored():
    later = msgpack.packb({"epoch": 1, "online": True, "colour": "blue"})
    assert decode(PRESENCE, later) == Presence(epoch=1, online=True)


def test_a_long_payload_is_refused_before_anyone_looks_inside():
    with pytest.raises(TooLarge, match="the limit is 4096"):
        decode(PRESENCE, b"\xc1" * 4097)


@pytest.mark.parametrize(
    "payload", [b"\xc1", b"", b"\x81", b"\x81\xa5epoch\xa1x", b"{}", b"\xdd\xff\xff\xff\xff"]
)
def test_nonsense_is_unreadable(payload):
    with pytest.raises(Unreadable, match="presence"):
        decode(PRESENCE, payload)


@given(st.sampled_from(ALL), st.binary(max_size=300))
def test_no_bytes_at_all_raise_anything_but_a_remote_error(topic, payload):
    try:
        message = decode(topic, payload)
    except RemoteError:
        return
    assert isinstance(message, topic.message)


def test_deep_nesting_is_a_refusal_and_not_a_crash():
    with pytest.raises(Unreadable):
        unpacked(msgspec.Raw(b"\x91" * 100_000 + b"\xc0"), list)


def test_a_plain_device_may_speak_json():
    flat = decode(TELEMETRY, b'{"temperature": 21.5, "open": true, "count": 3}')
    assert flat.samples == (Sample(0.0, {"temperature": 21.5, "open": 1.0, "count": 3.0}),)
    whole = decode(TELEMETRY, b'{"epoch": 2, "first": 9, "samples": [[1.5, {"x": 1}]]}')
    assert whole == TelemetryBatch(epoch=2, first=9, samples=(Sample(1.5, {"x": 1.0}),))
    with pytest.raises(Unreadable):
        decode(TELEMETRY, b'{"text": "no number"}')


def test_a_plain_device_may_speak_flat_messagepack():
    flat = decode(TELEMETRY, msgspec.msgpack.encode({"temperature": 21.5, "open": True}))
    assert flat.samples == (Sample(0.0, {"temperature": 21.5, "open": 1.0}),)
    for nonsense in ({"temperature": "warm"}, {1: 2.0}, [1.0]):
        with pytest.raises(Unreadable):
            decode(TELEMETRY, msgspec.msgpack.encode(nonsense))
    with pytest.raises(Unreadable):
        decode(PRESENCE, msgspec.msgpack.encode({"temperature": 21.5}))


def test_json_is_read_nowhere_else():
    with pytest.raises(Unreadable):
        decode(PRESENCE, b'{"epoch": 1, "online": true}')


def test_a_packed_part_passes_through_untouched():
    inputs = packed(({"anything": [1, 2]},))
    ask = InferAsk(correlation="c", budget_s=1.0, model="m", inputs=inputs)
    arrived = decode(APP_INFER, encode(ask))
    assert bytes(arrived.inputs) == bytes(inputs)
    reply = Reply(correlation="c", body=arrived.inputs)
    assert unpacked(decode(REPLY, encode(reply)).body, list) == [{"anything": [1, 2]}]
