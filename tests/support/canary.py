"""A careless cloud, and who hears what: canary tokens must not reach a node that may not have them.

The service here is the worst there can be. It sends every value to every node, on every kind of topic,
however often and whenever it likes, and only the guarded bus stands between it and the broker. Meanwhile
policies and places change, the link comes and goes, and the audit log's disk fails. What may be where is
decided a second time by :class:`Oracle`, which knows neither regions as paths nor the order of the questions.
"""

import random
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from broker.bus import NO_PROPERTIES, BusStats, Link, Properties
from broker.guard import GuardedBus
from cloud.residency.core import Remembered, Residency
from cloud.residency.events import (
    AnnouncePlace,
    AnnouncePolicy,
    Append,
    Appended,
    PlacesRead,
    PolicyRead,
    Reconsider,
    Release,
)
from cloud.residency.gate import Gate
from shared.audit import Point, Record
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick
from shared.messages import Chunk, Manifest
from shared.package import ModuleKind
from shared.parcels import part_name
from shared.residency import DataClass, Kind, PolicyText, Rule
from shared.sync import Outcome, Push, Result, Setting, Status, SyncMessage, setting_of
from shared.tags import Label
from shared.topics import CHUNK, DESIRED_KEY, MANIFEST, SYNC_DOWN, Address
from shared.versions import WHOLE, Entry, Write, fields_in
from shared.wire import encode

TREE = {
    "eu": {"eu", "eu/de", "eu/de/berlin", "eu/fr"},
    "eu/de": {"eu/de", "eu/de/berlin"},
    "eu/de/berlin": {"eu/de/berlin"},
    "eu/fr": {"eu/fr"},
    "us": {"us", "us/ohio"},
    "us/ohio": {"us/ohio"},
}
"""Region -> itself and everything in it."""

LEAVES = {"eu/de/berlin", "eu/fr", "us/ohio", "elsewhere"}
NODES = ("n1", "n2", "n3", "n4")
KEYS = ("a", "a/b", "b", "c", "desired/n1/rate", "desired/n2/rate", "model/m")
FIELDS = ("name", "age")
ARTIFACT = "d" * 64


# A second opinion -----------------------------------------------------------------------------------


