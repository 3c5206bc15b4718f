"""A cloud and devices that share keys: the real cores, a network that fails, disks that answer late.

What a disk was told and has not confirmed is lost when its owner crashes; what it confirmed is not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from broker.ask import checked
from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.sync import events as cloud_events
from cloud.sync.client import SyncClient
from cloud.sync.core import Phase, Sync
from cloud.sync.records import NodeMemory, Record, SyncTask
from edge.sync import events as edge_events
from edge.sync.core import DeviceSync
from shared.core import Clear, Effect, Tick
from shared.messages import CloudPresence, Reply
from shared.sync import (
    ConsistencyLevel,
    Gate,
    OpenGate,
    Outcome,
    SyncAsk,
    SyncStrategy,
    SyncVerb,
)
from shared.topics import APP_REPLY, DESIRED_KEY, REPORTED_KEY, SYNC_DOWN, SYNC_UP, Address
from shared.versions import Entry, fields_in, value_of
from simulation.network import Clock, Member, Network

START_UNIX_MS = 1_800_000_000_000
DISK_S = (0.001, 0.02)
TICK_S = 0.25


@dataclass
class CloudDisk:
    """Rows, and the fence: a save of an older term than the newest that opened it is refused."""

    term: int = 0
    records: dict[str, Record] = field(default_factory=dict)
    tasks: dict[str, SyncTask] = field(default_factory=dict)
    nodes: dict[str, NodeMemory] = field(default_factory=dict)
    cleared: int = 0
    stamp: int = 0

    def restored(self) -> cloud_events.Restored:
        records, tasks = tuple(self.records.values()), tuple(self.tasks.values())
        return cloud_events.Restored(records, tasks, dict(self.nodes), self.cleared, self.stamp)

    def save(self, save: cloud_events.Save) -> object:
        if save.term != self.term:
            return cloud_events.Fenced(self.term)
        self.records.update((one.entry.name, one) for one in save.records)
        for name in save.forgotten:
            self.records.pop(name, None)
        self.tasks.update((one.task_id, one) for one in save.tasks)
        for task_id in save.tasks_forgotten:
            self.tasks.pop(task_id, None)
        self.nodes.update(save.nodes)
        self.cleared, self.stamp = save.cleared, save.stamp
        return cloud_events.Saved()


@dataclass
class EdgeDisk:
    """The replica of one device, and what of it is dirty."""

    entries: dict[str, Entry] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    term: int = 0
    cleared: int = 0

    def restored(self) -> edge_events.Restored:
        return edge_events.Restored(
            tuple(self.entries.values()), frozenset(self.dirty), self.term, self.cleared
        )

    def save(self, save: edge_events.Save) -> object:
        self.entries.update((one.name, one) for one in save.entries)
        self.dirty -= {one.name for one in save.entries} | save.clean
        self.dirty |= save.dirty
        for name in save.forgotten:
            self.entries.pop(name, None)
            self.dirty.discard(name)
        self.term, self.cleared = save.term, save.cleared
        return edge_events.Saved()


class Site:
    """One process that crashes and comes back; a crash loses what its disk had not confirmed."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.member: Member | None = None
        self.life = 0
        self.skew_ms = 0

    @property
    def up(self) -> bool:
        return self.member is not None

    def unix_ms(self) -> int:
        return START_UNIX_MS + int(self.world.clock.now * 1000) + self.skew_ms

    def crash(self) -> None:
        if self.member is not None:
            self.member.kill()
            self.member = None

    def disk(self, life: int, do: Callable[[], object]) -> None:
        """The disk is done after a while, unless the process died before."""
        least, most = self.world.disk_s
        wait_s = least + (most - least) * self.world.clock.random.random()
        self.world.clock.after(wait_s, self._disk_done, life, do)

    def _disk_done(self, life: int, do: Callable[[], object]) -> None:
        if self.member is not None and life == self.life:
            self.member.feed(do())

    def tick(self) -> None:
        if self.member is not None:
            self.member.feed(Tick())
            self.member.core.check()


