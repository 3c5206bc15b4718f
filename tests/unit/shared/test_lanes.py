"""What waits for one peer: the urgent first, nobody for ever, the hopeless out of the way."""

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.journal import Journal
from shared.lanes import AGEING_S, Lane, LaneLimits
from shared.versions import Entry, fields_in, written


def lane(**limits: float) -> Lane:
    return Lane(lambda: 0.5, LaneLimits(**limits), online=True)


def test_the_most_urgent_goes_first_and_waiting_makes_urgent():
    one = lane()
    one.add("dull", 1, 0.0)
    one.add("urgent", 8, 60.0)
    assert one.due(60.0) == ["urgent", "dull"]
    assert one.due(7 * AGEING_S + 61.0) == ["urgent", "dull"]
    one.add("newer", 8, 200.0)
    assert one.due(200.0)[-1] == "newer"


def test_requests_for_the_same_key_merge_and_only_the_newest_state_counts_as_acknowledged():
    one = lane()
    one.add("a", 5, 0.0)
    number = one.sent(["a"], 0.0)
    one.add("a", 5, 1.0)
    assert one.due(1.0) == []
    assert one.acknowledged(number, (), (), 2.0) == []
    assert one.due(2.0) == ["a"]
    assert one.acknowledged(one.sent(["a"], 2.0), (), (), 3.0) == ["a"]
    assert not one.items


def test_what_is_not_acknowledged_is_sent_again_after_growing_pauses_and_then_given_up():
    one = lane(attempts_max=3, ack_s=5.0, backoff_s=1.0)
    one.add("a", 5, 0.0)
    waits, now = [], 0.0
    while one.items:
        now = max(now, one.items["a"].due)
        waits.append(now)
        one.sent(["a"], now)
        now += 5.0
        died = one.expire(now)
    assert died == ["a"]
    assert waits == [0.0, 6.0, 13.0]
    assert one.dead["a"].reason == "not acknowledged 3 times"
    one.add("a", 5, now)
    assert "a" not in one.dead


def test_a_peer_that_is_away_is_not_counted_against_and_starts_at_once_when_it_is_back():
    one = lane(attempts_max=2)
    one.add("a", 5, 0.0)
    one.sent(["a"], 0.0)
    one.down()
    assert one.expire(100.0) == []
    assert one.due(100.0) == []
    one.up(101.0)
    assert one.due(101.0) == ["a"]


def test_one_refused_entry_does_not_hold_up_the_others():
    one = lane()
    for name in ("bad", "good"):
        one.add(name, 5, 0.0)
    number = one.sent(["bad", "good"], 0.0)
    assert one.acknowledged(number, [("bad", "too large")], (), 1.0) == ["good"]
    assert one.dead["bad"].reason == "too large"


def test_what_is_held_waits_until_it_is_asked_for():
    one = lane()
    one.add("a", 5, 0.0, held=True)
    assert one.due(9.0) == []
    one.add("a", 5, 9.0, held=True)
    assert one.due(9.0) == []
    one.release(["a", "unknown"], 9.0)
    assert one.due(9.0) == ["a"]


def test_the_window_and_the_bounds_hold():
    one = lane(window=1, items_max=2, dead_max=1)
    assert one.add("a", 5, 0.0)
    assert one.add("b", 5, 0.0)
    assert not one.add("c", 5, 0.0)
    assert one.dropped == 1
    one.sent(["a"], 0.0)
    assert one.due(0.0) == []
    one.bury("a", "x", 0.0)
    one.bury("b", "y", 0.0)
    assert list(one.dead) == ["b"]


acts = st.lists(
    st.tuples(
        st.sampled_from(["add", "send", "ack", "refuse", "expire", "up", "down", "drop"]), st.integers(0, 5)
    ),
    max_size=60,
)


def send(one: Lane, now: float) -> None:
    due = one.due(now)
    if due:
        one.sent(due[:2], now)


@settings(max_examples=200, deadline=None)
@given(acts)
def test_any_history_keeps_the_lane_in_order(history):
    one, now = lane(attempts_max=3, window=3), 0.0
    for what, number in history:
        now += 1.7
        name = f"k{number}"
        do = {
            "add": partial(one.add, name, number, now),
            "send": partial(send, one, now),
            "ack": partial(one.acknowledged, one.number - number, (), (), now),
            "refuse": partial(one.acknowledged, one.number - number, [(name, "no")], (), now),
            "expire": partial(one.expire, now),
            "up": partial(one.up, now),
            "down": one.down,
            "drop": partial(one.drop, name),
        }
        do[what]()
        one.check()


def test_a_journal_lets_nobody_see_what_is_not_durable_and_loses_nothing_of_a_save_that_failed():
    journal = Journal()
    first = written(Entry("a"), ("n1", 1, 1), 1, fields_in(1))
    journal.write(first)
    journal.take()
    second = written(first, ("n1", 1, 2), 2, fields_in(2))
    journal.write(second)
    assert journal.read("a") == second
    assert "a" not in journal.replica
    journal.failed()
    journal.check()
    assert journal.next.entries == {"a": second}
    journal.take()
    journal.forget("a")
    assert journal.newest("a") is None
    assert journal.saved().entries == {"a": second}
    assert journal.replica.get("a") == second
    journal.take()
    journal.saved()
    assert "a" not in journal.replica