@dataclass
class Oracle:
    """Which nodes may have a value, by sets of leaves of the tree instead of paths."""

    text: PolicyText
    regions: dict[str, str]

    def may(self, node: str, key: str, label_fields: Iterable[str], at_unix_s: float) -> bool:
        """``node`` empty: everybody who can read what is said to all, wherever that may be."""
        classes = [one for one in self.text.data if self._is_for(one, key)]
        if not classes:
            return False
        label = max(
            rank(found)
            for one in classes
            for found in (one.label, *(one.fields[name] for name in label_fields if name in one.fields))
        )
        if any(one.expires_at_unix_s and at_unix_s >= one.expires_at_unix_s for one in classes):
            return False
        if any("*" not in one.purposes and "operation" not in one.purposes for one in classes):
            return False
        where = self._where(node)
        if not all(where <= self._reach((one.home, *one.allowed)) for one in classes):
            return False
        homes = {one.home for one in classes}
        if any(self._hits(rule, node, key, label, where, homes) for rule in self.text.forbid):
            return False
        return any(self._helps(rule, node, key, label, where, homes) for rule in self.text.permit)

    @staticmethod
    def _is_for(one: DataClass, key: str) -> bool:
        return any(
            key == name or (name[-1] == "*" and key[: len(name) - 1] == name[:-1]) for name in one.keys
        )

    def _where(self, node: str) -> set[str]:
        """The leaves in which the node may be. Enrolled in ``eu``, it is in ``eu``, and who knows where."""
        region = self.regions.get(node, "")
        return {f"somewhere in {region}"} | TREE[region] if region else LEAVES | {"anywhere"}

    def _reach(self, regions: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for region in regions:
            if region == "*":
                found |= LEAVES | {"anywhere"} | {f"somewhere in {one}" for one in TREE}
                found |= set(TREE)
            elif region:
                found |= TREE[region] | {f"somewhere in {one}" for one in TREE[region]}
        return found

    def _hits(self, rule: Rule, node: str, key: str, label: int, where: set[str], homes: set[str]) -> bool:
        home = next(iter(homes)) if len(homes) == 1 else ""
        home_where = TREE[home] if home else set(TREE)
        return (
            (rule.label is None or label >= rank(rule.label))
            and (
                not rule.regions
                or not self.regions.get(node, "")
                or any(where & self._reach((one,)) for one in rule.regions)
            )
            and (not rule.homes or not home or any(home_where & self._reach((one,)) for one in rule.homes))
            and (not rule.nodes or not node or node in rule.nodes)
            and self._speaks_of(rule, key)
        )

    def _helps(self, rule: Rule, node: str, key: str, label: int, where: set[str], homes: set[str]) -> bool:
        home = next(iter(homes)) if len(homes) == 1 else ""
        return (
            (rule.label is None or label <= rank(rule.label))
            and (not rule.regions or any(where <= self._reach((one,)) for one in rule.regions))
            and (
                not rule.homes
                or any(one == "*" or (home and TREE[home] <= self._reach((one,))) for one in rule.homes)
            )
            and (not rule.nodes or node in rule.nodes)
            and self._speaks_of(rule, key)
        )

    @staticmethod
    def _speaks_of(rule: Rule, key: str) -> bool:
        kind = Kind.MODEL if key.startswith("model/") else Kind.CONFIG if setting_of(key) else Kind.DATA
        return (
            (not rule.kinds or kind in rule.kinds)
            and (not rule.purposes or "operation" in rule.purposes)
            and (
                not rule.keys
                or any(key == one or (one[-1] == "*" and key.startswith(one[:-1])) for one in rule.keys)
            )
        )


def rank(label: Label) -> int:
    return ["public", "internal", "personal", "sensitive"].index(str(label))


# A broker that keeps everything ---------------------------------------------------------------------


@dataclass
class Wire:
    """The bus behind the guard: what it is given has been published."""

    stats: BusStats = field(default_factory=BusStats)
    link: Link = field(default_factory=lambda: Link(up=True))
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: Properties = NO_PROPERTIES,
        done: object = None,
    ) -> bool:
        assert self.link.up or not payload, "what needs a look is not queued for later"
        self.sent.append((topic, payload))
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        return True


# One case -------------------------------------------------------------------------------------------


