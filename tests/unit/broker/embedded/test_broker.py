"""Sessions, wills and expiry on a clock that the test turns: no sockets, no waiting."""

import mqtt5
import pytest

from broker.embedded import AllowAll, BrokerLimits, Identity, accept_anyone
from broker.embedded.broker import Broker
from broker.embedded.handshake import Certificate, shake_hands
from broker.embedded.message import Message
from broker.embedded.session import NEVER_S, LastWill, Session, Subscription
from broker.embedded.topics import tree_bytes
from broker.embedded.wire import Fault
from tests.unit.broker.embedded.clock import FakeClock, FakePeer


class World:
    def __init__(self, **limits: int) -> None:
        self.clock = FakeClock()
        self.broker = Broker(BrokerLimits(**limits), accept_anyone, AllowAll(), self.clock)

    def connect(
        self,
        client_id: str,
        expiry_s: int = 0,
        clean_start: bool = False,
        will: LastWill | None = None,
        username: str | None = None,
    ) -> tuple[Session, FakePeer, bool]:
        peer = FakePeer()
        session, resumed = self.broker.open(Identity(username, client_id), clean_start, peer)
        self.broker.bequeath(session, will, expiry_s)
        session.outbox.attach(peer)
        return session, peer, resumed

    def subscribe(self, session: Session, topic_filter: str, qos: int = 2) -> None:
        self.broker.router.subscribe(session, Subscription(topic_filter, topic_filter, None, qos))

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, expiry_s: int | None = None) -> int:
        packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=1 if qos else None)
        expires_at = None if expiry_s is None else self.clock.now + expiry_s
        return self.broker.publish(Message(packet, topic, qos, "somebody", expires_at))

    def retain(self, topic: str, payload: bytes = b"x", expiry_s: int | None = None) -> int:
        packet = mqtt5.PublishPacket(topic, payload, retain=True)
        expires_at = None if expiry_s is None else self.clock.now + expiry_s
        return self.broker.publish(Message(packet, topic, 0, "somebody", expires_at))


def will(
    payload: bytes = b"gone", delay_s: int = 0, lifetime_s: int | None = None, retain: bool = False
) -> LastWill:
    last = mqtt5.Will("wills", payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=retain)
    return LastWill(Message(last, "wills", 1, "", None), delay_s, lifetime_s)


def with_mourner() -> tuple[World, FakePeer]:
    world = World()
    session, peer, _ = world.connect("mourner")
    world.subscribe(session, "wills")
    return world, peer


# --- session expiry -------------------------------------------------------------------------------------


def test_a_session_without_expiry_ends_with_its_connection() -> None:
    world = World()
    session, peer, _ = world.connect("c")
    world.subscribe(session, "t")
    world.broker.lost(session, peer)
    assert (world.broker.stats().sessions, world.broker.stats().subscriptions) == (0, 0)
    assert not world.connect("c")[2]


def test_a_session_is_kept_for_its_expiry_and_not_longer() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=10)
    world.broker.lost(session, peer)
    world.clock.advance(9)
    session, peer, resumed = world.connect("c", expiry_s=10)
    assert resumed
    world.clock.advance(1000)
    assert world.broker.stats().sessions == 1, "a connected session does not expire"
    world.broker.lost(session, peer)
    world.clock.advance(10)
    assert world.broker.stats().sessions == 0
    assert world.broker.counters.sessions_expired == 1
    assert not world.connect("c")[2]


def test_who_must_show_a_certificate_and_has_none_is_refused() -> None:
    world = World()
    packet = mqtt5.ConnectPacket("c", username="alice")
    with pytest.raises(Fault, match="0x87"):
        shake_hands(world.broker, FakePeer(), packet, Certificate(None, is_username=True))
    conversation, _ = shake_hands(world.broker, FakePeer(), packet, Certificate("bob", is_username=True))
    assert conversation.session.identity == Identity("bob", "c")


def test_a_session_that_never_expires_needs_no_timer() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=NEVER_S)
    world.broker.lost(session, peer)
    assert world.clock.waiting == 0
    world.clock.advance(1e9)
    assert world.connect("c")[2]


def test_a_clean_start_ends_the_old_session_with_all_it_had() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=10)
    world.subscribe(session, "t")
    world.broker.lost(session, peer)
    world.publish("t")
    _, peer, resumed = world.connect("c", clean_start=True, expiry_s=10)
    assert not resumed
    world.publish("t")
    assert peer.take() == []
    assert world.broker.counters.dropped_session_ended == 1


def test_a_second_connection_takes_the_session_over() -> None:
    world = World()
    session, old, _ = world.connect("c", expiry_s=10)
    world.subscribe(session, "t")
    again, new, resumed = world.connect("c", expiry_s=10)
    assert (old.closed_with, resumed, again) == (0x8E, True, session)
    world.broker.lost(session, old)
    world.publish("t")
    assert (old.take(), len(new.take())) == ([], 1)
    assert world.broker.stats().clients_connected == 1


