from hypothesis import given
from hypothesis import strategies as st

from broker.bus import BusStats
from broker.outbox import Outbox, Outgoing


def box(messages_max=10, bytes_max=1000):
    return Outbox(messages_max, bytes_max, BusStats())


def event(number, payload=b"", expires_at=None):
    return Outgoing("e", payload, qos=1, number=number, expires_at=expires_at)


def fact(number, topic="f", payload=b""):
    return Outgoing(topic, payload, qos=1, retain=True, number=number)


def drain(outbox, now=0.0):
    taken = []
    while (message := outbox.take(now)) is not None:
        taken.append(message.number)
    return taken


def test_messages_leave_in_the_order_they_came():
    outbox = box()
    for number in range(5):
        assert outbox.put(event(number))
    assert drain(outbox) == [0, 1, 2, 3, 4]


def test_a_newer_fact_takes_the_place_of_the_older_but_at_the_back():
    outbox = box()
    for message in (fact(1, "a"), fact(2, "b"), event(3), fact(4, "a")):
        assert outbox.put(message)
    assert drain(outbox) == [2, 3, 4]


def test_a_fact_can_change_in_a_full_outbox():
    outbox = box(messages_max=1)
    assert outbox.put(fact(1))
    assert not outbox.put(event(2))
    assert outbox.put(fact(3))
    assert drain(outbox) == [3]


def test_a_fact_that_grew_over_the_bound_leaves_the_older_one_in_place():
    outbox = box(bytes_max=10)
    assert outbox.put(fact(1, payload=b"12345"))
    assert not outbox.put(fact(2, payload=b"1234567890"))
    assert drain(outbox) == [1]


def test_what_expired_is_dropped_when_its_turn_comes():
    stats = BusStats()
    outbox = Outbox(10, 1000, stats)
    outbox.put(event(1, expires_at=5.0))
    outbox.put(event(2, expires_at=15.0))
    assert drain(outbox, now=5.0) == [2]
    assert stats.dropped_expired == 1


def test_what_was_in_flight_goes_back_to_the_front_unless_a_newer_fact_waits():
    outbox = box()
    outbox.put(fact(3, "a"))
    outbox.put(event(4))
    outbox.requeue([fact(1, "a"), event(2)])
    assert drain(outbox) == [2, 3, 4]


def test_the_time_that_is_left_is_rounded_up():
    message = event(1, expires_at=10.0)
    assert [message.expiry_s(now) for now in (0.0, 0.5, 9.9, 10.0, 11.0)] == [10, 10, 1, 0, -1]
    assert event(1).expiry_s(0.0) is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("event"), st.integers(0, 40)),
            st.tuples(st.sampled_from("abc"), st.integers(0, 40)),
            st.tuples(st.just("take"), st.just(0)),
        )
    )
)
def test_neither_bound_is_ever_passed_and_the_bytes_are_counted_right(history):
    outbox, inside = box(messages_max=4, bytes_max=100), {}
    for number, (what, size) in enumerate(history):
        if what == "take":
            taken = outbox.take(0.0)
            assert (taken is None) == (not inside)
            if taken is not None:
                assert taken.number == min(message.number for message in inside.values())
                inside = {key: one for key, one in inside.items() if one.number != taken.number}
            continue
        message = Outgoing(what, b"x" * size, qos=1, retain=what != "event", number=number)
        if outbox.put(message):
            inside[what if message.retain else number] = message
        assert len(outbox) == len(inside) <= 4
        assert outbox.bytes_waiting == sum(len(m.topic) + len(m.payload) for m in inside.values()) <= 100
