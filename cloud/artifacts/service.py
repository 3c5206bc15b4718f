"""The catalog and the sender, bound to the bus, the folder and the store."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.bus import Bus, Properties
from broker.service import Service, on
from cloud.artifacts import sender
from cloud.artifacts.blobs import BlobFolder
from cloud.artifacts.catalog import Catalog
from cloud.artifacts.entry import CatalogStore, Entry
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
from cloud.artifacts.examine import examine
from cloud.artifacts.keys import signed
from cloud.artifacts.sender import ChunkSent, SendChunk, Sender, Wake, WantSeen, Woken
from shared.core import Failed
from shared.errors import LocalError, ShoalError, Unavailable
from shared.messages import Chunk, Manifest, Upload
from shared.package import PackageInfo
from shared.topics import APP_UPLOAD, CHUNK, WANT
from shared.wire import encode

SEND_DEADLINE_S = 30.0


def catalog_service(
    core: Catalog,
    bus: Bus,
    blobs: BlobFolder,
    store: CatalogStore,
    key: Ed25519PrivateKey,
    tell: Callable[[Entry], None],
    *,
    tick_s: float = 1.0,
) -> Service[Event]:
    """Bind the catalog; the store is read here, before the first request can come.

    ``tell`` is called for each artifact that can be deployed and sent, also for those in the store.
    """
    shell = _CatalogShell(blobs, store, key)
    service: Service[Event] = Service(
        "catalog",
        core,
        bus,
        routes=[on(APP_UPLOAD, shell.piece)],
        do={
            Announce: lambda effect: tell(effect.entry),
            Discard: lambda effect: blobs.delete(effect.digest),
        },
        work={WritePiece: shell.write, Examine: shell.examine, Record: shell.record},
        tick_s=tick_s,
    )
    service.feed(Restored(store.load_catalog(), *blobs.held()))
    return service


class _CatalogShell:
    """Holds the piece that just arrived, so that no event carries its bytes."""

    def __init__(self, blobs: BlobFolder, store: CatalogStore, key: Ed25519PrivateKey) -> None:
        self._blobs, self._store, self._key = blobs, store, key
        self._hand: tuple[Asker, bytes] = (Asker("", ""), b"")

    def piece(self, ids: dict[str, str], upload: Upload) -> PieceArrived:
        asker = Asker(ids["app"], upload.correlation)
        self._hand = asker, upload.data
        return PieceArrived(asker, upload.digest, upload.size_bytes, upload.offset, len(upload.data))

    def write(self, work: WritePiece) -> Event:
        asker, data = self._hand
        if asker != work.asker or len(data) != work.length:
            raise LocalError("the piece to be written is not the one in hand")
        try:
            self._blobs.write(work.digest, work.offset, data)
        except OSError as error:
            return Failed(work, str(error))
        return PieceWritten(asker, work.digest, len(data))

    async def examine(self, work: Examine) -> Event:
        try:
            info, manifest = await asyncio.to_thread(self._examined, work.digest)
        except (OSError, ShoalError) as error:
            return Failed(work, str(error))
        return Examined(work.digest, info, manifest, time.time())

    def _examined(self, digest: str) -> tuple[PackageInfo, Manifest]:
        return examine(self._blobs.received(digest))

    async def record(self, work: Record) -> Event:
        """The bytes first: an entry without them would promise what can't be sent."""
        entry = msgspec.structs.replace(work.entry, manifest=signed(work.entry.manifest, self._key))
        await asyncio.to_thread(self._blobs.land, entry.digest)
        await asyncio.to_thread(self._store.save_entry, entry)
        return Recorded(entry)


class OwnPackages:
    """What the rest of the cloud does with packages. ``feed``: the catalog's, from any thread."""

    def __init__(self, blobs: BlobFolder, feed: Callable[[Offered], None]) -> None:
        self._blobs, self._feed = blobs, feed

    def read(self, digest: str) -> bytes:
        """A package of the catalog. Raises ``OSError`` where there is none."""
        return self._blobs.whole(digest)

    def offer(self, package: bytes) -> str:
        """Put a package that this cloud made into the catalog; gives its digest. Blocks."""
        digest = sha256(package).hexdigest()
        if digest not in self._blobs.held()[0]:
            self._blobs.write(digest, 0, package)
        self._feed(Offered(digest, len(package)))
        return digest


class Blobs(Protocol):
    """Where chunks are read from."""

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """A piece of a whole artifact."""
        ...


def sender_service(core: Sender, bus: Bus, blobs: Blobs, *, tick_s: float = 0.25) -> Service[sender.Event]:
    """Bind the sender. Feed it a :class:`~cloud.artifacts.sender.Known` for each artifact.

    ``bus`` may be a connection of its own: chunks then never stand before control traffic.
    """
    return Service(
        "sender",
        core,
        bus,
        routes=[on(WANT, lambda ids, want: WantSeen(ids["node"], want))],
        work={SendChunk: partial(_send, bus, blobs), Wake: _wake},
        tick_s=tick_s,
    )


async def _wake(work: Wake) -> sender.Event:
    await asyncio.sleep(work.seconds)
    return Woken()


async def _send(bus: Bus, blobs: Blobs, work: SendChunk) -> sender.Event:
    """Publish one chunk and wait for the broker, but not for ever: a link may take the answer with it."""
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done() -> None:
        if not acknowledged.done():
            acknowledged.set_result(None)

    data = blobs.read(work.digest, work.index * work.chunk_bytes, work.chunk_bytes)
    sent = bus.publish(
        CHUNK.at(artifact=work.digest, index=str(work.index)).name,
        encode(Chunk(data=data)),
        qos=CHUNK.qos,
        properties=Properties(expiry_s=CHUNK.expiry_s),
        done=done,
    )
    if not sent:
        raise Unavailable("the outbox is full")
    async with asyncio.timeout(SEND_DEADLINE_S):
        await acknowledged
    return ChunkSent(work.digest, work.index)
