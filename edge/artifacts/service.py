"""The models of a device, bound to the bus, the blob folder and the runtime."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import msgspec

from broker.bus import Bus, Subscription
from broker.service import Service, on, on_demand
from edge.artifacts.blobs import Blobs
from edge.artifacts.core import Models
from edge.artifacts.events import (
    BlobLost,
    ChunkArrived,
    ChunkWritten,
    DeleteBlob,
    DesiredArrived,
    Event,
    Land,
    Landed,
    Lend,
    Listen,
    Loaded,
    LoadModule,
    ManifestArrived,
    OpenPart,
    PartOpened,
    Refuse,
    Remember,
    Remembered,
    Restored,
    Unlisten,
    UnloadModule,
    Verified,
    VerifyBlob,
    WriteChunk,
)
from shared.artifacts import chunk_index
from shared.core import Failed, Work
from shared.errors import LocalError, ShoalError
from shared.messages import Chunk, Manifest
from shared.topics import CHUNK, DESIRED, KIB, MANIFEST

log = logging.getLogger(__name__)

SMALL_BYTES = 512 * KIB  # hashed within a third of a millisecond


class LoadedInfo(Protocol):
    """What the runtime says of a model that it has loaded."""

    @property
    def memory_bytes(self) -> int:
        """Memory that the model takes up."""
        ...


Load = Callable[[str, Path], Awaitable[LoadedInfo]]
Save = Callable[[dict[str, Any]], None]
Answer = Callable[[str, Path | None, str], None]


def _nobody(digest: str, path: Path | None, reason: str) -> None:
    """For a device on which nothing borrows."""
    raise LocalError(f"{digest[:8]} was required, and nobody takes it: {path or reason}")


def models_service(  # noqa: PLR0913 (each is one wire of the device)
    core: Models,
    bus: Bus,
    blobs: Blobs,
    *,
    load: Load,
    unload: Callable[[str], None],
    remember: Save,
    verify: Callable[[Manifest], bool],
    saved: Mapping[str, Any] | None = None,
    answer: Answer = _nobody,
    tick_s: float = 1.0,
) -> Service[Event]:
    """Bind the core. Call it inside a running loop: what ``saved`` names begins to load at once.

    ``load(name, path)`` replaces the version in service only when it returns, and leaves it alone when it
    raises. ``verify``: whether the cloud signed a manifest; nothing else is stored. A signature says that a
    blob came through our cloud, not that it is harmless. ``remember`` gets a plain map to keep; ``saved``:
    the last one, None on a first boot. ``answer(digest, path, reason)``: to whoever fed ``Required``; the
    blob is at ``path``, or None and the reason why not.
    """
    shell = _Shell(blobs, load, remember, verify)
    service: Service[Event] = Service(
        "models",
        core,
        bus,
        routes=[
            on(DESIRED, lambda _, desired: DesiredArrived(desired), node=core.node),
            on_demand(MANIFEST, shell.manifest),
            on_demand(CHUNK, shell.chunk),
        ],
        do={
            Listen: lambda effect: shell.listen(service, effect.digest),
            Unlisten: lambda effect: shell.unlisten(effect.digest),
            UnloadModule: lambda effect: unload(effect.name),
            DeleteBlob: lambda effect: blobs.delete(effect.digest),
            Remember: shell.remember,
            Lend: lambda effect: answer(effect.digest, blobs.path(effect.digest), ""),
            Refuse: lambda effect: answer(effect.digest, None, effect.reason),
        },
        work={
            OpenPart: shell.open,
            WriteChunk: shell.write,
            Land: shell.land,
            LoadModule: shell.load,
            VerifyBlob: shell.verify,
        },
        tick_s=tick_s,
    )
    service.feed(restored(saved, blobs))
    return service


class _Shell:
    """Holds the chunk that just arrived, so that no event carries its bytes, and the subscriptions."""

    def __init__(self, blobs: Blobs, load: Load, remember: Save, verify: Callable[[Manifest], bool]) -> None:
        self._blobs, self._load, self._remember, self._verify = blobs, load, remember, verify
        self._hand: tuple[str, int, bytes] = ("", 0, b"")
        self._listening: dict[str, Subscription] = {}

    def manifest(self, ids: dict[str, str], manifest: Manifest) -> ManifestArrived:
        return ManifestArrived(ids["artifact"], manifest, self._verify(manifest))

    def chunk(self, ids: dict[str, str], chunk: Chunk) -> ChunkArrived:
        digest, index = ids["artifact"], chunk_index(ids["index"])
        self._hand = digest, index, chunk.data
        return ChunkArrived(digest, index, sha256(chunk.data).digest())

    def listen(self, service: Service[Event], digest: str) -> None:
        filters = MANIFEST.filter_for(artifact=digest), CHUNK.filter_for(artifact=digest)
        self._listening[digest] = service.listen(*filters)

    def unlisten(self, digest: str) -> None:
        self._listening.pop(digest).close()

    def remember(self, effect: Remember) -> None:
        models = {name: asdict(one) for name, one in effect.models.items()}
        self._remember({"version": effect.version, "models": models})

    def open(self, work: OpenPart) -> Event | Awaitable[Event]:
        manifest = work.manifest

        def opened() -> Event:
            return PartOpened(work.digest, self._blobs.open(manifest))

        return _aside(work, opened, small=manifest.size_bytes <= SMALL_BYTES)

    def write(self, work: WriteChunk) -> Event:
        digest, index, data = self._hand
        if (digest, index) != (work.digest, work.index):
            raise LocalError(f"chunk {work.index} is to be written, chunk {index} is in hand")
        try:
            self._blobs.write(digest, work.offset, data)
        except (OSError, ShoalError) as error:
            return Failed(work, str(error))
        return ChunkWritten(digest, index)

    def land(self, work: Land) -> Event | Awaitable[Event]:
        def landed() -> Event:
            return Landed(work.digest, self._blobs.land(work.digest, work.durable))

        small = not work.durable and self._blobs.part_bytes(work.digest) <= SMALL_BYTES
        return _aside(work, landed, small=small)

    async def verify(self, work: VerifyBlob) -> Event:
        async def verified() -> Event:
            whole = await asyncio.to_thread(self._blobs.verify, work.digest)
            if not whole:
                self._blobs.delete(work.digest)
            return Verified(work.digest, whole)

        return await _or_failed(work, verified())

    async def load(self, work: LoadModule) -> Event:
        if not await asyncio.to_thread(self._blobs.verify, work.digest):
            log.warning("the blob of %s is gone or broken; it will be fetched again", work.name)
            self._blobs.delete(work.digest)
            return BlobLost(work.name, work.digest)

        async def loaded() -> Event:
            info = await self._load(work.name, self._blobs.path(work.digest))
            return Loaded(work.name, work.digest, info.memory_bytes)

        return await _or_failed(work, loaded())


def _aside(work: Work, do: Callable[[], Event], *, small: bool) -> Event | Awaitable[Event]:
    """In a thread; or here and now, where that takes less time than a thread's round trip."""
    if not small:
        return _or_failed(work, asyncio.to_thread(do))
    try:
        return do()
    except (OSError, ShoalError) as error:
        return Failed(work, str(error))


async def _or_failed(work: Work, answer: Awaitable[Event]) -> Event:
    """Our own errors and the disk's read well as they are; anything else is told with its type."""
    try:
        return await answer
    except (OSError, ShoalError) as error:
        return Failed(work, str(error))


class _Saved(msgspec.Struct):
    """The form of what ``remember`` was given."""

    version: int = 0
    models: dict[str, Remembered] = {}


def restored(saved: Mapping[str, Any] | None, blobs: Blobs) -> Restored:
    """What this device knows after a boot. A saved map that can't be read counts as none: the desired
    state comes again from the broker, and the blobs are still here."""
    try:
        known = msgspec.convert(saved or {}, _Saved)
    except msgspec.ValidationError as error:
        log.warning("what was remembered of the models is unreadable: %s", error)
        known = _Saved()
    whole, parts = blobs.held()
    return Restored(known.version, known.models, whole, parts)