class CloudSite(Site):
    """The cloud's end."""

    def __init__(self, world: "World", store: CloudDisk, name: str = "cloud") -> None:
        super().__init__(world, name)
        self.store = store

    def boot(self, make: Callable[..., Sync] = Sync) -> None:
        self.life = self.store.term = self.store.term + 1
        self.core = make(self.store.term, self.world.clock.random.random, gate=self.world.gate)
        member = self.member = Member(self.world.net, self.name, self.core, self._perform)
        member.hears(SYNC_UP, lambda ids, got: cloud_events.MessageHeard(ids["node"], got, self.unix_ms()))
        member.hears(
            REPORTED_KEY,
            lambda ids, got: cloud_events.ReportedHeard(ids["node"], ids["key"], got, self.unix_ms()),
        )
        member.feed(Tick())
        member.connect()
        for device in self.world.devices.values():
            if device.member is not None:
                device.cloud_seen(self.life)

    def _perform(self, effect: Effect) -> None:
        life = self.life
        match effect:
            case cloud_events.Load():
                assert self.member is not None
                self.member.feed(self.store.restored())
            case cloud_events.Save():
                self.disk(life, lambda: self.store.save(effect))
            case cloud_events.Decided():
                self.world.decisions.append(effect)
            case Clear(to):
                self.world.net.retained.pop(to.name, None)
            case _:
                self.world.performed.append(effect)

    def see(self, node: str, status: NodeStatus) -> None:
        if self.member is not None:
            self.member.feed(NodeChanged(NodeFact(node=node, epoch=1, status=status)))


class DeviceSite(Site):
    """One device."""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.store = EdgeDisk()
        self.answers: dict[int, Outcome] = {}
        self.changed: list[str] = []
        self.asked = 0

    def boot(self, *, connected: bool = True, make: Callable[..., DeviceSync] = DeviceSync) -> None:
        self.life += 1
        self.core = make(self.name, self.life, self.world.clock.random.random, gate=self.world.gate)
        member = self.member = Member(self.world.net, self.name, self.core, self._perform)
        node = self.name
        member.hears(SYNC_DOWN, lambda _, got: edge_events.MessageHeard(got, self.unix_ms()), node=node)
        member.hears(
            DESIRED_KEY,
            lambda ids, got: edge_events.DesiredHeard(ids["key"], got, self.unix_ms()),
            node=node,
        )
        member.feed(self.store.restored())
        if connected:
            member.connect()

    def cloud_seen(self, term: int) -> None:
        assert self.member is not None
        self.member.feed(edge_events.CloudSeen(CloudPresence(online=True, term=term)))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case edge_events.Save():
                self.disk(self.life, lambda: self.store.save(effect))
            case edge_events.Answer(ref, outcome):
                assert ref not in self.answers, "one answer to a request"
                self.answers[ref] = outcome
            case edge_events.Changed(name):
                self.changed.append(name)
            case _:
                raise AssertionError(f"nothing performs {effect}")

    def put(self, name: str, value: Any, **how: Any) -> int:
        """Returns under which number the answer will stand."""
        self.asked += 1
        assert self.member is not None
        fields = {} if value is None else fields_in(value)
        self.member.feed(edge_events.PutAsked(self.asked, name, fields, self.unix_ms(), **how))
        return self.asked

    def read_strongly(self, name: str, budget_s: float = 10.0) -> int:
        self.asked += 1
        assert self.member is not None
        self.member.feed(edge_events.ReadAsked(self.asked, name, budget_s))
        return self.asked

    def get(self, name: str) -> Any:
        found = self.core.read(name)
        return None if found is None else value_of(found)


