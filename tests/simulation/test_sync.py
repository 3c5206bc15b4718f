"""Replicas that are cut off, crash and lose messages come together again, and keep what was acknowledged."""

from random import Random
from typing import Any

import pytest

from shared.messages import Message
from shared.sync import SyncStrategy
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
