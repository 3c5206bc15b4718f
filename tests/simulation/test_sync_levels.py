"""What each consistency level promises, in a world where time, disks and links are ours. docs/sync.md names
these tests beside its table."""

import asyncio

import pytest

from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.sync.client import How
from cloud.sync.events import DeployModel, ModelDeployed
from cloud.sync.records import TaskStatus
from edge.sync.data import Data
from shared.messages import ModelState, ReplyStatus
from shared.parcels import head_of
from shared.sync import (
    ConsistencyLevel,
    Digest,
    Offer,
    Required,
    Status,
    SyncMessage,
    SyncStrategy,
    SyncVerb,
)
from shared.sync_views import ConflictView, KeyView, PutResult, SyncTaskView
from shared.wire import encode, unpacked
from tests.support.syncing import World, client_of

STRONG, EVENTUAL, WEAK = ConsistencyLevel.STRONG, ConsistencyLevel.EVENTUAL, ConsistencyLevel.WEAK
ALL = ("n1", "n2", "n3")
COMPARE_S = 40.0  # longer than a device waits between two comparisons


def ok(world: World, correlation: str) -> PutResult:
    reply = world.replies[correlation]
    assert reply.status is ReplyStatus.OK, reply
    return unpacked(reply.body, PutResult)


def on_disk(world: World, key: str) -> dict[str, int]:
    """Who has the key on its disk, at which revision."""
    return {
        name: site.store.entries[key].revision
        for name, site in world.devices.items()
        if key in site.store.entries
    }


# STRONG ---------------------------------------------------------------------------------------------


def test_a_strong_write_is_a_success_when_it_is_journaled_and_on_the_required_disks():
    world = World(1, disk_s=(0.5, 1.0)).start()
    asked = world.put("k", 1, *ALL, level=STRONG)
    while asked not in world.replies:
        world.run(0.01)
    assert world.cloud.store.records["k"].entry.revision == 1
    assert on_disk(world, "k") == dict.fromkeys(ALL, 1)
    assert ok(world, asked).acked == ALL


def test_a_majority_is_enough_where_a_majority_is_required():
    world = World(2).start()
    world.put("k", 0, *ALL, level=STRONG)
    world.run(2)
    world.partition("n3")
    asked = world.put("k", 1, required=Required.MAJORITY)
    world.run(2)
    assert ok(world, asked).acked == ("n1", "n2")
    world.heal("n3")
    world.until(lambda: world.devices["n3"].get("k") == 1)


def test_a_strong_read_sees_every_write_that_was_a_success_before_it():
    world = World(3).start()
    world.put("k", 0, *ALL, level=STRONG)
    world.run(2)
    for value in range(1, 20):
        writer, reader = world.devices[f"n{value % 3 + 1}"], world.devices[f"n{value % 2 + 1}"]
        put = writer.put("k", value)
        world.until(lambda: put in writer.answers)  # noqa: B023
        assert writer.answers[put].status is Status.OK
        read = reader.read_strongly("k")
        world.until(lambda: read in reader.answers)  # noqa: B023
        assert reader.answers[read].value == bytes([value])
        assert reader.answers[read].revision == value + 1


def test_a_strong_read_of_a_cloud_whose_term_is_over_is_never_answered():
    world = World(4).start()
    asked = world.put("k", 1, *ALL, level=STRONG)
    world.run(2)
    ok(world, asked)
    world.cloud.store.term += 1  # a second cloud has opened the store
    read = world.ask(SyncVerb.GET, "k")
    write = world.put("k", 2)
    world.run(30)
    assert read not in world.replies
    assert world.replies[write].code == "indeterminate"
    later = world.ask(SyncVerb.GET, "k")
    world.run(1)
    assert world.replies[later].code == "starting"
    assert "term 2 serves" in world.replies[later].detail
    assert world.devices["n1"].get("k") == 1


def test_a_stale_version_is_a_conflict_and_nothing_is_written():
    world = World(5).start()
    for expected, value in ((0, "first"), (1, "second"), (1, "stale"), (0, "stale")):
        asked = world.put("k", value, *ALL, level=STRONG, expected=expected)
        world.run(1)
        if value == "stale":
            assert world.replies[asked].code == "conflict"
            assert "revision 2" in world.replies[asked].detail
        else:
            assert ok(world, asked).revision == expected + 1
    device = world.devices["n2"]
    put = device.put("k", "stale", expected=1)
    world.run(1)
    assert (device.answers[put].status, device.answers[put].revision) == (Status.CONFLICT, 2)
    assert {world.value("k"), *(one.get("k") for one in world.devices.values())} == {"second"}


