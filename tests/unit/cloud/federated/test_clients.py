"""Clients that cannot speak MQTT: an application registers them, and speaks for them."""

import numpy as np
import pytest

from cloud.federated.clients import CLIENTS_MAX
from cloud.federated.events import Asker, LearnerAsked, LearnerSeen, PartArrived, SaveClients
from shared.codecs import encode
from shared.core import Failed
from shared.learning import Learner, LearnerAsk, Receipt, Task
from shared.messages import Reply, ReplyStatus
from shared.wire import unpacked
from tests.unit.cloud.federated.test_assembly import header
from tests.unit.cloud.federated.world import (
    JOB_NAME,
    RAW,
    World,
    digest_of,
    learner,
    package,
    parts,
    update,
)

NIL = b"\xc0"


@pytest.fixture
def world(tmp_path):
    one = World(tmp_path, clients=("a", "b"))
    yield one
    one.executor.close()


def register(world: World, client: str, said: Learner | None, app: str = "app", *, work: bool = True) -> None:
    ask = LearnerAsk(correlation=f"{client}-{len(world.replies)}", budget_s=5.0, client=client, learner=said)
    world.feed(LearnerAsked(app, ask))
    if work:
        world.works_done()


def answers(world: World, client: str, app: str = "app", **claims: object) -> list[Reply]:
    """All parts of a client's answer, through its application."""
    before, fact = len(world.replies), world.fact()
    for part in update(client, fact, **claims):
        asker = Asker(app, f"{client}-{part.index}")
        world.feed(PartArrived(client, JOB_NAME, fact.round, part, asker))
        world.works_done()
    return world.replies[before:]


def test_a_registered_client_is_asked_and_its_receipt_is_the_reply_to_its_last_part(world):
    register(world, "phone", learner())
    assert world.replies[-1].status is ReplyStatus.OK
    world.create()
    assert world.fact().cohort == ("a", "b", "phone")
    (reply,) = answers(world, "phone")
    receipt = unpacked(reply.body, Receipt)
    assert (receipt.status, reply.correlation) == ("accepted", "phone-0")
    assert world.receipts == [], "nobody listens on a topic of that name"
    (reply,) = answers(world, "phone")
    assert unpacked(reply.body, Receipt).status == "duplicate"


def test_a_refusal_of_the_first_part_is_the_reply_too(world):
    register(world, "phone", learner())
    world.create()
    (reply,) = answers(world, "phone", task=Task.EVALUATE, size_bytes=0)
    assert unpacked(reply.body, Receipt).reason == "wrong-task"


def test_parts_before_the_last_are_answered_with_nothing(world):
    big = package("big", "train_step", "evaluate", w=np.zeros(30_000, np.float32))
    world.shelf.packages[digest_of(big)] = big
    register(world, "phone", learner())
    world.create(package=digest_of(big), codec=RAW)
    ref, before = world.fact().model, len(world.replies)
    delta = np.random.default_rng(1).standard_normal(30_000).astype(np.float32) / 100
    data = encode(RAW, delta, None, np.random.default_rng(0)).data
    claim = header(
        data, version=0, codec="f32", n_params=ref.n_params, layout_hash=ref.layout_hash, weight=5, steps=5
    )
    for part in parts(claim, data):
        world.feed(PartArrived("phone", JOB_NAME, 1, part, Asker("app", f"c{part.index}")))
    world.works_done()
    first, last = world.replies[before:]
    assert (first.correlation, bytes(first.body)) == ("c0", NIL)
    assert (last.correlation, unpacked(last.body, Receipt).status) == ("c1", "accepted")


@pytest.mark.parametrize("app", ["other", "app"])
def test_nobody_speaks_for_a_client_that_is_not_its_own(world, app):
    register(world, "phone", learner())
    world.create()
    (reply,) = answers(world, "a" if app == "app" else "phone", app)
    assert (reply.status, reply.code) == (ReplyStatus.REFUSED, "not-registered")
    assert world.job_fact().accepted == 0


def test_a_device_of_the_fleet_and_a_client_of_another_application_can_not_be_registered(world):
    register(world, "phone", learner())
    for client, app in (("a", "app"), ("phone", "other"), ("Not An Id", "app")):
        register(world, client, learner(), app)
        assert (world.replies[-1].status, world.replies[-1].code) == (ReplyStatus.REFUSED, "not-yours")
    world.online("node")
    register(world, "node", learner())
    assert world.replies[-1].detail == "node is a device of the fleet"


def test_a_device_that_claims_the_name_of_a_client_is_not_believed(world):
    register(world, "phone", learner(samples=5))
    world.feed(LearnerSeen("phone", learner(samples=10**6)))
    assert world.core.fleet.learners["phone"] == learner(samples=5)


def test_registrations_survive_a_restart_and_a_client_that_left_is_gone(world):
    register(world, "phone", learner(samples=7))
    register(world, "tablet", learner())
    register(world, "tablet", None)
    world.crash()
    assert world.core.fleet.apps == {"phone": "app"}
    assert world.core.fleet.learners["phone"] == learner(samples=7)
    world.create()
    assert world.fact().cohort == ("a", "b", "phone")


def test_registrations_that_come_during_a_write_share_the_next_and_none_is_confirmed_before(world):
    for client in ("x", "y", "z"):
        register(world, client, learner(), work=False)
    assert [type(one) for one in world.works] == [SaveClients]
    assert world.replies == []
    world.work_one()
    assert [one.correlation for one in world.replies] == ["x-0"]
    assert len(world.works) == 1
    world.works_done()
    assert len(world.replies) == 3


def test_a_registration_that_the_disk_refused_is_refused(world):
    register(world, "phone", learner(), work=False)
    world.feed(Failed(world.works.popleft(), "the disk is full"))
    assert (world.replies[-1].status, world.replies[-1].code) == (ReplyStatus.REFUSED, "not-saved")


def test_the_number_of_clients_is_bounded(world):
    for number in range(CLIENTS_MAX):
        world.core.fleet.learn(f"c{number}", learner(), 0.0)
        world.core.fleet.apps[f"c{number}"] = "app"
    register(world, "phone", learner(), work=False)
    assert "clients are registered" in world.replies[-1].detail
    assert not world.works
