import random

from hypothesis import given
from hypothesis import strategies as st

from broker.backoff import Backoff, limit_after


@given(attempts=st.integers(0, 10_000), first_s=st.floats(0.01, 5), cap_s=st.floats(5, 300))
def test_the_limit_doubles_until_the_cap_and_never_overflows(attempts, first_s, cap_s):
    limit_s = limit_after(attempts, first_s, cap_s)
    assert first_s <= limit_s <= cap_s
    assert limit_s == cap_s or limit_after(attempts + 1, first_s, cap_s) == min(cap_s, 2 * limit_s)


@given(seed=st.integers(), lives=st.lists(st.floats(0, 100), max_size=30))
def test_a_delay_lies_between_nothing_and_the_limit(seed, lives):
    backoff = Backoff(random.Random(seed))
    for alive_s in lives:
        before = 0 if alive_s >= backoff.stable_s else backoff.attempts
        assert 0 <= backoff.ended(alive_s) <= limit_after(before, backoff.first_s, backoff.cap_s)


class Longest(random.Random):
    def uniform(self, a, b):
        return b


def test_a_connection_that_dies_young_counts_as_a_failure():
    backoff = Backoff(Longest())
    assert [backoff.ended(alive_s) for alive_s in (29, 29, 29)] == [0.5, 1.0, 2.0]


def test_a_connection_that_lived_resets_the_delays():
    backoff = Backoff(Longest())
    for _ in range(10):
        backoff.ended(0)
    assert backoff.ended(30) == 0.5


def test_a_fleet_whose_broker_restarts_is_back_within_fifteen_seconds():
    for outage_s in (0.2, 1.0, 3.0, 8.0):
        back_s = sorted(comes_back(random.Random(seed), outage_s) for seed in range(200))
        assert back_s[int(0.95 * len(back_s))] <= 15, f"outage of {outage_s} s"


def comes_back(rng: random.Random, outage_s: float) -> float:
    """Seconds from the broker's return to the first attempt after it."""
    backoff = Backoff(rng)
    at = backoff.ended(3600)
    while at < outage_s:
        at += backoff.ended(0)
    return at - outage_s