def test_a_session_without_expiry_does_not_survive_a_takeover() -> None:
    world = World()
    session, _, _ = world.connect("c")
    world.subscribe(session, "t")
    assert not world.connect("c")[2]
    assert world.broker.stats().subscriptions == 0


def test_a_stranger_can_not_take_a_client_id_from_its_user() -> None:
    world = World()
    session, peer, _ = world.connect("c", username="alice", expiry_s=10)
    with pytest.raises(Fault, match="0x85"):
        world.connect("c", username="mallory")
    assert (session.peer, peer.closed_with) == (peer, None)


# --- wills ----------------------------------------------------------------------------------------------


def test_a_will_is_published_when_the_connection_is_lost_and_only_then() -> None:
    world, mourner = with_mourner()
    session, peer, _ = world.connect("c", will=will())
    world.broker.lost(session, peer)
    world.broker.lost(session, peer)
    assert mourner.payloads() == [b"gone"]


@pytest.mark.parametrize(("delay_s", "expiry_s", "after_s"), [(3, 5, 3), (5, 3, 3), (5, 0, 0), (5, 5, 5)])
def test_a_will_waits_for_its_delay_or_the_end_of_the_session(
    delay_s: int, expiry_s: int, after_s: int
) -> None:
    world, mourner = with_mourner()
    session, peer, _ = world.connect("c", expiry_s=expiry_s, will=will(delay_s=delay_s))
    world.broker.lost(session, peer)
    world.clock.advance(after_s - 0.5)
    assert mourner.payloads() == ([] if after_s else [b"gone"])
    world.clock.advance(0.5)
    assert mourner.payloads() == ([b"gone"] if after_s else [])
    world.clock.advance(100)
    assert mourner.payloads() == []


def test_a_client_that_is_back_in_time_has_no_will_published() -> None:
    world, mourner = with_mourner()
    session, peer, _ = world.connect("c", expiry_s=60, will=will(delay_s=5))
    world.broker.lost(session, peer)
    world.clock.advance(4)
    world.connect("c", expiry_s=60)
    world.clock.advance(100)
    assert mourner.payloads() == []


@pytest.mark.parametrize(
    ("delay_s", "clean_start", "expiry_s", "published"),
    [(0, False, 60, True), (5, False, 60, False), (5, True, 60, True), (5, False, 0, True)],
)
def test_a_takeover_publishes_the_will_unless_the_session_and_a_delay_go_on(
    delay_s: int, clean_start: bool, expiry_s: int, published: bool
) -> None:
    world, mourner = with_mourner()
    world.connect("c", expiry_s=expiry_s, will=will(delay_s=delay_s))
    world.connect("c", expiry_s=60, clean_start=clean_start)
    world.clock.advance(100)
    assert mourner.payloads() == ([b"gone"] if published else [])


def test_a_clean_start_publishes_a_will_that_was_still_waiting() -> None:
    world, mourner = with_mourner()
    session, peer, _ = world.connect("c", expiry_s=60, will=will(delay_s=30))
    world.broker.lost(session, peer)
    world.connect("c", clean_start=True)
    assert mourner.payloads() == [b"gone"]


def test_the_lifetime_of_a_will_begins_when_it_is_published() -> None:
    world, mourner = with_mourner()
    session, peer, _ = world.connect("c", expiry_s=60, will=will(delay_s=30, lifetime_s=10))
    world.broker.lost(session, peer)
    world.clock.advance(30)
    assert [p.message_expiry_interval for p in mourner.take()] == [10]


def test_a_will_that_finds_no_room_to_be_retained_is_counted() -> None:
    world = World(retained_messages_max=1)
    world.retain("full")
    session, peer, _ = world.connect("c", will=will(retain=True))
    world.broker.lost(session, peer)
    assert (world.broker.counters.wills_refused, len(world.broker.retained)) == (1, 1)


def test_a_retained_will_is_kept_for_late_comers() -> None:
    world, _ = with_mourner()
    session, peer, _ = world.connect("c", will=will(retain=True))
    world.broker.lost(session, peer)
    assert [m.payload for m in world.broker.retained.covered_by("wills", world.clock.time)] == [b"gone"]


def test_a_broker_that_stops_publishes_no_wills_and_leaves_no_timers() -> None:
    world, mourner = with_mourner()
    world.connect("c", expiry_s=60, will=will())
    offline, peer, _ = world.connect("d", expiry_s=60, will=will(delay_s=5))
    world.broker.lost(offline, peer)
    world.broker.shut_down()
    assert (mourner.payloads(), mourner.closed_with, world.clock.waiting) == ([], 0x8B, 0)


# --- message expiry -------------------------------------------------------------------------------------