def test_of_two_racing_compare_and_sets_exactly_one_wins():
    world = World(6).start()
    world.put("k", 0, *ALL, level=STRONG)
    world.run(1)
    puts = [(device, device.put("k", device.name, expected=1)) for device in world.devices.values()]
    world.run(2)
    statuses = sorted(device.answers[put].status for device, put in puts)
    assert statuses == [Status.CONFLICT, Status.CONFLICT, Status.OK]


def test_a_strong_write_with_too_few_replicas_is_indeterminate_and_may_land_later_exactly_once():
    world = World(7).start()
    world.put("k", 0, *ALL, level=STRONG)
    world.run(1)
    world.partition("n3")
    asked = world.put("k", 1, expected=1, budget_s=3.0, operation=(77, 1))
    world.run(2.5)
    assert asked not in world.replies, "never reported before the deadline"
    world.run(1)
    assert (world.replies[asked].status, world.replies[asked].code) == (ReplyStatus.FAILED, "indeterminate")
    again = world.put("k", 1, expected=1, budget_s=60.0, operation=(77, 1))
    world.run(1)
    assert again not in world.replies
    world.heal("n3")
    world.until(lambda: again in world.replies)
    assert ok(world, again).revision == 2, "the same operation, done once"
    assert world.devices["n3"].get("k") == 1
    third = world.put("k", 1, expected=1, operation=(77, 1))
    world.run(1)
    assert ok(world, third).revision == 2


def test_a_strong_write_of_a_device_without_a_cloud_is_refused_and_one_that_was_sent_is_indeterminate():
    world = World(8).start()
    world.put("k", 0, *ALL, level=STRONG)
    world.run(1)
    device = world.devices["n1"]
    world.partition("n1")
    put = device.put("k", 1, budget_s=2.0)
    world.run(3)
    assert (device.answers[put].status, device.answers[put].code) == (Status.REFUSED, "offline")
    world.heal("n1")
    world.run(1)
    world.net.loss = 1.0
    put = device.put("k", 2, budget_s=2.0)
    world.run(3)
    assert device.answers[put].status is Status.INDETERMINATE


def test_a_strong_write_survives_the_clouds_crash_or_never_was():
    world = World(9, disk_s=(0.2, 0.4)).start()
    world.put("k", 0, *ALL, level=STRONG)
    world.run(3)
    lost = world.put("k", 1)
    world.run(0.05)  # asked, and not on the disk yet
    world.cloud.crash()
    world.cloud.boot()
    world.run(3)
    assert lost not in world.replies
    assert {world.value("k"), *(one.get("k") for one in world.devices.values())} == {0}
    kept = world.put("k", 2)
    world.run(0.6)  # on the cloud's disk, on no other
    world.cloud.crash()
    world.cloud.boot()
    world.until(lambda: {one.get("k") for one in world.devices.values()} == {2})
    task = f"app.{kept}"
    world.until(lambda: world.cloud.core.tasks.tasks[task].status is TaskStatus.DONE)


# EVENTUAL -------------------------------------------------------------------------------------------


def test_an_eventual_write_returns_when_it_is_on_the_own_disk_and_needs_no_network():
    world = World(11, disk_s=(0.2, 0.3)).start()
    device = world.devices["n1"]
    world.partition("n1")
    put = device.put("k", {"a": 1})
    assert put not in device.answers
    world.run(0.5)
    assert device.answers[put].status is Status.OK
    device.crash()
    device.boot(connected=False)
    assert device.get("k") == {"a": 1}


def test_an_eventual_read_is_local_and_sees_the_own_writes_at_once():
    world = World(12).start()
    device = world.devices["n1"]
    world.partition("n1")
    device.put("k", 1)
    assert device.get("k") == 1
    assert world.value("k") is None


def test_concurrent_eventual_writes_are_merged_field_by_field_and_the_loser_is_shown():
    world = World(13).start()
    world.put("k", {"a": 0, "b": 0, "c": 0}, *ALL)
    world.run(2)
    for node in ALL:
        world.partition(node)
    world.devices["n1"].put("k", {"a": 1, "b": 0, "c": 0})
    world.devices["n2"].put("k", {"a": 0, "b": 2, "c": 2})
    world.run(1)
    world.devices["n3"].put("k", {"a": 0, "b": 0, "c": 3})
    for node in ALL:
        world.heal(node)
    world.until(lambda: world.converged)
    assert world.devices["n1"].get("k") == {"a": 1, "b": 2, "c": 3}
    asked = world.ask(SyncVerb.CONFLICTS)
    world.run(0.1)
    (conflict,) = unpacked(world.replies[asked].body, list[ConflictView])
    assert (conflict.field, conflict.won_by, conflict.won, conflict.lost) == ("c", "n3", 3, {"n2": 2})
    world.put("k", {"a": 1, "b": 2, "c": 3})
    world.until(lambda: world.converged)
    asked = world.ask(SyncVerb.CONFLICTS)
    world.run(0.1)
    assert unpacked(world.replies[asked].body, list[ConflictView]) == []


