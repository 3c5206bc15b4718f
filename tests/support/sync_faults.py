"""Sync under every fault at once, with a history that a checker can judge.

Five devices and a cloud share STRONG, EVENTUAL and erased keys, while messages are lost, repeated and
reordered, partitions come and go, processes crash and lose what their disks had not confirmed, wall clocks
jump by an hour, and a second cloud takes over while the first one still speaks. Then everything heals, and:

- every STRONG key has a linearizable history, reads included;
- a STRONG success was on the cloud's disk and on as many devices' as were required, before it was told;
- no acknowledged EVENTUAL write is lost, and what was erased stays erased;
- stamps of a writer grow in the order of its writes, as long as nobody's clock was refused;
- all replicas have the same state hash within two rounds of comparison.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from cloud.sync import events as cloud_events
from shared.messages import Message, Reply, ReplyStatus
from shared.sync import (
    ConsistencyLevel,
    Outcome,
    Required,
    Status,
    SyncVerb,
)
from shared.sync_views import KeyView, PutResult
from shared.topics import APP_REPLY, Address
from shared.versions import CLOUD_ORIGIN, Mark
from shared.wire import unpacked
from simulation.faults import Fault, Nemesis, schedule
from simulation.network import Network
from tests.support.linearizability import (
    Done,
    Get,
    Operation,
    Put,
    Register,
    Stale,
    Value,
    linearizable,
)
from tests.support.sync_victims import Asked, Device, Parts, Server, Told, Violation, Watched
from tests.support.syncing import CloudDisk, CloudSite, DeviceSite, World

STRONG, EVENTUAL = ConsistencyLevel.STRONG, ConsistencyLevel.EVENTUAL
DEVICES = 5
EVERYBODY = tuple(f"n{number}" for number in range(1, DEVICES + 1))
STRONG_KEYS, EVENTUAL_KEYS, ERASED_KEYS = ("s/1", "s/2"), ("e/1", "e/2"), ("t/1", "t/2", "t/3")
STORY_S = 30.0
TICK_S = 0.5
ACTS_PER_S = 6.0
USUAL = {"loss": 0.03, "repetition": 0.05, "delay_s": (0.001, 0.3)}
_REVISION = re.compile(r"revision (\d+)")


class FaultyWorld(World):
    """One seed: a story with faults, and everything that was observed in it."""

    def __init__(
        self, seed: int, parts: Parts | None = None, faults: tuple[Fault, ...] = tuple(Fault)
    ) -> None:
        self.parts = parts or Parts()
        self.zombies, self.asleep = list[CloudSite](), list[CloudSite]()
        super().__init__(seed, DEVICES, tick_s=TICK_S)
        self.rng = Random(f"story {seed}")
        self.history: list[Asked] = []
        self.by_correlation: dict[str, Asked] = {}
        self.kept: dict[str, set[str]] = defaultdict(set)  # EVENTUAL key -> fields that were acknowledged
        self.waiting: dict[tuple[str, int], Callable[[Outcome], None]] = {}
        self.stamps: dict[str, dict[Mark, int]] = defaultdict(dict)
        self.numbers = 0
        self.replies = Told(self._replied)
        net = self.net = Watched(self.clock, **USUAL)
        net.watch = self._about_to_say  # type: ignore[method-assign]
        self._rebuild(net)
        self.nemesis = Nemesis(
            self.clock,
            net,
            Server(self),
            [Device(self, site) for site in self.devices.values()],
            self._usurp,
        )
        self.moments = schedule(seed, STORY_S, faults)

    def _rebuild(self, net: Network) -> None:
        """The application and the devices listen on the watched network."""
        from simulation.network import Member
        from tests.support.syncing import _App

        app = Member(net, "app", _App(self), self._nothing)
        app.hears(APP_REPLY, lambda _, got: got, app="app")
        app.connect()
        self.cloud = CloudSite(self, self._observed(self.parts.disk()))
        for site in self.devices.values():
            site.answers = Told(self._answered_at(site.name))

    def _tick(self) -> None:
        for zombie in self.zombies:
            zombie.tick()
        super()._tick()

    # Observation --------------------------------------------------------------------------------------

    def _observed(self, disk: CloudDisk) -> CloudDisk:
        save = disk.save

        def saving(work: cloud_events.Save) -> object:
            answer = save(work)
            if isinstance(answer, cloud_events.Saved):
                for record in work.records:
                    self._see_stamps(record.entry)
            return answer

        disk.save = saving  # type: ignore[method-assign]
        return disk

    def _see_stamps(self, entry: Any) -> None:
        for write in entry.writes:
            known = self.stamps[write.origin]
            if known.get(write.mark, write.stamp) != write.stamp:
                raise Violation(f"{write.origin} {write.mark} has two stamps")
            known[write.mark] = write.stamp

    def _about_to_say(self, to: Address[Any], message: Message) -> None:
        if not isinstance(message, Reply) or message.correlation not in self.by_correlation:
            return
        asked = self.by_correlation[message.correlation]
        if message.status is ReplyStatus.OK and isinstance(asked.what, Put):
            self._check_disks(asked, unpacked(message.body, PutResult).revision)

    def _check_disks(self, asked: Asked, revision: int) -> None:
        """A success is on the cloud's own disk and on those that are required."""
        record = self.cloud.store.records.get(asked.key)
        if record is None or record.entry.revision < revision:
            raise Violation(
                f"{asked.key} revision {revision} was a success before it was on the cloud's disk"
            )
        have = [
            name
            for name, site in self.devices.items()
            if asked.key in site.store.entries and site.store.entries[asked.key].revision >= revision
        ]
        needed = DEVICES if asked.required is Required.ALL else DEVICES // 2 + 1
        if len(have) < needed:
            raise Violation(f"{asked.key} revision {revision} was a success on the disks of {have} only")

    def _replied(self, correlation: str, reply: Reply) -> None:
        asked = self.by_correlation.get(correlation)
        if asked is not None:
            self._end(asked, reply)

    def _end(self, asked: Asked, reply: Reply) -> None:
        now = self.clock.now
        if reply.status is ReplyStatus.FAILED:
            return  # nobody knows
        if reply.status is ReplyStatus.OK and isinstance(asked.what, Get):
            view = unpacked(reply.body, KeyView)
            asked.finish(now, Value(view.value, view.revision))
        elif reply.status is ReplyStatus.OK:
            asked.finish(now, Done(unpacked(reply.body, PutResult).revision))
        elif reply.code == "conflict":
            found = _REVISION.search(reply.detail)
            asked.finish(now, Stale(int(found[1]) if found else None))
        elif reply.code == "no-such-key" and isinstance(asked.what, Get):
            asked.finish(now, Value(None))
        elif asked.again is None or asked.again.get("tries", 0) == 1:
            asked.gone = True

    def _answered_at(self, node: str) -> Callable[[int, Outcome], None]:
        def answered(ref: int, outcome: Outcome) -> None:
            then = self.waiting.pop((node, ref), None)
            if then is not None:
                then(outcome)

        return answered

    def forget_answers(self, site: DeviceSite) -> None:
        """A device that boots does not remember what it had asked."""
        for at in [one for one in self.waiting if one[0] == site.name]:
            del self.waiting[at]

    def _usurp(self, begins: bool) -> None:
        """The old cloud goes on beside the new one, or stands still (a paused machine) and wakes up later."""
        if begins:
            old, self.numbers = self.cloud, self.numbers + 1
            new = CloudSite(self, old.store, f"cloud-{self.numbers}")
            new.skew_ms = old.skew_ms
            if old.member is not None and self.rng.random() < 0.5:
                old.member.up = False
                self.asleep.append(old)
            else:
                self.zombies.append(old)
            self.cloud = new
            new.boot(self.parts.cloud)
        elif self.asleep:
            self._wake(self.asleep.pop(0))
        elif self.zombies:
            self.zombies.pop(0).crash()

    def _wake(self, sleeper: CloudSite) -> None:
        """It does not know what it slept through; the first thing it hears is a reader."""
        if sleeper.member is not None:
            sleeper.member.up = True
            self.zombies.append(sleeper)
            for key in STRONG_KEYS:
                self._read_from(sleeper, key)
            self.clock.after(1.0, sleeper.crash)

    def _read_from(self, site: CloudSite, key: str) -> None:
        serving, self.cloud = self.cloud, site
        asked = Asked(key, Get(), self.clock.now, "app")
        self.history.append(asked)
        self.by_correlation[f"c{self.asked + 1}"] = asked
        self.ask(SyncVerb.GET, key)
        self.cloud = serving

    # The story ----------------------------------------------------------------------------------------

    def play(self) -> "FaultyWorld":
        """Raises :class:`Violation`, or whatever an invariant of a core raised."""
        self.cloud.boot(self.parts.cloud)
        for site in self.devices.values():
            site.boot(make=self.parts.device)
        self.run(1.0)
        for key in STRONG_KEYS:
            self.strong_put("app", key, targets=EVERYBODY, level=STRONG)
        for key in EVENTUAL_KEYS:
            self.put(key, {"zero": 0}, *EVERYBODY)
        for key in ERASED_KEYS:
            self.put(key, {"zero": 0}, *EVERYBODY)
        self.run(3.0)
        self.nemesis.follow(self.moments)
        start = self.clock.now
        erase_at = [start + self.rng.uniform(0.0, STORY_S) for _ in ERASED_KEYS]
        erasing = list(zip(erase_at, ERASED_KEYS, strict=True))
        while self.clock.now < start + STORY_S:
            self.run(self.rng.expovariate(ACTS_PER_S))
            self._act()
            for at, key in [one for one in erasing if one[0] <= self.clock.now]:
                if self._erase(key):
                    erasing.remove((at, key))
        self.run(10.0)  # the last faults end
        self._heal(erasing)
        return self

    def _act(self) -> None:
        deed = self.rng.choice((self._strong, self._strong, self._strong, self._eventual, self._repeat))
        deed()

    def _strong(self) -> None:
        by, key = self.rng.choice(("app", *EVERYBODY)), self.rng.choice(STRONG_KEYS)
        dice = self.rng.random()
        if dice < 0.4:
            self.strong_get(by, key)
        elif dice < 0.7:
            self.strong_put(by, key)
        elif dice < 0.95:
            self.strong_put(by, key, expected=max(0, self._seen(key) + self.rng.choice((0, 0, 0, -1))))
        else:
            self.strong_put(by, key, erase=True)

    def _seen(self, key: str) -> int:
        """The newest revision that anybody was told."""
        told = [one.result for one in self.history if one.key == key and one.result is not None]
        return max((getattr(one, "revision", None) or 0 for one in told), default=0)

    def strong_put(self, by: str, key: str, *, expected: int = -1, erase: bool = False, **how: Any) -> None:
        self.numbers += 1
        value = None if erase else self.numbers
        required = self.rng.choice(list(Required))
        asked = Asked(key, Put(value, expected), self.clock.now, by, required)
        how |= {"expected": expected, "required": required}
        if by != "app":
            self._ask_device(asked, lambda site: site.put(key, value, level=STRONG, **how))
            return
        how["operation"] = (7, self.numbers)
        asked.again = {"verb": SyncVerb.ERASE if erase else SyncVerb.PUT, "value": value, "how": how}
        self._ask_app(asked)

    def strong_get(self, by: str, key: str) -> None:
        asked = Asked(key, Get(), self.clock.now, by)
        if by == "app":
            self.history.append(asked)
            self.by_correlation[f"c{self.asked + 1}"] = asked
            self._any_cloud(lambda: self.ask(SyncVerb.GET, key))
        else:
            self._ask_device(asked, lambda site: site.read_strongly(key))

    def _ask_app(self, asked: Asked) -> None:
        assert asked.again is not None
        if asked not in self.history:
            self.history.append(asked)
        again = asked.again
        again["tries"] = again.get("tries", 0) + 1
        how = dict(again["how"])
        if again["verb"] is SyncVerb.PUT:
            how["value"] = again["value"]

        def ask() -> str:
            # The reply can only be watched under a correlation that is known before it is asked.
            self.by_correlation[f"c{self.asked + 1}"] = asked
            return self.ask(again["verb"], asked.key, **how)

        self._any_cloud(ask)

    def _any_cloud(self, ask: Callable[[], str]) -> str:
        """Applications may reach a cloud whose time is over."""
        alive = [one for one in (self.cloud, *self.zombies) if one.up]
        serving, self.cloud = self.cloud, self.rng.choice(alive or [self.cloud])
        try:
            return ask()
        finally:
            self.cloud = serving

    def _ask_device(self, asked: Asked, ask: Callable[[DeviceSite], int]) -> None:
        site = self.devices[asked.by]
        if not site.up:
            return
        self.history.append(asked)
        asked_before = site.asked + 1

        def answered(outcome: Outcome) -> None:
            self._device_end(asked, outcome)

        self.waiting[site.name, asked_before] = answered
        ask(site)

    def _device_end(self, asked: Asked, outcome: Outcome) -> None:
        now = self.clock.now
        if outcome.status is Status.INDETERMINATE:
            return
        if outcome.status is Status.REFUSED:
            asked.gone = True
        elif outcome.status is Status.CONFLICT:
            asked.finish(now, Stale(outcome.revision))
        elif isinstance(asked.what, Get):
            value = None if outcome.value is None else msgspec.msgpack.decode(outcome.value)
            asked.finish(now, Value(value, outcome.revision))
        else:
            asked.finish(now, Done(outcome.revision))

    def _repeat(self) -> None:
        """Whoever was told "nobody knows" asks the same operation again."""
        open_ = [one for one in self.history if one.again and one.result is None and not one.gone]
        if open_:
            self._ask_app(self.rng.choice(open_))

    def _eventual(self) -> None:
        key, name = self.rng.choice(EVENTUAL_KEYS), self.rng.choice(("app", *EVERYBODY))
        self.numbers += 1
        label = f"{name}-{self.numbers}"
        if name == "app":
            if self.cloud.up and isinstance(self.value(key), dict):
                self._keep_when_told(key, label)
            return
        site = self.devices[name]
        if site.up and isinstance(site.get(key), dict):
            value = {**site.get(key), label: self.numbers}
            self.waiting[name, site.asked + 1] = self._keeper(key, label)
            site.put(key, value)

    def _keeper(self, key: str, label: str) -> Callable[[Outcome], None]:
        def keep(outcome: Outcome) -> None:
            if outcome.status is Status.OK:
                self.kept[key].add(label)

        return keep

    def _keep_when_told(self, key: str, label: str) -> None:
        correlation = f"c{self.asked + 1}"
        told = self.replies._tell

        def replied(which: str, reply: Reply) -> None:
            if which == correlation and reply.status is ReplyStatus.OK:
                self.kept[key].add(label)
            told(which, reply)

        self.replies._tell = replied
        self.put(key, {**self.value(key), label: self.numbers})

    def _erase(self, key: str) -> bool:
        """True once it was asked of a cloud that has the key."""
        if not self.cloud.up or self.value(key) is None:
            return False
        self.ask(SyncVerb.ERASE, key)
        return True

    # The end ------------------------------------------------------------------------------------------

    def _heal(self, erasing: list[tuple[float, str]]) -> None:
        for site in (*self.zombies, *self.asleep):
            site.crash()
        self.nemesis.heal()
        self.run(2.0)
        for key in [*ERASED_KEYS]:
            if self.value(key) is not None:
                self.ask(SyncVerb.ERASE, key)
        rounds_s = 2 * next(iter(self.devices.values())).core.compare_s * 1.25 + 5.0
        end = self.clock.now + rounds_s
        while not self.converged and self.clock.now < end:
            self.run(0.5)
        if not self.converged:
            raise Violation(f"not the same state after two rounds: {self.roots()}")
        for key in STRONG_KEYS:
            for by in ("app", *EVERYBODY):
                self.strong_get(by, key)
        self.run(5.0)
        self.check()

    def check(self) -> None:
        """The promises, over all that was observed."""
        operations = [
            Operation(one.key, one.call, one.what, one.end, one.result, one.by)
            for one in self.history
            if not one.gone and not (isinstance(one.what, Get) and one.result is None)
        ]
        verdict = linearizable(operations, Register())
        if not verdict:
            raise Violation(str(verdict))
        self._check_kept()
        self._check_erased()
        self._check_stamps()

    def _check_kept(self) -> None:
        for key, fields in self.kept.items():
            values = {"cloud": self.value(key), **{n: site.get(key) for n, site in self.devices.items()}}
            for name, value in values.items():
                if not fields <= set(value or {}):
                    raise Violation(f"{name} lost {fields - set(value or {})} of {key}")

    def _check_erased(self) -> None:
        for key in ERASED_KEYS:
            holders = [name for name, site in self.devices.items() if site.get(key) is not None]
            if holders or self.value(key) is not None:
                raise Violation(f"{key} was erased, and {holders or 'the cloud'} has it")

    def _check_stamps(self) -> None:
        for origin, stamps in self.stamps.items():
            if origin != CLOUD_ORIGIN and any(one.fault is Fault.JUMP for one in self.moments):
                continue  # a device whose stamps were refused sets its clock back and stamps again
            ordered = [stamps[mark] for mark in sorted(stamps)]
            if ordered != sorted(set(ordered)):
                raise Violation(f"the stamps of {origin} don't grow with its writes")

    @property
    def known(self) -> int:
        """How many operations of the history have a known end."""
        return sum(one.result is not None for one in self.history)
