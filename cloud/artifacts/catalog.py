"""Packages on their way into the cloud's store, and what the store holds.

    RECEIVING --last byte--> EXAMINING --a good package--> RECORDING --> in the catalog
        \\________________________\\_______________________________\\--> refused, forgotten
        (no piece for ``upload_deadline_s``: reaped)

An application sends pieces in order; each reply says how many bytes are here, so that it goes on from
there after a lost piece, a restart of either side, or on another day. The last piece is answered when the
model is in the catalog: acknowledged means durable. EXAMINING and RECORDING wait for a piece of work, which
always answers.

Versions: an engineer who uploads while iterating should not be sent away for a number they forgot to
raise. The same bytes are the same artifact. Other bytes under a version that is taken get the next free
one, and the reply says which.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from cloud.artifacts.entry import Entry
from cloud.artifacts.events import (
    Announce,
    Asker,
    Discard,
    Event,
    Examine,
    Examined,
    Offered,
    PieceArrived,
    PieceWritten,
    Record,
    Recorded,
    Restored,
    WritePiece,
)
from shared.artifacts import is_digest
from shared.core import Effect, Failed, Ignore, LinkUp, Publish, Tick
from shared.errors import InvalidTransition
from shared.messages import Reply, ReplyStatus
from shared.replies import UploadProgress
from shared.topics import APP_REPLY, MANIFEST, MIB
from shared.views import ModelView
from shared.wire import packed


class Phase(StrEnum):
    """How far an upload is."""

    RECEIVING = "receiving"
    EXAMINING = "examining"
    RECORDING = "recording"


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.RECEIVING: frozenset({Phase.EXAMINING}),
    Phase.EXAMINING: frozenset({Phase.RECORDING}),
    Phase.RECORDING: frozenset(),
}


@dataclass(frozen=True, slots=True)
class CatalogLimits:
    """Bounds of the store. ``announced_max``: manifests published again per tick after a reconnect."""

    upload_bytes_max: int = 512 * MIB
    store_bytes_max: int = 64 * 1024 * MIB
    entries_max: int = 10_000
    uploads_max: int = 32
    uploads_per_app_max: int = 4
    askers_max: int = 16
    upload_deadline_s: float = 600.0
    announced_max: int = 64


@dataclass(slots=True)
class Upload:
    """One package on its way. ``size_bytes`` 0: found on the disk after a restart, nobody asked yet.

    ``askers``: who waits to hear that it is in the catalog.
    """

    digest: str
    app: str
    size_bytes: int
    deadline: float
    bytes_have: int = 0
    phase: Phase = Phase.RECEIVING
    askers: list[Asker] = field(default_factory=list)
    entry: Entry | None = None


@dataclass(slots=True)
class Catalog:
    """Takes uploads and keeps every manifest published."""

    limits: CatalogLimits = field(default_factory=CatalogLimits)
    entries: dict[str, Entry] = field(default_factory=dict)  # by digest, oldest first
    uploads: dict[str, Upload] = field(default_factory=dict)  # by digest
    unpublished: dict[str, None] = field(default_factory=dict)

    def models(self) -> tuple[ModelView, ...]:
        """Everything that can be deployed, oldest first."""
        return tuple(entry.view() for entry in self.entries.values())

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Restored():
                return self._restored(event, now)
            case PieceArrived():
                return self._arrived(event, now)
            case PieceWritten():
                return self._written(event, now)
            case Offered(digest, size_bytes):
                return self._offered(digest, size_bytes, now)
            case Examined():
                return self._examined(event)
            case Recorded(entry):
                return self._recorded(entry)
            case Failed(WritePiece() as work, reason):
                return [self._refuse(work.asker, "not-stored", reason)]
            case Failed():
                return self._failed(event)
            case _:
                return self._time_and_link(event, now)

    def check(self) -> None:
        """Invariants."""
        assert not self.entries.keys() & self.uploads.keys()
        assert sum(one.app != "" for one in self.uploads.values()) <= self.limits.uploads_max
        names = [(one.manifest.name, one.manifest.version) for one in self.entries.values()]
        assert len(names) == len(set(names)), "a version names one artifact"
        assert self.unpublished.keys() <= self.entries.keys()
        for digest, one in self.uploads.items():
            assert one.digest == digest
            assert one.size_bytes == 0 or one.bytes_have <= one.size_bytes <= self.limits.upload_bytes_max
            assert (one.entry is not None) is (one.phase is Phase.RECORDING)
            assert one.phase is Phase.RECEIVING or one.bytes_have == one.size_bytes
            assert one.phase is not Phase.RECEIVING or not one.askers
            assert len(one.askers) <= self.limits.askers_max

    # Pieces -----------------------------------------------------------------------------------------------

    def _arrived(self, event: PieceArrived, now: float) -> list[Effect]:
        known = self.entries.get(event.digest)
        if known is not None:  # The same bytes are the same artifact, whoever sends them.
            return [self._done(event.asker, known)]
        upload = self.uploads.get(event.digest)
        if upload is not None and upload.phase is not Phase.RECEIVING:
            return self._queue(upload, event.asker)
        refusal = _nonsense(event, upload, self.limits) or self._full(event, upload)
        if refusal is not None:
            return [self._refuse(event.asker, *refusal)]
        upload = self._upload(event, now)
        if event.length == 0 or event.offset != upload.bytes_have:
            return self._go_on(upload, event.asker)
        return [WritePiece(event.asker, event.digest, event.offset, event.length)]

    def _upload(self, event: PieceArrived, now: float) -> Upload:
        upload = self.uploads.setdefault(event.digest, Upload(event.digest, event.asker.app, 0, 0.0))
        upload.app, upload.size_bytes = upload.app or event.asker.app, event.size_bytes
        upload.deadline = now + self.limits.upload_deadline_s
        return upload

    def _full(self, event: PieceArrived, upload: Upload | None) -> tuple[str, str] | None:
        """Why a new upload has no place."""
        limits, uploads = self.limits, self.uploads.values()
        if upload is not None and upload.size_bytes:
            return None
        if upload is None and len(self.uploads) >= limits.uploads_max:
            return "busy", f"{limits.uploads_max} uploads are on their way already; try again later"
        if sum(one.app == event.asker.app for one in uploads) >= limits.uploads_per_app_max:
            return "busy", f"{event.asker.app} has {limits.uploads_per_app_max} uploads on their way already"
        stored = sum(entry.manifest.size_bytes for entry in self.entries.values())
        room = limits.store_bytes_max - stored - sum(one.size_bytes for one in uploads)
        if event.size_bytes > room or len(self.entries) + len(self.uploads) >= limits.entries_max:
            return "no-room", f"the store has room for {max(0, room)} bytes more"
        return None

    def _written(self, event: PieceWritten, now: float) -> list[Effect]:
        upload = self.uploads.get(event.digest)
        if upload is None or upload.phase is not Phase.RECEIVING:
            return [Ignore("a piece was written for an upload that is over")]
        upload.bytes_have += event.length
        upload.deadline = now + self.limits.upload_deadline_s
        return self._go_on(upload, event.asker)

    def _offered(self, digest: str, size_bytes: int, now: float) -> list[Effect]:
        known = self.entries.get(digest)
        if known is not None:
            return [Announce(known)]
        if digest in self.uploads or len(self.entries) + len(self.uploads) >= self.limits.entries_max:
            return [Ignore(f"no place for {digest[:8]}, or it is on its way already")]
        deadline = now + self.limits.upload_deadline_s
        upload = self.uploads[digest] = Upload(digest, "", size_bytes, deadline, size_bytes)
        return self._enter(upload, Phase.EXAMINING, Examine(digest))

    def _go_on(self, upload: Upload, asker: Asker) -> list[Effect]:
        """Ask for the next piece, or look at the whole."""
        if upload.bytes_have < upload.size_bytes:
            return [self._reply(asker, UploadProgress(digest=upload.digest, bytes_have=upload.bytes_have))]
        upload.askers.append(asker)
        return self._enter(upload, Phase.EXAMINING, Examine(upload.digest))

    def _queue(self, upload: Upload, asker: Asker) -> list[Effect]:
        if len(upload.askers) >= self.limits.askers_max:
            return [self._refuse(asker, "busy", "too many applications upload these very bytes")]
        upload.askers.append(asker)
        return []

    # The whole --------------------------------------------------------------------------------------------

    def _examined(self, event: Examined) -> list[Effect]:
        upload = self.uploads[event.digest]
        manifest = event.manifest
        version = next_version(manifest.version, self._versions(manifest.name))
        manifest = msgspec.structs.replace(manifest, version=version)
        upload.entry = Entry(manifest=manifest, info=event.info, created_at_unix_s=event.at_unix_s)
        return self._enter(upload, Phase.RECORDING, Record(upload.entry))

    def _versions(self, name: str) -> set[str]:
        coming = (one.entry for one in self.uploads.values() if one.entry is not None)
        manifests = (entry.manifest for entry in (*self.entries.values(), *coming))
        return {one.version for one in manifests if one.name == name}

    def _recorded(self, entry: Entry) -> list[Effect]:
        upload = self.uploads.pop(entry.digest)
        self.entries[entry.digest] = entry
        replies = [self._done(asker, entry) for asker in upload.askers]
        return [_published(entry), Announce(entry), *replies]

    def _failed(self, event: Failed) -> list[Effect]:
        """Nothing of it is kept: the bytes are not a model, or could not be stored."""
        match event.work:
            case Examine(digest):
                code = "not-a-model"
            case Record(entry):
                digest, code = entry.digest, "not-stored"
            case _:
                return [Ignore(f"{type(event.work).__name__} failed: {event.reason}")]
        upload = self.uploads.pop(digest)
        refusals = [self._refuse(asker, code, event.reason) for asker in upload.askers]
        return [Discard(digest), *refusals]

    # Time, link and the start -----------------------------------------------------------------------------

    def _restored(self, event: Restored, now: float) -> list[Effect]:
        """An entry without its bytes can't be sent: it is left out until somebody uploads it again."""
        effects: list[Effect] = []
        for entry in sorted(event.entries, key=lambda entry: (entry.created_at_unix_s, entry.digest)):
            if entry.digest in event.blobs:
                self.entries[entry.digest] = entry
                effects.append(Announce(entry))
            else:
                effects.append(Ignore(f"the bytes of {entry.manifest.name} {entry.digest[:8]} are missing"))
        effects += [Discard(digest) for digest in sorted(event.blobs - self.entries.keys())]
        deadline = now + self.limits.upload_deadline_s
        for digest, bytes_have in sorted(event.parts.items()):
            if digest in event.blobs:  # To discard the part would take the whole with it.
                effects.append(Ignore(f"a part of {digest[:8]} lies beside the whole"))
            elif len(self.uploads) >= self.limits.uploads_max:
                effects.append(Discard(digest))
            else:
                self.uploads[digest] = Upload(digest, "", 0, deadline, bytes_have)
        return effects

    def _time_and_link(self, event: Event, now: float) -> list[Effect]:
        match event:
            case LinkUp():  # Retained facts may have been lost with the broker.
                self.unpublished = dict.fromkeys(self.entries)
                return self._publish_some()
            case Tick():
                return [*self._reap(now), *self._publish_some()]
            case _:
                return []

    def _publish_some(self) -> list[Effect]:
        digests = list(self.unpublished)[: self.limits.announced_max]
        for digest in digests:
            del self.unpublished[digest]
        return [_published(self.entries[digest]) for digest in digests]

    def _reap(self, now: float) -> list[Effect]:
        receiving = (one for one in self.uploads.values() if one.phase is Phase.RECEIVING)
        stale = [one.digest for one in receiving if now >= one.deadline]
        for digest in stale:
            del self.uploads[digest]
        return [Discard(digest) for digest in stale]

    # Replies ----------------------------------------------------------------------------------------------

    def _done(self, asker: Asker, entry: Entry) -> Effect:
        one = entry.manifest
        body = UploadProgress(
            digest=one.digest, bytes_have=one.size_bytes, done=True, name=one.name, version=one.version
        )
        return self._reply(asker, body)

    def _reply(self, asker: Asker, body: UploadProgress) -> Effect:
        reply = Reply(correlation=asker.correlation, body=packed(body))
        return Publish(APP_REPLY.at(app=asker.app), reply)

    def _refuse(self, asker: Asker, code: str, detail: str) -> Effect:
        reply = Reply(
            correlation=asker.correlation, status=ReplyStatus.REFUSED, code=code, detail=detail[:500]
        )
        return Publish(APP_REPLY.at(app=asker.app), reply)

    def _enter(self, upload: Upload, phase: Phase, *effects: Effect) -> list[Effect]:
        if phase not in NEXT[upload.phase]:
            raise InvalidTransition(f"upload {upload.digest[:8]}: {upload.phase} -> {phase}")
        upload.phase = phase
        return list(effects)


