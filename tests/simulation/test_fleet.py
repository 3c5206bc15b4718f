"""Five hundred devices for an hour, on a bad network, with a blackout of the cloud's own link."""

from hashlib import blake2b

from cloud.facts import NodeChanged, NodeStatus
from cloud.registry.core import Registry
from cloud.registry.events import BirthSeen, HeartbeatSeen, PresenceSeen, Remember, ReportedSeen
from shared.core import Effect, Tick
from shared.topics import BIRTH, HEARTBEAT, PRESENCE, REPORTED
from simulation.network import Clock, Member, Network
from tests.simulation.device import Device

INTERVAL_S = 10.0
WINDOW_S = 6 * INTERVAL_S * 1.1 + 2.0  # six intervals with their jitter, and the slowest delivery
HOUR_S = 3600.0
BLACKOUT = (1200.0, 1800.0)


class World:
    """A registry, its devices, and a log of everything that it ever claimed."""

    def __init__(self, seed: int, devices: int) -> None:
        self.clock = Clock(seed)
        self.net = Network(self.clock)
        self.devices = {f"n{number}": Device(self.net, f"n{number}") for number in range(devices)}
        self.registry = Registry()
        self.cloud = Member(self.net, "cloud", self.registry, self._told)
        self.cloud.hears(HEARTBEAT, self._beat)
        self.cloud.hears(PRESENCE, lambda ids, got: PresenceSeen(ids["node"], got))
        self.cloud.hears(BIRTH, lambda ids, got: BirthSeen(ids["node"], got))
        self.cloud.hears(REPORTED, lambda ids, got: ReportedSeen(ids["node"], got))
        self.history = blake2b()
        self.claims: list[tuple[float, str, int, NodeStatus]] = []
        self.false_deaths: list[tuple[float, str]] = []
        self.heard_at: dict[str, tuple[int, float]] = {}
        self._last: dict[str, tuple[int, NodeStatus, bool]] = {}
        self._ticks = 0

    def start(self, until: float) -> None:
        """Boot everybody within half a minute; later, crashes strike at random until ``until``."""
        self.cloud.connect()
        self.clock.every(1.0, self._tick)
        for device in self.devices.values():
            self.clock.after(self.clock.random.uniform(0, 30), self._boot, device, until)

    def _boot(self, device: Device, until: float) -> None:
        device.boot()
        crash_in_s = self.clock.random.expovariate(1 / 1800.0)
        if self.clock.now + crash_in_s < until:
            self.clock.after(crash_in_s, self._crash, device, until)

    def _crash(self, device: Device, until: float) -> None:
        device.crash()
        if self.clock.random.random() < 0.9:  # the others never come back
            self.clock.after(self.clock.random.uniform(1, 120), self._boot, device, until)

    def _tick(self) -> None:
        self.cloud.feed(Tick())
        self._ticks += 1
        if self._ticks % 10 == 0:
            self.registry.check()

    def _beat(self, ids: dict[str, str], got: object) -> HeartbeatSeen:
        self.heard_at[ids["node"]] = (got.epoch, self.clock.now)
        return HeartbeatSeen(ids["node"], got)

    def _told(self, effect: Effect) -> None:
        if isinstance(effect, Remember):
            return  # the store is not part of this story
        assert isinstance(effect, NodeChanged)
        fact, now = effect.fact, self.clock.now
        claim = (fact.epoch, fact.status, fact.suspect)
        if self._last.get(fact.node) == claim:
            return
        self._last[fact.node] = claim
        self.history.update(f"{now:.6f} {fact.node} {claim}\n".encode())
        self.claims.append((now, fact.node, fact.epoch, fact.status))
        device = self.devices[fact.node]
        if fact.status is NodeStatus.OFFLINE and device.up and device.epoch == fact.epoch:
            self.false_deaths.append((now, fact.node))

    def status(self, node: str) -> NodeStatus:
        return self._last[node][1]

    def heard(self, since: float) -> set[str]:
        """Nodes of whose present boot a heartbeat got through since then."""
        return {
            node
            for node, (epoch, at) in self.heard_at.items()
            if at >= since and self.devices[node].up and self.devices[node].epoch == epoch
        }


LIVE = (NodeStatus.IDLE, NodeStatus.BUSY)


def test_an_hour_of_five_hundred_devices_with_a_blackout_of_the_cloud() -> None:
    world = World(seed=7, devices=500)
    world.start(until=HOUR_S - WINDOW_S - 10.0)
    start, end = BLACKOUT
    world.clock.run(start)
    world.cloud.disconnect()
    world.clock.run(end)
    in_blackout = [claim for claim in world.claims if claim[0] > start]
    assert {status for _, _, _, status in in_blackout} == {NodeStatus.UNKNOWN}
    assert sum(status is NodeStatus.UNKNOWN for _, status, _ in world._last.values()) > 400
    claims_before = len(world.claims)

    world.cloud.connect()
    world.clock.run(end + 2 * INTERVAL_S * 1.1)
    heard = world.heard(since=end)
    up = {node for node, device in world.devices.items() if device.up}
    assert all(world.status(node) in LIVE for node in heard)
    assert len(up - heard) <= len(up) // 50  # both heartbeats lost, or booted only just now

    world.clock.run(HOUR_S)
    dead = {node for node, device in world.devices.items() if not device.up}
    assert len(dead) > 10
    assert all(world.status(node) is NodeStatus.OFFLINE for node in dead)
    assert all(world.status(node) in LIVE for node in world.heard(since=HOUR_S - 2 * INTERVAL_S))
    assert world.false_deaths == []
    assert len(world.claims) > claims_before
    world.registry.check()
    counts = world.net.counts
    assert counts["delivered"] > 120_000
    assert min(counts["lost"], counts["repeated"]) > 5_000
    assert counts["missed"] > 20_000  # what was said during the blackout


def test_the_dead_of_the_blackout_are_found_a_whole_window_after_it() -> None:
    world = World(seed=3, devices=20)
    world.start(until=0.0)
    world.clock.run(100.0)
    world.cloud.disconnect()
    world.devices["n0"].crash()
    world.net.retained.clear()  # the broker restarts without its memory: no will reaches us
    world.net.loss = 1.0
    world.clock.run(400.0)
    world.net.loss = 0.0
    world.net.retained.clear()
    world.cloud.connect()
    world.clock.run(455.0)
    assert world.status("n0") is NodeStatus.UNKNOWN
    world.clock.run(465.0)
    assert world.status("n0") is NodeStatus.OFFLINE
    assert world.false_deaths == []


def history(seed: int) -> str:
    world = World(seed, devices=60)
    world.start(until=500.0)
    world.clock.run(600.0)
    return world.history.hexdigest()


def test_the_same_seed_tells_the_same_story() -> None:
    assert history(1) == history(1) != history(2)
