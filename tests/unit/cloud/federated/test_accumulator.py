"""However a round's updates come together, the sum has the same bits; and it is the mean that numpy gives."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cloud.federated.accumulator import BLOCK, DELTA_MAX, FRACTION_BITS, Accumulator, check_bounds
from shared.codecs import decode, decode_sum, encode, encode_sum
from shared.errors import ConfigError, LocalError
from shared.learning import Codec

SMALL = 64  # parameters in a block, so that a few hundred make many
# Around a quarter the short cut ends; halves of 2**-24 are where rounding has to choose.
EDGES = [0.25, -0.25, 0.25 - 2**-26, -0.25 - 2**-25, 2**-25, -(2**-25), 3 * 2**-25, 16.0, -16.0, 1e-30, 0.0]
values = (
    st.floats(-0.25, 0.25, width=32)
    | st.floats(-16, 16, width=32)
    | st.sampled_from([float(np.float32(edge)) for edge in EDGES])
)


@st.composite
def rounds(draw):
    """Updates of one round: vectors of one length, each with its weight."""
    n, clients, seed = draw(st.integers(1, 200)), draw(st.integers(1, 9)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-6, 1, clients)
    found = [(rng.standard_normal(n) * scale).astype(np.float32) for scale in scales]
    found[0] = draw(hnp.arrays(np.float32, n, elements=values))
    weights = draw(st.lists(st.integers(1, 1_000_000), min_size=clients, max_size=clients))
    return list(zip(found, weights, strict=True))


def summed(updates) -> Accumulator:
    accumulator = Accumulator(updates[0][0].size, SMALL)
    for delta, weight in updates:
        accumulator.add(delta, weight)
    return accumulator


def bits(accumulator) -> tuple[bytes, bytes, int, int]:
    mean = accumulator.mean().tobytes()
    return accumulator.total.tobytes(), mean, accumulator.weight, accumulator.clients


# The same bits --------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(rounds(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_leaves_no_trace(updates, random):
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert bits(summed(shuffled)) == bits(summed(updates))


@settings(max_examples=300, deadline=None)
@given(rounds(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_gateways_may_add_up_any_part_of_the_cohort_first(updates, random, gateways):
    groups = [[] for _ in range(gateways + 1)]
    for update in updates:
        random.choice(groups).append(update)
    whole = Accumulator(updates[0][0].size, SMALL)
    for delta, weight in groups.pop():  # these have no gateway
        whole.add(delta, weight)
    for partial in (summed(group) for group in groups if group):
        total = decode_sum(encode_sum(partial.total), whole.n_params)
        whole.add_sum(total, partial.weight, partial.clients)
    assert bits(whole) == bits(summed(updates))


@settings(max_examples=300, deadline=None)
@given(rounds(), st.data())
def test_a_crash_in_the_middle_and_a_replay_from_disk_leave_no_trace(updates, data):
    """What was on disk is added again in the order of the journal, then the rest arrives in any order."""
    rng = np.random.default_rng(0)
    disk = [(encode(Codec(), delta, None, rng).data, weight) for delta, weight in updates]
    n = updates[0][0].size
    read = [(decode("int8", written, n), weight) for written, weight in disk]
    calm = summed(read)

    crash = data.draw(st.integers(0, len(read)))
    before = Accumulator(n, SMALL)
    for delta, weight in read[:crash]:
        before.add(delta, weight)
        if data.draw(st.booleans()):
            assert before.total.dtype == np.int64  # somebody looks at the sum in between
    del before
    after = Accumulator(n, SMALL)
    for delta, weight in [*read[:crash], *data.draw(st.permutations(read[crash:]))]:
        after.add(delta, weight)
    assert bits(after) == bits(calm)


def test_the_size_of_a_block_leaves_no_trace():
    rng = np.random.default_rng(1)
    deltas = [(rng.standard_normal(BLOCK + 1000) * scale).astype(np.float32) for scale in (1e-3, 1.0, 0.05)]
    found = set()
    for block in (100, 4096, BLOCK, 2 * BLOCK):
        accumulator = Accumulator(deltas[0].size, block)
        for weight, delta in enumerate(deltas, 7):
            accumulator.add(delta, weight)
        found.add(bits(accumulator))
    assert len(found) == 1


# The right bits -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rounds())
def test_the_total_is_what_python_adds_up(updates):
    expected = [
        sum(weight * round(float(delta[index]) * 2**FRACTION_BITS) for delta, weight in updates)
        for index in range(updates[0][0].size)
    ]
    assert summed(updates).total.tolist() == expected


@settings(deadline=None)
@given(rounds())
def test_the_mean_is_numpys_weighted_mean(updates):
    deltas, weights = zip(*updates, strict=True)
    mean = np.average(np.array(deltas, np.float64), axis=0, weights=weights)
    assert np.abs(summed(updates).mean() - mean).max() < 1e-6


def test_reading_the_sum_does_not_change_it():
    accumulator = Accumulator(3, SMALL)
    accumulator.add(np.array([0.1, -0.2, 0.0], np.float32), 5)
    first = bits(accumulator)
    assert bits(accumulator) == first
    accumulator.add(np.zeros(3, np.float32), 5)
    assert np.abs(accumulator.mean() - np.array([0.05, -0.1, 0])).max() < 1e-7


def test_the_largest_that_was_checked_fits():
    clip, weight, clients = 16.0, 1_000_000, 30
    check_bounds(weight * clients, clip)
    accumulator = Accumulator(2, SMALL)
    for _ in range(clients):
        accumulator.add(np.array([clip, -clip], np.float32), weight)
    assert accumulator.mean().tolist() == [clip, -clip]


# Bounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "clip"),
    [(2**63 // 2**24, 1.0), (1_000_000 * 40_000, 16.0), (1, 0.0), (1, np.nan), (1, np.inf)],
)
def test_a_job_that_could_overflow_is_refused(weight, clip):
    with pytest.raises(ConfigError, match="clip"):
        check_bounds(weight, clip)


def test_one_less_than_an_overflow_is_a_job():
    check_bounds(2**63 // 2**24 - 1, 1.0)


@pytest.mark.parametrize(
    ("delta", "weight"),
    [
        (np.zeros(2, np.float32), 1),
        (np.zeros((3, 1), np.float32), 1),
        (np.zeros(3, np.float64), 1),
        (np.zeros(3, np.float32), 0),
        (np.zeros(3, np.float32), -5),
        (np.array([0, np.nan, 0], np.float32), 1),
        (np.array([0, np.inf, 0], np.float32), 1),
        (np.array([0, -2 * DELTA_MAX, 0], np.float32), 1),
    ],
)
def test_what_no_gate_lets_through_is_our_own_bug(delta, weight):
    with pytest.raises(LocalError):
        Accumulator(3, SMALL).add(delta, weight)


def test_a_sum_of_another_type_or_length_is_our_own_bug():
    for total in (np.zeros(3, np.int32), np.zeros(4, np.int64)):
        with pytest.raises(LocalError):
            Accumulator(3, SMALL).add_sum(total, 1, 1)


def test_there_is_no_mean_of_nothing():
    with pytest.raises(LocalError, match="no updates"):
        Accumulator(3).mean()


def test_memory_does_not_grow_with_clients():
    delta = np.full(200_000, 0.01, np.float32)
    wild = np.full(200_000, 3.0, np.float32)
    tracemalloc.start()
    try:
        accumulator = Accumulator(delta.size)
        for _ in range(5):
            accumulator.add(delta, 3)
            accumulator.add(wild, 3)
        tracemalloc.reset_peak()
        few = tracemalloc.get_traced_memory()
        for _ in range(100):
            accumulator.add(delta, 3)
            accumulator.add(wild, 3)
        many = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert many[0] - few[0] < 10_000
    assert many[1] - few[0] < 2 * delta.nbytes  # scratch of one addition
