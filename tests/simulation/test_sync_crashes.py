"""A crash at every single save of cloud and devices, before it is durable and right after: nothing is lost
that was promised, nothing is done twice."""

from collections.abc import Callable

import pytest

from shared.messages import ReplyStatus
from shared.sync import ConsistencyLevel, Status, SyncStrategy, SyncVerb
from shared.sync_views import PutResult
from shared.wire import unpacked
from tests.support.syncing import Site, World

ALL = ("n1", "n2", "n3")
STRONG, EVENT = ConsistencyLevel.STRONG, SyncStrategy.EVENT_DRIVEN
SAVES_MAX = 60


class Crash:
    """Cuts the power of one site at its ``number``-th save. ``durable``: just after the disk has it."""

    def __init__(self, world: World, site: Site, number: int, durable: bool) -> None:
        self.world, self.site, self.number, self.durable = world, site, number, durable
        self.saves = 0
        self._disk = site.disk
        site.disk = self.disk  # type: ignore[method-assign]

    def disk(self, life: int, do: Callable[[], object]) -> None:
        self.saves += 1
        if self.saves != self.number:
            self._disk(life, do)
            return
        if self.durable:
            do()
        self.world.clock.after(0.0, self._cut)

    def _cut(self) -> None:
        self.site.crash()
        self.world.clock.after(1.0, self.site.boot)  # type: ignore[attr-defined]


def put_strong(world: World, value: int, budget_s: float) -> str:
    return world.put(
        "strong", value, *ALL, level=STRONG, strategy=EVENT, operation=(9, value + 1), budget_s=budget_s
    )


def lived(victim: str, number: int, durable: bool) -> bool:
    """One story with one crash in it. Returns whether there was one."""
    world = World(7, disk_s=(0.001, 0.01)).start()
    site = world.cloud if victim == "cloud" else world.devices[victim]
    crash = Crash(world, site, number, durable)
    put_strong(world, 0, 60.0)
    world.run(3.0)
    acknowledged = promised = 0
    for value in range(1, 6):
        asked = put_strong(world, value, 2.0)
        put = world.devices["n1"].put("mine", {"n": value}) if world.devices["n1"].up else None
        world.ask(SyncVerb.PUT, "rate", value=value, targets=ALL, setting="desired", strategy=EVENT)
        world.run(3.0)
        reply = world.replies.get(asked)
        if reply is not None and reply.status is ReplyStatus.OK:
            acknowledged = value
            assert unpacked(reply.body, PutResult).revision <= value + 1, "done once"
        answer = None if put is None else world.devices["n1"].answers.get(put)
        if answer is not None and answer.status is Status.OK:
            promised = value
    world.until(lambda: world.converged, 120.0)
    held = {one.get("strong") for one in world.devices.values()} | {world.value("strong")}
    assert len(held) == 1
    assert held.pop() >= acknowledged
    again = put_strong(world, 5, 60.0)  # repeated, and done once at most
    world.until(lambda: again in world.replies, 70.0)
    assert unpacked(world.replies[again].body, PutResult).revision <= 6
    world.until(lambda: world.converged, 120.0)
    assert {one.get("strong") for one in world.devices.values()} == {5}
    assert world.value("mine")["n"] >= promised
    assert {one.get(f"desired/{node}/rate") for node, one in world.devices.items()} == {
        world.value(f"desired/{node}/rate") for node in ALL
    }
    return crash.saves >= number


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("victim", ["cloud", "n1", "n2"])
def test_a_crash_at_every_save(victim: str, durable: bool) -> None:
    number = 1
    while number < SAVES_MAX and lived(victim, number, durable):
        number += 1
    assert number > 8, "there were saves to crash at"