def test_a_message_that_waited_too_long_is_dropped_and_the_rest_says_how_long_it_has_left() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=1000)
    world.subscribe(session, "t")
    world.broker.lost(session, peer)
    for expiry_s in (1, 6, None):
        world.publish("t", b"%d" % (expiry_s or 0), expiry_s=expiry_s)
    world.clock.advance(3)
    _, peer, _ = world.connect("c", expiry_s=1000)
    assert [(p.payload, p.message_expiry_interval) for p in peer.take()] == [(b"6", 3), (b"0", None)]
    assert world.broker.counters.dropped_expired == 1


def test_what_expires_in_the_backlog_of_a_group_is_dropped() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=1000)
    world.broker.router.subscribe(session, Subscription("$share/g/t", "t", "g", 1))
    world.broker.lost(session, peer)
    for payload, expiry_s in ((b"short", 5), (b"long", 50)):
        world.publish("t", payload, expiry_s=expiry_s)
    world.clock.advance(10)
    _, peer, _ = world.connect("c", expiry_s=1000)
    assert peer.payloads() == [b"long"]
    assert world.broker.counters.dropped_expired == 1


def test_a_message_that_is_on_its_way_is_repeated_even_when_its_time_is_over() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=1000)
    world.subscribe(session, "t")
    world.publish("t", expiry_s=5)
    assert [p.message_expiry_interval for p in peer.take()] == [5]
    world.broker.lost(session, peer)
    world.clock.advance(60)
    _, peer, _ = world.connect("c", expiry_s=1000)
    assert [(p.message_expiry_interval, p.duplicate) for p in peer.take()] == [(0, True)]


def test_retained_messages_expire_for_readers_at_once_and_for_good_at_the_next_sweep() -> None:
    world = World()
    world.retain("a", expiry_s=5)
    world.retain("b")
    world.clock.advance(5)
    now = world.clock.now
    assert [m.topic for m in world.broker.retained.covered_by("#", world.clock.time)] == ["b"]
    assert [m.topic for m in world.broker.retained.covered_by("a", world.clock.time)] == []
    assert len(world.broker.retained) == 2
    assert world.broker.retained.sweep(now) == 1
    assert (len(world.broker.retained), world.broker.retained.bytes_held) == (1, 2 + tree_bytes("b"))
    assert world.broker.retained.sweep(now) == 0


def test_a_slow_walk_over_retained_messages_sees_neither_what_is_gone_nor_what_is_new() -> None:
    world = World()
    for number in range(10):
        world.retain(f"t/{number}", b"old", expiry_s=5 if number == 9 else None)
    walk = world.broker.retained.covered_by("#", world.clock.time)
    seen = [next(walk).topic]
    rest = [f"t/{number}" for number in range(9) if f"t/{number}" != seen[0]]
    world.retain(rest[0], b"new")
    world.retain(rest[1], b"")
    world.retain("t/new")
    world.clock.advance(6)
    assert sorted(message.topic for message in walk) == rest[2:]


# --- limits ---------------------------------------------------------------------------------------------


def test_retained_messages_are_bounded_in_number_and_bytes_and_can_always_be_replaced_or_cleared() -> None:
    world = World(retained_messages_max=2, retained_bytes_max=20 + 2 * tree_bytes("a"))
    assert world.retain("a") < 0x80
    assert world.retain("b") < 0x80
    assert world.retain("c") == 0x97
    assert world.retain("a", b"x" * 17) < 0x80
    assert world.retain("b", b"xx") == 0x97, "21 bytes"
    assert world.retain("c", b"") < 0x80
    assert world.retain("a", b"") < 0x80
    assert (len(world.broker.retained), world.broker.retained.bytes_held) == (1, 2 + tree_bytes("b"))
    assert world.retain("c") < 0x80
    assert world.broker.counters.publishes_refused == 2


def test_what_a_message_weighs_is_more_than_its_payload() -> None:
    """User properties and deep topics take memory too: neither gets past the limit on bytes."""
    world = World(retained_bytes_max=10_000)
    heavy = mqtt5.PublishPacket("t", b"x", retain=True, user_properties=[("k", "v" * 10_000)])
    assert world.broker.publish(Message(heavy, "t", 0, "somebody", None)) == 0x97
    assert world.retain("/" * 100) == 0x97
    assert world.retain("t") < 0x80


def absent(world: World, *client_ids: str) -> list[Session]:
    """Sessions that subscribe to a topic of their own name, and leave."""
    sessions = []
    for client_id in client_ids:
        session, peer, _ = world.connect(client_id, expiry_s=60)
        world.subscribe(session, client_id)
        world.broker.lost(session, peer)
        sessions.append(session)
    return sessions


