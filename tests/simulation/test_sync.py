"""Replicas that are cut off, crash and lose messages come together again, and keep what was acknowledged."""

from random import Random
from typing import Any

import pytest

from shared.sync import ConsistencyLevel, Status, SyncStrategy
from tests.support.syncing import World

KEYS = ("a", "b/c", "d", "e", "f")
EVERYBODY = ("n1", "n2", "n3", "n4", "n5")


def stumble(world: World, chance: Random, written: dict[str, list[Any]]) -> None:
    """One thing that happens, good or bad."""
    device = world.devices[chance.choice(EVERYBODY)]
    key, value = chance.choice(KEYS), {chance.choice("xyz"): chance.randrange(100)}
    match chance.randrange(12):
        case 0 | 1 | 2 | 3:
            if device.up:
                device.put(key, {**(device.get(key) or {}), **value})
        case 4 | 5:
            world.put(key, value)
        case 6:
            if device.up and device.get(key) is not None:
                device.put(key, None)
        case 7:
            if device.up:
                (device.member.disconnect if device.member.up else device.member.connect)()
        case 8:
            device.crash() if device.up else device.boot()
        case 9:
            device.skew_ms = chance.choice((0, 0, 3_600_000, -3_600_000))
        case 10:
            if chance.random() < 0.3:
                world.cloud.crash()
                world.cloud.boot()
        case _:
            pass
    world.run(chance.random())


def heal(world: World) -> None:
    world.net.loss = world.net.repetition = 0.0
    for device in world.devices.values():
        if not device.up:
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
        stumble(world, chance, {})
    heal(world)
    rounds = 2 * world.devices["n1"].core.compare_s * 1.25
    world.until(lambda: world.converged, rounds)
    assert len({str(device.get(key)) for device in world.devices.values() for key in ("a",)}) == 1
    for key in KEYS:
        values = {str(device.get(key)) for device in world.devices.values()} | {str(world.value(key))}
        assert len(values) == 1, (key, values)