class Case:
    """One random world and its history. ``arrivals`` counts the tokens that were heard, and rightly so."""

    def __init__(self, seed: int, gate: type[Gate] = Gate, bus: type[GuardedBus] = GuardedBus) -> None:
        self.rng = random.Random(seed)
        self.now, self.unix_s = 0.0, 1_000.0
        self.residency = Residency(Remembered(), lambda _: True, self._region())
        self.gate = gate(self.residency, self._feed, lambda: self.unix_s)
        self.wire = Wire()
        self.bus = bus(self.wire, self.gate)  # type: ignore[arg-type]
        self.records: list[Record] = []  # durable
        self.pending: list[Append] = []
        self.arrivals = self.refused = self.seen = 0
        self.allowed_by: dict[tuple[str, str, tuple[str, ...]], bool] = {}
        self.version = 0
        self.tokens = {key: {name: f"canary-{key}-{name}" for name in FIELDS} for key in KEYS}
        self._kinds = (self._push, self._push, self._setting, self._result, self._model, self._parcel)
        self._events: list[object] = []
        self._busy = False

    def run(self, steps: int) -> None:
        """Raises ``AssertionError`` at the first token that is where it must not be."""
        self._feed(LinkUp(False))
        self._new_policy()
        self._new_places()
        doings = [self._send] * 12 + [self._disk_works] * 6 + [self._disk_fails, self._new_policy]
        doings += [self._new_places, self._link_changes, self._time_passes]
        for _ in range(steps):
            self.rng.choice(doings)()
            self._listen()
        self._disk_works()
        self._listen()
        self._look_at_retained()

    # The world ----------------------------------------------------------------------------------------

    def _feed(self, event: object) -> None:
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        while self._events:
            for effect in self.residency.step(self._events.pop(0), self.now):  # type: ignore[arg-type]
                self._perform(effect)
        self._busy = False

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Append():
                self.pending.append(effect)
            case Release(tickets):
                self.gate.released(tickets)
                self.bus.released(tickets)
            case Reconsider():
                self.bus.judge_again()
            case Ignore() | AnnouncePolicy() | AnnouncePlace():
                pass
            case _:
                pass

    def _disk_works(self) -> None:
        while self.pending:
            append = self.pending.pop(0)
            self.records += append.records
            self._feed(Appended(len(self.records)))

    def _disk_fails(self) -> None:
        while self.pending:
            self._feed(Failed(self.pending.pop(0), "disk full"))
        self.now += 1.0
        self._feed(Tick())

    def _link_changes(self) -> None:
        up = not self.wire.link.up
        self.wire.link = Link(up=up)
        self._feed(LinkUp(False) if up else LinkDown())

    def _time_passes(self) -> None:
        self.unix_s += self.rng.choice((10.0, 60.0))
        if self.gate.ended():
            self.bus.judge_again()

    def _region(self) -> str:
        return self.rng.choice((*TREE, ""))

    def _new_places(self) -> None:
        regions = {node: region for node in NODES if (region := self._region())}
        self._feed(PlacesRead(regions, self.unix_s))

    def _new_policy(self) -> None:
        self.version += 1
        rng, regions = self.rng, (*TREE, "*")

        def some(of: tuple[str, ...], most: int = 2) -> tuple[str, ...]:
            return tuple(rng.sample(of, rng.randrange(most + 1)))

        def rule(number: int) -> Rule:
            return Rule(
                name=f"r{number}",
                label=rng.choice((None, *Label)),
                regions=some(regions),
                homes=some(regions, 1) if rng.random() < 0.3 else (),
                nodes=some(NODES) if rng.random() < 0.3 else (),
                keys=some(("a*", "b", "*", "desired/*")) if rng.random() < 0.3 else (),
                kinds=some(tuple(Kind)) if rng.random() < 0.2 else (),  # type: ignore[arg-type]
            )

        def data() -> DataClass:
            return DataClass(
                keys=rng.choice((("*",), ("a*", "b"), ("model/*",), ("desired/*", "c"))),
                label=rng.choice(list(Label)),
                home=rng.choice(("", *TREE)),
                allowed=some(regions, 3),
                purposes=rng.choice((("*",), ("operation", "care"), ("care",), ("*",))),
                expires_at_unix_s=rng.choice((0.0, 0.0, 0.0, self.unix_s + 30.0)),
                fields={name: rng.choice(list(Label)) for name in FIELDS if rng.random() < 0.5},
            )

        text = PolicyText(
            version=self.version,
            data=tuple(data() for _ in range(rng.randrange(1, 4))),
            permit=tuple(rule(number) for number in range(rng.randrange(1, 4))),
            forbid=tuple(rule(number) for number in range(10, 10 + rng.randrange(3))),
        )
        self._feed(PolicyRead(text, self.unix_s))

    # The careless service -----------------------------------------------------------------------------

    def _send(self) -> None:
        address, message = self.rng.choice(self._kinds)()
        payload, topic = encode(message), address.topic
        sent = self.bus.publish(address.name, payload, qos=topic.qos, retain=topic.retain)
        self.refused += not sent

    def _entry(self, key: str) -> Entry:
        rng, tokens = self.rng, self.tokens[key]
        whole = rng.random() < 0.2
        value: object = {name: tokens[name] for name in FIELDS if rng.random() < 0.7}
        fields = {WHOLE: msgspec.msgpack.encode(value)} if whole else fields_in(value)
        writes = [Write("@", 1, 1, 1, fields)]
        if rng.random() < 0.2:  # a conflict: what lost is in the message too
            writes.append(Write("n1", 1, 1, 1, fields_in({"name": tokens["name"]})))
        return Entry(key, tuple(writes), {"@": (1, 1)})

    def _push(self) -> tuple[Address, SyncMessage]:
        keys = self.rng.sample(KEYS[:6], self.rng.randrange(1, 4))
        push = Push(1, tuple(self._entry(key) for key in keys))
        return SYNC_DOWN.at(node=self.rng.choice(NODES)), SyncMessage(life=1, part=push)

    def _parcel(self) -> tuple[Address, SyncMessage]:
        """A part of a large value: bytes, under a key that no policy names, with every field in them."""
        key = self.rng.choice(KEYS[:4])
        value = msgspec.msgpack.encode(" ".join(self.tokens[key].values()).encode())
        name = part_name(key, "0" * 64, self.rng.randrange(3))
        entry = Entry(name, (Write("@", 1, 1, 1, {WHOLE: value}),), {"@": (1, 1)})
        return SYNC_DOWN.at(node=self.rng.choice(NODES)), SyncMessage(life=1, part=Push(1, (entry,)))

    def _setting(self) -> tuple[Address, Setting]:
        key = self.rng.choice(KEYS[4:6])
        setting = Setting(life=1, number=1, entry=self._entry(key))
        return DESIRED_KEY.at(node=self.rng.choice(NODES), key="rate"), setting

    def _result(self) -> tuple[Address, SyncMessage]:
        key = self.rng.choice(KEYS[:4])
        value = msgspec.msgpack.encode(self.tokens[key])
        result = Result(1, Outcome(status=Status.OK, value=value), key)
        return SYNC_DOWN.at(node=self.rng.choice(NODES)), SyncMessage(life=1, part=result)

    def _model(self) -> tuple[Address, Manifest | Chunk]:
        token = self.tokens["model/m"]["name"]
        if self.rng.random() < 0.5:
            data = Chunk(data=token.encode())
            return CHUNK.at(artifact=ARTIFACT, index="0"), data
        manifest = Manifest(
            digest=ARTIFACT,
            name="m",
            version=token,
            kind=ModuleKind.TENSOR,
            size_bytes=1,
            chunk_bytes=1,
            chunk_digests=b"",
        )
        return MANIFEST.at(artifact=ARTIFACT), manifest

    # Who hears it -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """A listener on every node's topics and on what is said to all."""
        for topic, payload in self.wire.sent[self.seen :]:
            for key, fields in self._found(payload):
                self._check(topic, key, fields, payload)
                self.arrivals += 1
        self.seen = len(self.wire.sent)

    def _found(self, payload: bytes) -> list[tuple[str, list[str]]]:
        if payload[:1] == b"x":  # deflated
            payload = zlib.decompress(payload)
        found = []
        for key, tokens in self.tokens.items():
            fields = [name for name, token in tokens.items() if token.encode() in payload]
            if fields:
                found.append((key, fields))
        return found

    def _check(self, topic: str, key: str, fields: list[str], payload: bytes) -> None:
        node = topic.split("/")[1] if topic.startswith("node/") else ""
        labelled = fields if key != "model/m" else FIELDS
        oracle = Oracle(self.residency.policy.text, self.residency.regions)
        allowed = oracle.may(node, key, labelled, self.unix_s)
        assert allowed, f"{key} {fields} reached {node or 'all'} on {topic} under {oracle}"
        assert any(
            record.point is Point.PUBLISH
            and record.action is not None
            and record.action.key == key
            and record.policy == self.residency.policy.version
            and any(one.allow and one.places[0].node == node for one in record.outcomes)
            for record in self.records
        ), f"{key} reached {node} and the log does not say so"

    def _look_at_retained(self) -> None:
        """Those who subscribe now get what is retained: it has to be right under what holds now."""
        for topic, payload in self.wire.retained.items():
            for key, fields in self._found(payload):
                node = topic.split("/")[1] if topic.startswith("node/") else ""
                oracle = Oracle(self.residency.policy.text, self.residency.regions)
                labelled = fields if key != "model/m" else FIELDS
                assert oracle.may(node, key, labelled, self.unix_s), f"{topic} retains {key}"