def test_desired_state_is_settled_by_the_cloud_and_reported_state_by_the_device():
    world = World(14).start()
    world.ask(SyncVerb.PUT, "rate", value={"hz": 1}, targets=("n1",), setting="desired")
    device = world.devices["n1"]
    device.put("reported/n1/rate", {"hz": 1})
    world.run(2)
    world.partition("n1")
    world.ask(SyncVerb.PUT, "rate", value={"hz": 5}, targets=("n1",), setting="desired")
    world.run(1)
    device.put("desired/n1/rate", {"hz": 9})  # later, and the cloud's all the same
    device.put("reported/n1/rate", {"hz": 9})
    world.heal("n1")
    world.until(lambda: world.converged)
    assert device.get("desired/n1/rate") == world.value("desired/n1/rate") == {"hz": 5}
    assert world.value("reported/n1/rate") == {"hz": 9}
    assert "node/n1/down/desired/rate" in world.net.retained
    assert "node/n1/up/reported/rate" in world.net.retained


def test_writes_for_a_replica_that_is_offline_are_queued_and_compacted_per_key():
    world = World(15).start()
    world.put("k", 0, *ALL)
    world.run(2)
    world.partition("n1")
    world.cloud.see("n1", NodeStatus.OFFLINE)
    for value in range(1, 101):
        world.put("k", value)
        world.run(0.1)
    assert list(world.cloud.core.fleet.peers["n1"].lane.items) == ["k"]
    sent = world.net.counts["sent"]
    world.heal("n1")
    world.until(lambda: world.devices["n1"].get("k") == 100)
    assert world.net.counts["sent"] - sent < 10


# WEAK -----------------------------------------------------------------------------------------------


def test_a_weak_write_returns_at_once_and_is_on_no_disk():
    world = World(21).start()
    asked = world.put("k", 1, *ALL, level=WEAK)
    world.run(0.2)
    assert ok(world, asked).status == "done"
    assert {one.get("k") for one in world.devices.values()} == {1}
    assert "k" not in world.cloud.store.records
    assert on_disk(world, "k") == {}


def test_a_weak_read_is_local_and_may_miss():
    world = World(22).start()
    world.put("k", 1, *ALL, level=WEAK)
    world.run(0.2)
    device = world.devices["n1"]
    device.crash()
    device.boot()
    assert device.get("k") is None
    world.net.loss = 1.0
    world.put("k", 2)
    world.run(5)
    assert world.devices["n2"].get("k") == 1


def test_of_weak_writes_the_last_that_arrives_holds():
    world = World(23).start()
    world.put("k", "cloud", *ALL, level=WEAK)
    world.run(0.2)
    world.devices["n2"].skew_ms = -3_600_000
    world.devices["n2"].put("k", "device")
    world.run(0.2)
    assert world.devices["n3"].get("k") == "device"
    asked = world.ask(SyncVerb.GET, "k")
    world.run(0.2)
    assert unpacked(world.replies[asked].body, KeyView).value == "device"


def test_a_weak_write_for_a_replica_that_is_offline_is_dropped_and_counted():
    world = World(24).start()
    world.put("k", 0, *ALL, level=WEAK)
    world.run(0.2)
    world.partition("n1")
    world.cloud.see("n1", NodeStatus.OFFLINE)
    asked = world.put("k", 1)
    device = world.devices["n1"]
    put = device.put("k", 2)
    world.run(0.2)
    ok(world, asked)
    assert world.cloud.core.weak.dropped == {"n1": 1}
    assert device.answers[put].status is Status.OK
    assert device.core.weak_dropped == 1
    assert world.value("k") is None
    assert world.devices["n2"].get("k") == 1


