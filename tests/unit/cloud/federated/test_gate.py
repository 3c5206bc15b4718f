"""Every rule of the gate refuses what breaks it, says why, and lets an honest update through."""

from dataclasses import replace
from hashlib import sha256
from math import inf, nan

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.federated.accumulator import FRACTION_BITS
from cloud.federated.gate import (
    ATTEMPTS_MAX,
    METRICS_MAX,
    NORMS_KEPT,
    STEPS_MAX,
    Expected,
    Norms,
    check_bytes,
    check_client,
    check_delta,
    check_header,
    check_sum,
    norm_of,
)
from shared.learning import Reject, Task, UpdateHeader

EXPECTED = Expected(
    task=Task.TRAIN,
    version=7,
    layout_hash="a" * 64,
    n_params=10,
    codecs=frozenset({"int8", "sum"}),
    samples_max=1000,
    size_bytes_max=500,
)
HONEST = UpdateHeader(
    task=Task.TRAIN,
    version=7,
    codec="int8",
    n_params=10,
    layout_hash="a" * 64,
    size_bytes=5,
    digest=sha256(b"bytes").hexdigest(),
    weight=100,
    steps=5,
    train_s=0.5,
    metrics={"loss": 0.3, "hits": 9, "count": 10},
)
MEASURED = {"task": Task.EVALUATE, "size_bytes": 0, "steps": 0, "codec": ""}
GATEWAY = {"codec": "sum", "clients": 3, "members": ("a", "b", "c"), "weight": 3000}


def header(**changes) -> UpdateHeader:
    return msgspec.structs.replace(HONEST, **changes)


def reason_of(rejection):
    return rejection and rejection.reason


def test_an_honest_update_passes():
    assert check_header(HONEST, EXPECTED) is None
    assert check_bytes(HONEST, b"bytes") is None
    assert check_client("n1", ("n1", "n2"), 0) is None


def test_an_honest_evaluation_and_an_honest_gateway_pass():
    assert check_header(header(**MEASURED), replace(EXPECTED, task=Task.EVALUATE)) is None
    assert check_header(header(**GATEWAY), EXPECTED) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (MEASURED, Reject.WRONG_TASK),
        ({"version": 6}, Reject.WRONG_VERSION),
        ({"version": 8}, Reject.WRONG_VERSION),
        ({"layout_hash": "b" * 64}, Reject.WRONG_LAYOUT),
        ({"n_params": 11}, Reject.WRONG_SIZE),
        ({"size_bytes": 0}, Reject.WRONG_SIZE),
        ({"size_bytes": -1}, Reject.WRONG_SIZE),
        ({"size_bytes": 501}, Reject.WRONG_SIZE),
        ({"codec": "f32"}, Reject.UNREADABLE),
        ({"weight": 0}, Reject.WEIGHT),
        ({"weight": -1}, Reject.WEIGHT),
        ({"weight": 1001}, Reject.WEIGHT),
        ({"steps": 0}, Reject.WEIGHT),
        ({"steps": STEPS_MAX + 1}, Reject.WEIGHT),
        ({"clients": 2}, Reject.WEIGHT),
        ({"members": ("a",)}, Reject.WEIGHT),
        ({**GATEWAY, "weight": 3001}, Reject.WEIGHT),
        ({**GATEWAY, "clients": 0, "members": ()}, Reject.WEIGHT),
        ({**GATEWAY, "clients": 2}, Reject.WEIGHT),
        ({**GATEWAY, "members": ("a", "a", "b")}, Reject.WEIGHT),
        ({**GATEWAY, "clients": 2**40, "members": ()}, Reject.WEIGHT),
        ({"metrics": {"loss": nan}}, Reject.METRICS),
        ({"metrics": {"loss": inf}}, Reject.METRICS),
        ({"metrics": {"hits": 11.0, "count": 10.0}}, Reject.METRICS),
        ({"metrics": {"hits": 1.0}}, Reject.METRICS),
        ({"metrics": {"count": -1.0}}, Reject.METRICS),
        ({"metrics": {"count": 1001.0}}, Reject.METRICS),
        ({"metrics": {str(index): 0.0 for index in range(METRICS_MAX + 1)}}, Reject.METRICS),
        ({"metrics": {"x" * 65: 0.0}}, Reject.METRICS),
        ({"train_s": nan}, Reject.METRICS),
        ({"train_s": -1.0}, Reject.METRICS),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused_with_its_reason(changes, reason):
    rejection = check_header(header(**changes), EXPECTED)
    assert reason_of(rejection) is reason
    assert rejection.detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"size_bytes": 1}, Reject.WRONG_SIZE), ({"metrics": {"loss": 1.0}}, Reject.METRICS)],
)
def test_an_evaluation_has_numbers_and_no_bytes(changes, reason):
    rejection = check_header(header(**MEASURED | changes), replace(EXPECTED, task=Task.EVALUATE))
    assert reason_of(rejection) is reason


