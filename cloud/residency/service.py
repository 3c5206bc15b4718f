"""Residency, bound to the bus, the log and the files that an operator writes.

policy.toml ──┐                 ┌── gate: asked by the sync core
regions.toml ─┼──> core ──> log ┤
devices ──────┘                 └── guarded bus: between every service and the broker
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.bus import Bus
from broker.guard import GuardedBus
from broker.service import Service, on
from cloud.residency import files
from cloud.residency.core import HEAD_S, Remembered, Residency
from cloud.residency.events import (
    Alarm,
    AnnouncePlace,
    AnnouncePolicy,
    Append,
    Appended,
    DecisionsHeard,
    Event,
    PlacesRead,
    PolicyRead,
    Prove,
    Proved,
    Reconsider,
    Release,
    Sign,
    Signed,
    WitnessHeard,
)
from cloud.residency.gate import Gate
from cloud.residency.log import AuditLog, genuine
from cloud.residency.places import PLACES_FILE, read_places
from cloud.residency.policy import read_policy
from cloud.residency.showing import Views
from shared.audit import (
    PlaceFact,
    Point,
    PolicyFact,
    Proof,
    record_of,
    signed_place_bytes,
    signed_policy_bytes,
)
from shared.errors import ConfigError
from shared.judged import Judged
from shared.residency import OPEN
from shared.sync import PUBLISH, SELECT, setting_of
from shared.tags import ANY
from shared.topics import DECISIONS, DESIRED_KEY, PLACE, POLICY, WITNESS
from shared.wire import encode

log = logging.getLogger(__name__)

FOLDER = "residency"
AUDIT_FOLDER = "audit"
TAGS_FILE = "model-tags"
LOOK_S = 2.0


def remembered(audit: AuditLog) -> Remembered:
    """What the log says of the time before: which policy was in force, and who was enrolled where."""
    policy, regions = (0, ""), dict[str, str]()
    for line in files.all_lines(audit.folder):
        if b'"point":"policy"' in line:
            version, _, digest = record_of(line).detail.partition(" ")
            policy = (int(version), digest)
        elif b'"point":"enrol"' in line:
            for outcome in record_of(line).outcomes:
                regions.update((place.node, place.region) for place in outcome.places)
    return Remembered(
        audit.size, audit.fact(), policy, {node: where for node, where in regions.items() if where}
    )


def everybodys(key: str) -> str:
    """``desired/n1/rate`` -> ``desired/*/rate``: what one question about several nodes was about."""
    setting = setting_of(key)
    return key if setting is None else f"{setting[0]}/{ANY}/{setting[2]}"


def read_tags(path: Path) -> dict[str, bytes]:
    """The tags that were given to models. Raises :class:`ConfigError`: without them one could go anywhere."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, bytes])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"can't read {path}: {error}; restore it from a backup, or remove it") from None


def write_tags(path: Path, tags: Mapping[str, bytes]) -> None:
    """Durable when this returns."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    data = msgspec.msgpack.encode(dict(tags))
    files.append_synced(fresh, 0, data)
    os.replace(fresh, path)
    files.sync_folder(path.parent)


class Localisation:
    """Everything about residency in one cloud process. ``bus`` is what other services publish on.

    Raises :class:`ConfigError` when the policy or the places can't be read, and
    :class:`cloud.residency.files.AuditDamaged` when the log is not what was signed.
    """

    def __init__(
        self,
        bus: Bus,
        folder: Path,
        key: Ed25519PrivateKey,
        *,
        policy: Path | None = None,
        region: str = "",
        head_s: float = HEAD_S,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.audit = AuditLog(folder / AUDIT_FOLDER, key)
        self._key, self._bus, self._unix_s = key, bus, unix_s
        self._files = {"policy": policy, "places": folder / PLACES_FILE}
        self._seen: dict[str, object] = {}
        public = key.public_key()
        self.core = Residency(remembered(self.audit), lambda head: genuine(head, public), region, head_s)
        self.service = self._service(bus)
        tags = folder / TAGS_FILE
        self.gate = Gate(
            self.core, self.service.feed, unix_s, read_tags(tags), lambda new: write_tags(tags, new)
        )
        self.bus = GuardedBus(bus, self.gate)
        self.views = Views(self.core, self.gate, folder)
        self._selecting: list[tuple[str, Judged]] = []
        if self.audit.cut:
            log.warning("the audit log ended in %d bytes that were never promised; cut off", self.audit.cut)
        self._start()

    def _start(self) -> None:
        self._look()
        version = self.core.remembered.policy[0]
        if self.core.policy is OPEN and (version or self._files["policy"] is not None):
            raise ConfigError(
                f"policy version {version} was in force here: residency.policy must name that policy, or one "
                "with a larger version; without any, everything would be allowed everywhere"
            )

    def _service(self, bus: Bus) -> Service[Event]:
        audit = self.audit

        async def append(work: Append) -> Event:
            return Appended(await asyncio.to_thread(audit.append, work.records))

        async def sign(_: Sign) -> Event:
            return Signed(await asyncio.to_thread(audit.sign, self._unix_s()))

        async def prove(work: Prove) -> Event:
            head = audit.head
            assert head is not None
            path = await asyncio.to_thread(audit.consistency, work.old, head.size)
            return Proved(work.node, Proof(head=head, old=work.old, path=path))

        work: dict[Any, Callable[[Any], Awaitable[Event]]] = {Append: append, Sign: sign, Prove: prove}
        return Service(
            "residency",
            self.core,
            bus,
            [
                on(WITNESS, lambda ids, seen: WitnessHeard(ids["node"], seen, self._unix_s())),
                on(DECISIONS, lambda ids, seen: DecisionsHeard(ids["node"], seen)),
            ],
            do={
                Release: self._release,
                Reconsider: lambda _: self.bus.judge_again(),
                AnnouncePolicy: self._announce_policy,
                AnnouncePlace: self._announce_place,
                Alarm: lambda effect: log.error("audit log: %s", effect.what),
            },
            work=work,
        )

    async def run(self) -> None:
        """Serve, and look at the operator's files now and then, until cancelled."""
        watching = asyncio.create_task(self._watch(), name="residency: files")
        try:
            await self.service.run()
        finally:
            watching.cancel()

    def close(self) -> None:
        """Sign what is durable. What was queued behind is lost, and nothing of it was acted on."""
        if self.audit.size > (self.audit.head.size if self.audit.head else 0):
            self.audit.sign(self._unix_s())

    # The operator's files -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.gate.ended():
                self.bus.judge_again()
            try:
                self._look()
            except ConfigError as error:
                log.error("residency unchanged: %s", error)

    def _look(self) -> None:
        policy, places = self._files["policy"], self._files["places"]
        if policy is not None and self._changed("policy", policy):
            self.service.feed(PolicyRead(read_policy(policy), self._unix_s()))
        if places is not None and self._changed("places", places):
            self.service.feed(PlacesRead(read_places(places), self._unix_s()))

    def _changed(self, name: str, path: Path) -> bool:
        try:
            stat = path.stat()
            now: object = stat.st_ino, stat.st_mtime_ns, stat.st_size
        except FileNotFoundError:
            now = None
        before = self._seen.get(name, "never")
        self._seen[name] = now
        return before != now

    # What the core wants done -------------------------------------------------------------------------

    def _release(self, effect: Release) -> None:
        self.gate.released(effect.tickets)
        self.bus.released(effect.tickets)

    def _announce_policy(self, effect: AnnouncePolicy) -> None:
        fact = PolicyFact(policy=effect.text, cloud_region=self.core.cloud_region)
        fact = msgspec.structs.replace(fact, signature=self._key.sign(signed_policy_bytes(fact)))
        self._bus.publish(POLICY.at().name, encode(fact), qos=1, retain=True)

    def _announce_place(self, effect: AnnouncePlace) -> None:
        fact = PlaceFact(region=effect.region, serial=int(self._unix_s() * 1000))
        fact = msgspec.structs.replace(fact, signature=self._key.sign(signed_place_bytes(effect.node, fact)))
        self._bus.publish(PLACE.at(node=effect.node).name, encode(fact), qos=1, retain=True)

    # What the sync core decided -----------------------------------------------------------------------

    def decided(self, action: str, decision: object) -> None:
        """Each answer that the sync core got, in order; those about one key and tag become one record."""
        if not isinstance(decision, Judged):
            return
        if action == SELECT:
            if not self._selecting:
                asyncio.get_running_loop().call_soon(self._write_selected)
            self._selecting.append((everybodys(decision.action.key), decision))
        elif action == PUBLISH and decision.allowed:
            return  # the bus is asked again, about the message itself, and writes it down
        else:
            self.gate.note(Point.PUBLISH if action == PUBLISH else Point.RECEIVE, decision)
            self._withdraw(action, decision)

    def _withdraw(self, action: str, decision: Judged) -> None:
        """What is not published any more may still be retained from a time when it was allowed."""
        setting = setting_of(decision.action.key)
        if action == PUBLISH and setting is not None and setting[0] == "desired":
            self.bus.clear(DESIRED_KEY.at(node=setting[1], key=setting[2]).name)

    def _write_selected(self) -> None:
        groups: dict[tuple[str, bytes], list[Judged]] = {}  # configuration of several nodes is one question
        for key, judged in self._selecting:
            groups.setdefault((key, msgspec.msgpack.encode(judged.tag)), []).append(judged)
        self._selecting.clear()
        for (key, _), together in groups.items():
            self.gate.selected(together, key)
