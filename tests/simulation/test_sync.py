"""Replicas that are cut off, crash and lose messages come together again, and keep what was acknowledged."""

from random import Random
from typing import Any

import pytest

from cloud.facts import NodeForgotten
from cloud.sync import fleet
from cloud.sync.events import Load
from shared.core import Failed
from shared.messages import Message
from shared.sync import SyncStrategy, SyncVerb
from shared.topics import Address
from shared.wire import encode
from tests.support.syncing import DeviceSite, World

DAY_S = 24 * 3600.0

KEYS = ("a", "b/c", "d", "e", "f")
EVERYBODY = ("n1", "n2", "n3", "n4", "n5")


def edit(world: World, device: DeviceSite, chance: Random) -> None:
    key, value = chance.choice(KEYS), {chance.choice("xyz"): chance.randrange(100)}
    if device.up and chance.random() < 0.6:
        device.put(key, {**(device.get(key) or {}), **value})
    elif device.up and chance.random() < 0.3:
        device.put(key, None)
    else:
        world.put(key, value)


def pull_the_cable(world: World, device: DeviceSite, chance: Random) -> None:
    if device.member is not None:
        (device.member.disconnect if device.member.up else device.member.connect)()


def cut_the_power(world: World, device: DeviceSite, chance: Random) -> None:
    if device.up:
        device.crash()
    else:
        device.boot()


def turn_the_clock(world: World, device: DeviceSite, chance: Random) -> None:
    device.skew_ms = chance.choice((0, 0, 3_600_000, -3_600_000))


def restart_the_cloud(world: World, device: DeviceSite, chance: Random) -> None:
    if chance.random() < 0.3:
        world.cloud.crash()
        world.cloud.boot()


ACTS = (edit, edit, edit, edit, edit, pull_the_cable, cut_the_power, turn_the_clock, restart_the_cloud)


def stumble(world: World, chance: Random) -> None:
    """One thing that happens, good or bad."""
    chance.choice(ACTS)(world, world.devices[chance.choice(EVERYBODY)], chance)
    world.run(chance.random())


def heal(world: World) -> None:
    world.net.loss = world.net.repetition = 0.0
    for device in world.devices.values():
        if device.member is None:
            device.boot()
        elif not device.member.up:
            device.member.connect()


@pytest.mark.parametrize("seed", range(8))
def test_after_healing_all_replicas_are_the_same_within_two_rounds(seed: int) -> None:
    world = World(seed, devices=5, loss=0.2, repetition=0.2).start()
    chance = Random(seed)
    strategies = list(SyncStrategy)
    for number, key in enumerate(KEYS):
        world.put(key, {"x": 0}, *EVERYBODY, strategy=strategies[number % 4])
    world.run(5)
    for _ in range(120):
        stumble(world, chance)
    heal(world)
    rounds = 2 * world.devices["n1"].core.compare_s * 1.25 + 1.0
    world.until(lambda: world.converged, rounds)
    for key in KEYS:
        values = {str(device.get(key)) for device in world.devices.values()} | {str(world.value(key))}
        assert len(values) == 1, (key, values)


def test_a_day_offline_moves_little_more_than_the_live_state() -> None:
    """10,000 edits of 1,000 keys; values that can't be compressed."""
    world = World(1, devices=1, disk_s=(0.0, 0.001), tick_s=20.0).start()
    device, chance = world.devices["n1"], Random(1)
    names = [f"room/{number:04d}/state" for number in range(1000)]
    live = {name: chance.randbytes(200) for name in names}
    for name, value in live.items():
        device.put(name, value)
    world.until(lambda: world.converged, 600.0)
    world.partition("n1")
    for number in range(10_000):
        name = chance.choice(names)
        live[name] = chance.randbytes(200)
        device.put(name, live[name])
        if number % 100 == 0:
            world.run(0.1)
    world.run(DAY_S)
    moved = 0
    publish = world.net.publish

    def counted(to: Address[Any], message: Message) -> None:
        nonlocal moved
        moved += len(encode(message))
        publish(to, message)

    world.net.publish = counted
    world.heal("n1")
    world.until(lambda: world.converged, 600.0)
    assert all(world.value(name) == value for name, value in live.items())
    size = sum(len(name) + len(value) for name, value in live.items())
    assert moved <= 1.3 * size
    assert moved > size / 2, "it was moved at all"


def test_a_tombstone_is_forgotten_once_everybody_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(2, devices=2).start()
    world.put("k", 1, "n1", "n2")
    world.until(lambda: world.devices["n2"].get("k") == 1)
    world.partition("n2")
    world.ask(SyncVerb.ERASE, "k")
    world.run(2 * fleet.PURGE_S)
    assert world.cloud.core.journal.replica.entries["k"].erased
    assert world.devices["n1"].get("k") is None
    world.heal("n2")
    world.until(lambda: "k" not in world.cloud.core.journal.replica, 2 * fleet.PURGE_S)
    assert "k" not in world.cloud.store.records
    assert world.cloud.core.fleet.floors == {}
    assert world.converged


def test_whoever_missed_a_forgotten_tombstone_fetches_everything_anew_and_keeps_what_is_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet, "OFFLINE_S_MAX", 300.0)
    world = World(3, devices=2).start()
    for key in ("erased", "kept", "changed"):
        world.put(key, "old", "n1", "n2")
    world.until(lambda: world.devices["n2"].get("changed") == "old" and world.converged)
    device = world.devices["n2"]
    world.partition("n2")
    device.put("own", "new")
    device.put("changed", {"by": "n2"})
    world.ask(SyncVerb.ERASE, "erased")
    world.run(400.0)
    assert "erased" not in world.cloud.core.journal.replica
    device.crash()
    device.boot(connected=False)
    assert device.get("erased") == "old"
    world.cloud.crash()
    world.cloud.boot()
    world.heal("n2")
    world.until(lambda: world.converged and device.get("erased") is None)
    assert world.value("erased") is None, "it does not come back"
    assert world.value("own") == device.get("own") == "new"
    assert world.value("changed") == device.get("changed") == {"by": "n2"}
    assert device.get("kept") == "old"
    assert device.store.cleared == world.cloud.store.cleared == 1


def test_who_spoke_before_the_cloud_had_read_its_store_is_asked() -> None:
    world = World(4, devices=1)
    device = world.devices["n1"]
    device.boot(connected=False)
    device.put("k", 1)
    world.run(1.0)
    load, world.cloud.store.restored = world.cloud.store.restored, lambda: Failed(Load(), "not yet")  # type: ignore[method-assign]
    world.cloud.boot()
    device.member.connect()
    world.run(0.2)
    world.cloud.store.restored = load  # type: ignore[method-assign]
    world.until(lambda: world.value("k") == 1, 2.0)


def test_a_node_that_was_taken_off_the_books_finds_its_keys_when_it_comes_back() -> None:
    world = World(5, devices=2).start()
    world.put("k", 1, "n1", "n2")
    world.until(lambda: world.devices["n1"].get("k") == 1)
    world.run(1.0)
    world.partition("n1")
    world.cloud.member.feed(NodeForgotten("n1"))
    world.put("k", 2)
    world.run(2.0)
    assert world.cloud.core.fleet.peers["n1"].lane.items.keys() == {"k"}
    assert not world.cloud.core.fleet.peers["n1"].lane.flights
    assert world.cloud.core.fleet.peers["n1"].lane.number == 1, "numbers are never used twice"
    world.heal("n1")
    world.until(lambda: world.devices["n1"].get("k") == 2 and world.converged)