@pytest.mark.parametrize(("version", "passes"), [(8, False), (7, True), (5, True), (4, False)])
def test_an_asynchronous_job_takes_what_is_not_too_stale(version, passes):
    found = check_header(header(version=version), replace(EXPECTED, staleness_max=2))
    assert reason_of(found) is (None if passes else Reject.WRONG_VERSION)


def test_without_gateways_a_sum_is_not_taken():
    found = check_header(header(**GATEWAY), replace(EXPECTED, codecs=frozenset({"int8"})))
    assert reason_of(found) is Reject.UNREADABLE


@given(
    st.builds(
        UpdateHeader,
        task=st.sampled_from(Task),
        version=st.integers(),
        codec=st.text(max_size=5),
        n_params=st.integers(),
        layout_hash=st.text(max_size=5),
        size_bytes=st.integers(),
        digest=st.text(max_size=5),
        weight=st.integers(),
        steps=st.integers(),
        clients=st.integers(),
        train_s=st.floats(),
        metrics=st.dictionaries(st.sampled_from(["loss", "hits", "count"]), st.floats()),
    ),
    st.booleans(),
)
def test_any_header_gets_an_answer(strange, close):
    if close:  # as far as the last rules
        strange = header(weight=strange.weight, steps=strange.steps, metrics=strange.metrics)
    rejection = check_header(strange, EXPECTED)
    assert rejection is None or rejection.reason in Reject


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"byte", Reject.WRONG_SIZE), (b"", Reject.WRONG_SIZE), (b"bytez", Reject.WRONG_DIGEST)],
)
def test_other_bytes_than_announced_are_refused(data, reason):
    assert reason_of(check_bytes(HONEST, data)) is reason


def test_a_stranger_and_a_client_that_tries_all_the_time_are_refused():
    assert reason_of(check_client("n9", ("n1",), 0)) is Reject.NOT_ASKED
    assert check_client("n1", ("n1",), ATTEMPTS_MAX - 1) is None
    assert reason_of(check_client("n1", ("n1",), ATTEMPTS_MAX)) is Reject.TOO_MANY


# What was decoded -----------------------------------------------------------------------------------------


def vector(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (vector(0.1, nan), Reject.NOT_FINITE),
        (vector(inf, 0.1), Reject.NOT_FINITE),
        (vector(-inf, nan), Reject.NOT_FINITE),
        (vector(2.5, 0.0), Reject.OUT_OF_RANGE),
        (vector(0.0, -2.5), Reject.OUT_OF_RANGE),
        (vector(1.5, 1.5), Reject.NORM),
        (vector(1.0, 1.0), None),
        (vector(0.0, 0.0), None),
    ],
)
def test_numbers_are_finite_in_range_and_of_a_usual_norm(delta, reason):
    assert reason_of(check_delta(delta, norm_of(delta), 2.0, 0.2, 10.0)) is reason


@pytest.mark.parametrize("median", [None, 0.0])
def test_while_nobody_knows_what_is_usual_every_norm_is(median):
    delta = vector(1.9, 1.9)
    assert check_delta(delta, norm_of(delta), 2.0, median, 10.0) is None


def test_the_bounds_themselves_pass():
    for delta, median in ((vector(2.0, -2.0), None), (vector(2.0), 0.2)):
        assert check_delta(delta, norm_of(delta), 2.0, median, 10.0) is None


@pytest.mark.parametrize(
    ("mean", "reason"),
    [(2.5, Reject.OUT_OF_RANGE), (-2.5, Reject.OUT_OF_RANGE), (2.0, None), (-2.0, None)],
)
def test_a_gateways_sum_is_judged_by_its_mean(mean, reason):
    total = np.array([round(mean * 2**FRACTION_BITS) * 300, 0])
    assert reason_of(check_sum(total, 300, 2.0, None, 10.0)) is reason
    assert reason_of(check_sum(total, 300, 5.0, 0.1, 10.0)) is Reject.NORM


def test_the_smallest_integer_is_out_of_range():
    assert reason_of(check_sum(np.array([-(2**63)]), 1, 2.0, None, 10.0)) is Reject.OUT_OF_RANGE


def test_norms_are_summed_in_float64():
    long = np.full(1_000_000, 1e-3, np.float32)
    assert norm_of(long) == pytest.approx(np.linalg.norm(long.astype(np.float64)), rel=1e-12)
    assert norm_of(vector()) == 0


def test_what_is_usual_is_the_median_of_the_last_norms():
    norms = Norms()
    assert norms.median is None
    for norm in (1.0, 2.0):
        norms.add(norm)
    assert norms.median is None
    norms.add(100.0)
    assert norms.median == 2.0
    for _ in range(NORMS_KEPT):
        norms.add(3.0)
    assert norms.median == 3.0
    assert len(norms.values) == NORMS_KEPT
    assert Norms(norms.values).values == norms.values
