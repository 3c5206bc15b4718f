"""The documented names: they look at the core, and change it through its one door."""

from itertools import count

import pytest

from cloud.federated.facade import FederatedCoordinator, FederatedState
from tests.unit.cloud.federated.world import JOB_NAME, World, learner, spec, update


@pytest.fixture
def world(tmp_path):
    one = World(tmp_path, clients=())
    yield one
    one.executor.close()


def facade(world: World) -> FederatedCoordinator:
    numbers = count()
    return FederatedCoordinator(world.core, world.feed, lambda: f"c{next(numbers)}")


def test_the_states_are_the_documented_ones():
    assert [one.name for one in FederatedState] == [
        "INITIALIZING",
        "TRAINING",
        "AGGREGATING",
        "COMPLETED",
        "ERROR",
    ]


def test_clients_register_rounds_begin_and_updates_are_aggregated(world):
    federated = facade(world)
    for client in "abc":
        assert federated.register_client(client, learner(epoch=2))
    assert not federated.register_client("a", learner(epoch=1)), "an older word"
    assert set(federated.get_clients()) == set("abc")
    assert federated.initialize_round(spec(rounds=1)) is None, "its first version is being made"
    world.works_done()
    assert federated.get_state(JOB_NAME) is FederatedState.TRAINING
    fact = world.fact()
    for client in "abc":
        for part in update(client, fact):
            federated.receive_model_update(client, JOB_NAME, 1, part)
    world.works_done()
    assert federated.get_state(JOB_NAME) is FederatedState.COMPLETED
    assert federated.get_status(JOB_NAME)["version"] == 1


def test_a_failed_round_is_reset(world):
    federated = facade(world)
    federated.register_client("a", learner())
    federated.register_client("b", learner())
    federated.initialize_round(spec(deadline_s_max=10.0))
    world.works_done()
    assert not federated.reset(JOB_NAME)
    world.tick(4.0)
    world.tick(11.0)
    assert federated.get_state(JOB_NAME) is FederatedState.ERROR
    assert federated.reset(JOB_NAME)
    assert federated.get_state(JOB_NAME) in (FederatedState.INITIALIZING, FederatedState.TRAINING)


def test_what_is_asked_of_a_job_that_is_not_there(world):
    federated = facade(world)
    assert federated.get_state("nobody") is None
    assert federated.get_status("nobody") is None
    assert not federated.reset("nobody")
    assert not federated.stop("nobody")


def test_a_job_can_be_stopped(world):
    federated = facade(world)
    federated.register_client("a", learner())
    federated.initialize_round(spec())
    world.works_done()
    assert federated.stop(JOB_NAME)
    assert federated.get_state(JOB_NAME) is FederatedState.COMPLETED
