"""Large sync messages travel deflated; what they become is bounded before anybody decodes it."""

import zlib

import pytest

from shared.errors import TooLarge, Unreadable
from shared.messages import Presence
from shared.sync import Push, SyncMessage
from shared.topics import PRESENCE, SYNC_DOWN
from shared.versions import Entry, fields_in, written
from shared.wire import DEFLATE_BYTES_MIN, INFLATED_BYTES_MAX, decode, encode


def message(size: int) -> SyncMessage:
    entry = written(Entry("k"), ("n1", 1, 1), 1, fields_in("a" * size))
    return SyncMessage(life=1, part=Push(1, (entry,)))


@pytest.mark.parametrize("size", [1, DEFLATE_BYTES_MIN, 60_000])
def test_a_message_is_the_same_whichever_way_it_travelled(size):
    payload = encode(message(size))
    assert decode(SYNC_DOWN, payload) == message(size)
    assert (payload[:1] == b"x") == (size >= DEFLATE_BYTES_MIN)
    assert len(payload) < 700


def test_a_bomb_is_refused_before_it_goes_off():
    bomb = zlib.compress(b"\0" * (64 << 20), 9)
    assert len(bomb) < SYNC_DOWN.bytes_max
    with pytest.raises(TooLarge, match=str(INFLATED_BYTES_MAX)):
        decode(SYNC_DOWN, bomb)


@pytest.mark.parametrize(
    "payload", [b"x", b"x\x01nonsense", zlib.compress(b"\xc1"), zlib.compress(b"\x80")[:-1] + b"?"]
)
def test_what_is_no_deflated_message_is_unreadable(payload):
    with pytest.raises((Unreadable, TooLarge)):
        decode(SYNC_DOWN, payload)


def test_other_messages_are_never_deflated():
    fact = Presence(epoch=1, online=True, reason="a" * 2_000)
    assert encode(fact)[:1] != b"x"
    with pytest.raises(Unreadable):
        decode(PRESENCE, zlib.compress(encode(fact)))