# Strategies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ConsistencyLevel)
@pytest.mark.parametrize("strategy", SyncStrategy)
def test_every_strategy_moves_data_at_every_level_in_both_directions(strategy, level):
    world = World(31).start()
    asked = world.put("k", "down", *ALL, level=level, strategy=strategy, budget_s=90.0)
    world.run(0.09)
    early = {one.get("k") for one in world.devices.values()}
    assert (early == {None}) == (
        strategy in (SyncStrategy.PULL, SyncStrategy.PUSH) and level is not WEAK
    ) or (strategy is not SyncStrategy.EVENT_DRIVEN)
    world.until(lambda: {one.get("k") for one in world.devices.values()} == {"down"}, COMPARE_S)
    world.until(lambda: asked in world.replies, COMPARE_S)
    ok(world, asked)
    put = world.devices["n1"].put("k", "up", budget_s=90.0)
    # What is pulled goes up at one device's schedule, and down at another's.
    world.until(lambda: world.devices["n2"].get("k") == "up", 2 * COMPARE_S)
    world.until(lambda: put in world.devices["n1"].answers, COMPARE_S)
    assert world.devices["n1"].answers[put].status is Status.OK


def test_pull_sends_nothing_before_the_device_asks_and_hybrid_no_payload():
    for strategy, said in ((SyncStrategy.PULL, []), (SyncStrategy.HYBRID, [Offer] * 3)):
        world = World(32).start()
        world.net.loss = 1.0  # nobody hears of it, so nobody asks
        heard: list[object] = []
        publish = world.net.publish
        world.net.publish = lambda to, message: (heard.append(message), publish(to, message))  # noqa: B023
        world.put("k", "x" * 10_000, *ALL, strategy=strategy)
        world.run(0.5)
        parts = [one.part for one in heard if isinstance(one, SyncMessage)]
        assert [type(part) for part in parts if not isinstance(part, Digest)] == said
        assert sum(len(encode(one)) for one in heard) < 1_000


@pytest.mark.parametrize("level", ConsistencyLevel)
@pytest.mark.parametrize("strategy", SyncStrategy)
def test_every_strategy_moves_configuration_at_every_level(strategy, level):
    world = World(33).start()
    asked = world.ask(
        SyncVerb.PUT,
        "rate",
        value=5,
        targets=ALL,
        setting="desired",
        level=level,
        strategy=strategy,
        budget_s=90.0,
    )
    world.until(
        lambda: {one.get(f"desired/{node}/rate") for node, one in world.devices.items()} == {5}, COMPARE_S
    )
    world.until(lambda: asked in world.replies, COMPARE_S)
    assert ok(world, asked).targets == ALL


@pytest.mark.parametrize("level", ConsistencyLevel)
@pytest.mark.parametrize("strategy", SyncStrategy)
def test_every_strategy_moves_models_at_every_level(strategy, level):
    world = World(34).start()
    asked = world.ask(
        SyncVerb.MODEL, "digits", targets=("n1", "n2"), strategy=strategy, level=level, budget_s=90.0
    )
    world.run(0.5)
    assert bool(world.performed) == (strategy is not SyncStrategy.PULL)
    nodes = lambda: {node for one in world.performed if isinstance(one, DeployModel) for node in one.targets}  # noqa: E731
    world.until(lambda: nodes() == {"n1", "n2"}, COMPARE_S)
    assert (asked in world.replies) == (level is not STRONG)
    task = f"app.{asked}"
    for node in ("n1", "n2"):
        world.cloud.member.feed(ModelDeployed(task, "d1"))
        fact = NodeFact(node, 1, NodeStatus.IDLE, models={"digits": ("d1", ModelState.READY)})
        world.cloud.member.feed(NodeChanged(fact))
    world.run(0.5)
    assert ok(world, asked).acked == (("n1", "n2") if level is STRONG else ())
    status = world.ask(SyncVerb.STATUS, task)
    world.run(0.1)
    assert unpacked(world.replies[status].body, SyncTaskView).status == "done"


# Large values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [STRONG, EVENTUAL])
def test_a_large_value_is_announced_fetched_in_parts_and_seen_whole(level):
    world = World(41).start()
    client, large = client_of(world), {"picture": bytes(range(256)) * 1000}
    how = How(level, SyncStrategy.EVENT_DRIVEN)

    def here(node: str) -> object:
        return Data(world.devices[node].core, world.devices[node].member.feed).get("room/picture")

    asyncio.run(client.put("room/picture", large, ALL, how))
    world.until(lambda: all(here(node) == large for node in ALL))
    assert asyncio.run(client.get("room/picture")).value == large
    assert [one.key for one in asyncio.run(client.keys())] == ["room/picture"]
    parts = [name for name in world.cloud.store.records if head_of(name)]
    assert len(parts) == 5
    asyncio.run(client.put("room/picture", "small", (), How()))
    world.until(lambda: all(here(node) == "small" for node in ALL) and world.converged)
    assert all(world.cloud.core.journal.read(name).erased for name in parts)
    assert all(one.get(name) is None for one in world.devices.values() for name in parts)