def _nonsense(event: PieceArrived, upload: Upload | None, limits: CatalogLimits) -> tuple[str, str] | None:
    """Why a piece can't be one of a package: (code, detail)."""
    if not is_digest(event.digest):
        return "bad-digest", "the digest must be a SHA-256 in lower-case hex"
    if not 1 <= event.size_bytes <= limits.upload_bytes_max:
        return "too-large", f"{event.size_bytes} bytes; 1 to {limits.upload_bytes_max} are allowed"
    if event.offset < 0 or event.offset + event.length > event.size_bytes:
        return "bad-piece", "the piece does not lie within the size"
    if upload is not None and upload.size_bytes not in (0, event.size_bytes):
        return "bad-piece", f"the size was {upload.size_bytes} before"
    if upload is not None and upload.bytes_have > event.size_bytes:
        return "bad-piece", f"{upload.bytes_have} bytes of it are here already"
    return None


def next_version(version: str, taken: Set[str]) -> str:
    """``version`` while it is free; else the number after the highest, or ``version-2`` and so on."""
    if version not in taken:
        return version
    if version.isdigit():
        return str(max(int(one) for one in taken if one.isdigit()) + 1)
    return next(name for n in range(2, len(taken) + 3) if (name := f"{version}-{n}") not in taken)


def _published(entry: Entry) -> Effect:
    return Publish(MANIFEST.at(artifact=entry.digest), entry.manifest)
