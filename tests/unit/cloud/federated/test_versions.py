"""How one version of a model follows from the one before, over many of them."""

import numpy as np

from cloud.federated.strategies import resolve
from cloud.federated.versions import Model, next_version
from shared.codecs import decode
from shared.learning import JobSpec, TrainingPlan
from shared.vectors import check_of

N = 700


def spec() -> JobSpec:
    return JobSpec(job="drift", package="0" * 64, plan=TrainingPlan(source="s"))


def test_a_hundred_deltas_stay_within_a_step_of_what_the_server_wanted():
    job, strategy, rng = spec(), resolve("fedavg", {}), np.random.default_rng(1)
    model = Model(0, np.zeros(N, np.float32))
    wanted, held = np.zeros(N), model.x
    for number in range(1, 101):
        change = rng.normal(0, 0.01, N).astype(np.float32)
        made = next_version(job, strategy, model, change)
        held = held + decode(made.codec, made.delta, N)
        assert check_of(held) == check_of(made.model.x), f"who follows along holds version {number}"
        wanted, model = wanted + change, made.model
    step = 0.05 / 127  # of changes that are hardly ever larger than five standard deviations
    assert np.abs(model.x - wanted).max() < 2 * step