def test_what_all_queues_hold_together_is_bounded_and_who_holds_little_is_served_on() -> None:
    world = World(queue_bytes_total_max=40_000, queue_bytes_reserved=1_000)
    hog, modest = absent(world, "hog", "modest")
    for _ in range(100):
        world.publish("hog", b"x" * 500)
    held = len(hog.outbox)
    assert 10 < held < 40
    assert world.broker.counters.dropped_queue_full == 100 - held
    assert 40_000 <= world.broker.stats().queued_bytes < 43_000
    for _ in range(3):
        world.publish("modest", b"x" * 500)
    assert len(modest.outbox) == 1, "the second would be beyond its reserve"
    world.connect("hog", clean_start=True)
    world.publish("modest", b"x" * 500)
    assert len(modest.outbox) == 2, "there is room again"
    world.connect("modest", clean_start=True)
    assert world.broker.stats().queued_bytes == 0


def test_a_message_that_waits_for_many_is_in_memory_once() -> None:
    world = World()
    names = [f"c{number}" for number in range(50)]
    for session in absent(world, *names):
        world.subscribe(session, "all")
    world.publish("all", b"x" * 10_000)
    assert 20_000 < world.broker.stats().queued_bytes < 30_000
    for name in names:
        _, peer, _ = world.connect(name, expiry_s=60)
        assert len(peer.payloads()) == 1
        assert world.broker.stats().queued_bytes > 20_000, "not acknowledged yet"
        world.broker.sessions[name].outbox.on_puback(1)
    assert world.broker.stats().queued_bytes == 0


def test_who_reads_and_never_acknowledges_is_sent_no_more_than_its_queue_may_hold() -> None:
    world = World(queue_bytes_max=5_000)
    session, peer, _ = world.connect("c")
    world.subscribe(session, "t")
    for _ in range(100):
        world.publish("t", b"x" * 1_000)
    assert len(peer.payloads()) == 4
    assert world.broker.counters.dropped_queue_full == 96


def test_the_filters_of_all_sessions_are_bounded_together() -> None:
    world = World(subscription_bytes_total_max=3 * tree_bytes("a"))
    router = world.broker.router
    first, _, _ = world.connect("first")
    second, _, _ = world.connect("second")
    for session, name in ((first, "a"), (first, "b"), (second, "a")):
        assert router.has_room_for(session, name)
        world.subscribe(session, name)
    assert not router.has_room_for(second, "b")
    assert router.has_room_for(second, "a"), "renewing a subscription needs no room"
    router.unsubscribe(first, "b")
    assert router.has_room_for(second, "b")


def test_clients_and_sessions_are_bounded_but_a_takeover_is_not_a_new_one() -> None:
    world = World(clients_max=2, sessions_max=3)
    first, peer, _ = world.connect("a", expiry_s=60)
    world.connect("b", expiry_s=60)
    with pytest.raises(Fault, match="0x89"):
        world.connect("c")
    world.connect("b", expiry_s=60)
    world.broker.lost(first, peer)
    third, peer, _ = world.connect("c", expiry_s=60)
    world.broker.lost(third, peer)
    with pytest.raises(Fault, match="0x97"):
        world.connect("d")
    assert world.connect("a", expiry_s=60)[2]


@pytest.mark.parametrize(("limit", "kept"), [({"queue_messages_max": 3}, 3), ({"queue_bytes_max": 50}, 4)])
def test_the_queue_of_an_absent_client_is_bounded_and_keeps_what_came_first(
    limit: dict[str, int], kept: int
) -> None:
    world = World(**limit)
    session, peer, _ = world.connect("c", expiry_s=60)
    world.subscribe(session, "t")
    world.broker.lost(session, peer)
    for number in range(10):
        world.publish("t", b"%011d" % number)
    _, peer, _ = world.connect("c", expiry_s=60)
    assert [int(payload) for payload in peer.payloads()] == list(range(kept))
    assert world.broker.counters.dropped_queue_full == 10 - kept


def test_qos_0_for_an_absent_client_is_counted_not_kept() -> None:
    world = World()
    session, peer, _ = world.connect("c", expiry_s=60)
    world.subscribe(session, "t")
    world.broker.lost(session, peer)
    world.publish("t", qos=0)
    assert (len(session.outbox), world.broker.counters.dropped_offline) == (0, 1)


def test_long_topics_fill_the_cache_of_plans_sooner() -> None:
    world = World(routes_cached_max=100)
    for number in range(100):
        world.publish(f"{number}{'x' * 1_280}", qos=0)
        assert len(world.broker.router._plans) <= 9


def test_the_cache_of_plans_is_bounded() -> None:
    world = World(routes_cached_max=10)
    session, peer, _ = world.connect("c")
    world.subscribe(session, "#")
    for number in range(100):
        world.publish(f"t/{number}", qos=0)
        assert len(world.broker.router._plans) <= 10
    assert len(peer.take()) == 100