class World:
    """One cloud, some devices, one application."""

    def __init__(
        self,
        seed: int,
        devices: int = 3,
        *,
        loss: float = 0.0,
        repetition: float = 0.0,
        delay_s: tuple[float, float] = (0.001, 0.05),
        disk_s: tuple[float, float] = DISK_S,
        gate: Gate | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        self.clock = Clock(seed)
        self.net = Network(self.clock, loss=loss, repetition=repetition, delay_s=delay_s)
        self.disk_s, self.gate = disk_s, gate or OpenGate()
        self.replies: dict[str, Reply] = {}
        self.decisions: list[cloud_events.Decided] = []
        self.performed: list[Effect] = []
        self.asked = 0
        self.devices = {f"n{number}": DeviceSite(self, f"n{number}") for number in range(1, devices + 1)}
        self.cloud = CloudSite(self, CloudDisk())
        app = Member(self.net, "app", _App(self), self._nothing)
        app.hears(APP_REPLY, lambda _, got: got, app="app")
        app.connect()
        self.clock.every(tick_s, self._tick)

    def _nothing(self, effect: Effect) -> None:
        raise AssertionError(f"nothing performs {effect}")

    def _tick(self) -> None:
        for site in (self.cloud, *self.devices.values()):
            site.tick()

    def start(self) -> "World":
        """Everybody boots, and the cloud has read its store."""
        self.cloud.boot()
        for device in self.devices.values():
            device.boot()
        self.run(1.0)
        return self

    def run(self, seconds: float) -> None:
        self.clock.run(self.clock.now + seconds)

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Let time pass until it is so. Fails after ``seconds`` of the world's time."""
        end = self.clock.now + seconds
        while not done():
            assert self.clock.now < end, "it did not come true in time"
            self.run(0.05)

    def ask(self, verb: SyncVerb, key: str = "", **how: Any) -> str:
        """Returns the correlation of the reply to come. ``value``: not packed."""
        self.asked += 1
        correlation = f"c{self.asked}"
        if "value" in how:
            how["value"] = msgspec.msgpack.encode(how["value"])
        how.setdefault("budget_s", 10.0)
        ask = SyncAsk(correlation=correlation, verb=verb, key=key, **how)
        if self.cloud.member is not None:  # the application's own link is not what is tested
            self.cloud.member.feed(cloud_events.Asked("app", ask, self.cloud.unix_ms()))
        return correlation

    def put(
        self,
        key: str,
        value: Any,
        *targets: str,
        level: ConsistencyLevel | None = None,
        strategy: SyncStrategy | None = None,
        **how: Any,
    ) -> str:
        return self.ask(
            SyncVerb.PUT, key, value=value, targets=targets, level=level, strategy=strategy, **how
        )

    def value(self, key: str) -> Any:
        entry = self.cloud.core.journal.newest(key)
        return None if entry is None else value_of(entry)

    def partition(self, node: str) -> None:
        device = self.devices[node].member
        assert device is not None
        device.disconnect()

    def heal(self, node: str) -> None:
        device = self.devices[node].member
        assert device is not None
        device.connect()

    def roots(self) -> dict[str, tuple[bytes, bytes]]:
        """Node -> the state hash of what it shares with the cloud: as it is there, and as it is here."""
        found = {}
        for node, device in self.devices.items():
            peer = self.cloud.core.fleet.peers.get(node)
            theirs = b"" if peer is None else peer.tree().root
            found[node] = (theirs, device.core.peer.tree().root)
        return found

    @property
    def converged(self) -> bool:
        quiet = self.cloud.core.phase is Phase.READY and all(
            not device.core.dirty for device in self.devices.values()
        )
        return quiet and all(theirs == ours for theirs, ours in self.roots().values())


class WorldAsker:
    """The real client of an application, in a world whose time passes only while somebody waits."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def ask(self, to: Address[Any], build: Callable[[str, float], SyncAsk], budget_s: float) -> Reply:
        self.world.asked += 1
        correlation = f"c{self.world.asked}"
        assert self.world.cloud.member is not None
        asked = cloud_events.Asked("app", build(correlation, budget_s), self.world.cloud.unix_ms())
        self.world.cloud.member.feed(asked)
        self.world.until(lambda: correlation in self.world.replies, budget_s + 1.0)
        return checked(self.world.replies[correlation])


def client_of(world: World) -> SyncClient:
    """What ``Fleet.sync`` is."""
    asker: Any = WorldAsker(world)
    return SyncClient("app", asker, lambda: 10.0)


class _App:
    """Keeps the first reply to each request."""

    def __init__(self, world: World) -> None:
        self.world = world

    def step(self, event: object, now: float) -> list[Effect]:
        if isinstance(event, Reply):
            self.world.replies.setdefault(event.correlation, event)  # the network may repeat it
        return []

    def check(self) -> None:
        """Nothing to check."""
