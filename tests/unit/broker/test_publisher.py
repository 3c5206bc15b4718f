"""The sending half of a session, told as stories of a wire that we hold in our hands."""

import asyncio

import pytest

from broker.bus import BusStats, Properties
from broker.outbox import Outbox
from broker.publisher import PACKET_ID_MAX, Publisher


class Wire:
    """Remembers what was sent. ``bytes_max``: as a broker's maximum packet size."""

    def __init__(self, bytes_max=1000):
        self.sent, self.bytes_max = [], bytes_max

    def transmit(self, message, packet_id, duplicate):
        if len(message.payload) > self.bytes_max:
            return False
        self.sent.append((packet_id, message.payload, duplicate))
        return True

    @property
    def payloads(self):
        return [payload for _, payload, _ in self.sent]


def publisher(messages_max=100, clock=lambda: 0.0):
    stats = BusStats()
    return Publisher(Outbox(messages_max, 10_000, stats), stats, clock), stats


def send(to, *payloads, **options):
    return [
        to.publish("t", payload, options.get("qos", 1), options.get("retain", False)) for payload in payloads
    ]


def test_no_more_leave_than_the_broker_takes_and_each_acknowledgement_lets_one_out():
    pub, _ = publisher()
    wire = Wire()
    pub.connected(wire.transmit, 2, resumed=False)
    send(pub, b"1", b"2", b"3", b"4")
    assert wire.payloads == [b"1", b"2"]
    pub.acknowledged(wire.sent[0][0])
    assert wire.payloads == [b"1", b"2", b"3"]


def test_after_a_resumed_session_the_same_packets_are_repeated_as_duplicates_and_come_first():
    pub, _ = publisher()
    first, second = Wire(), Wire()
    pub.connected(first.transmit, 10, resumed=False)
    send(pub, b"1", b"2")
    pub.disconnected()
    send(pub, b"3")
    pub.connected(second.transmit, 10, resumed=True)
    assert second.sent == [(1, b"1", True), (2, b"2", True), (3, b"3", False)]


def test_after_a_lost_session_they_are_sent_anew_in_their_order():
    pub, _ = publisher()
    first, second = Wire(), Wire()
    pub.connected(first.transmit, 10, resumed=False)
    send(pub, b"1", b"2")
    pub.disconnected()
    send(pub, b"3")
    pub.connected(second.transmit, 10, resumed=False)
    assert second.payloads == [b"1", b"2", b"3"]
    assert not any(duplicate for _, _, duplicate in second.sent)


def test_packet_ids_go_round_and_never_meet_one_in_flight():
    pub, _ = publisher()
    wire = Wire()
    pub.connected(wire.transmit, 10, resumed=False)
    send(pub, b"stays")
    for _ in range(PACKET_ID_MAX + 5):
        send(pub, b"goes")
        pub.acknowledged(wire.sent[-1][0])
    ids = [packet_id for packet_id, _, _ in wire.sent]
    assert ids[0] == 1
    assert 1 not in ids[1:]
    assert max(ids) == PACKET_ID_MAX


def test_while_the_transport_is_congested_qos_0_is_dropped_and_qos_1_waits():
    pub, stats = publisher()
    wire = Wire()
    pub.connected(wire.transmit, 10, resumed=False)
    pub.pause()
    send(pub, b"lossy", qos=0)
    send(pub, b"kept")
    assert wire.sent == []
    assert stats.dropped_congested == 1
    pub.resume()
    assert wire.payloads == [b"kept"]


def test_a_message_over_the_brokers_limit_is_dropped_and_does_not_block_the_next(caplog):
    pub, stats = publisher()
    wire = Wire(bytes_max=3)
    send(pub, b"far too long", b"ok")
    pub.connected(wire.transmit, 10, resumed=False)
    assert wire.payloads == [b"ok"]
    assert stats.refused == 1
    assert "more than the broker takes" in caplog.text


def test_a_refused_message_is_counted_and_its_callback_stays_silent(caplog):
    pub, stats = publisher()
    wire, told = Wire(), []
    pub.connected(wire.transmit, 10, resumed=False)
    pub.publish("t", b"", 1, False, done=lambda: told.append("done"))
    pub.acknowledged(1, "NOT_AUTHORIZED")
    assert told == []
    assert stats.refused == 1
    assert "NOT_AUTHORIZED" in caplog.text


def test_a_callback_that_raises_is_logged_and_the_window_still_opens(caplog):
    pub, _ = publisher()
    wire = Wire()
    pub.connected(wire.transmit, 1, resumed=False)
    pub.publish("t", b"1", 1, False, done=lambda: 1 / 0)
    send(pub, b"2")
    pub.acknowledged(1)
    assert wire.payloads == [b"1", b"2"]
    assert "ZeroDivisionError" in caplog.text


def test_an_acknowledgement_of_nothing_is_ignored():
    pub, stats = publisher()
    pub.acknowledged(77)
    assert stats == BusStats()


def test_what_expired_while_it_waited_is_never_sent():
    now = [0.0]
    pub, stats = publisher(clock=lambda: now[0])
    wire = Wire()
    pub.publish("t", b"stale", 1, False, Properties(expiry_s=5))
    pub.publish("t", b"fresh", 1, False, Properties(expiry_s=50))
    now[0] = 6.0
    pub.connected(wire.transmit, 10, resumed=False)
    assert wire.payloads == [b"fresh"]
    assert stats.dropped_expired == 1


def test_drained_waits_for_what_was_published_before_and_not_for_what_came_after():
    async def scenario():
        pub, _ = publisher()
        wire = Wire()
        pub.connected(wire.transmit, 10, resumed=False)
        send(pub, b"1", b"2")
        waiting = asyncio.ensure_future(pub.drained())
        await asyncio.sleep(0)
        send(pub, b"3")
        pub.acknowledged(2)
        await asyncio.sleep(0)
        assert not waiting.done()
        pub.acknowledged(1)
        await asyncio.wait_for(waiting, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pub.drained(), 0.01)

    asyncio.run(scenario())
