"""What the models core hears (past tense) and what it wants done (imperative).

No event or effect carries a chunk's bytes: a service keeps its last 256 steps as its story, and those
would be 24 MB of a device's memory. The core decides by the hash; the shell holds the bytes meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.messages import DesiredModels, Manifest

# What the core hears ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model: which bytes, and what people call it."""

    digest: str
    version: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the local store knows of one model: the version desired last, and the last that was ready."""

    desired: Version
    good: Version | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """The device woke up with this on its disk. ``blobs``, ``parts``: digest -> bytes on disk."""

    version: int
    models: Mapping[str, Remembered]
    blobs: Mapping[str, int]
    parts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DesiredArrived:
    """The cloud says (again) which models this device is to hold."""

    desired: DesiredModels


@dataclass(frozen=True, slots=True)
class Required:
    """Another capability of this device needs the artifact. Answer: Lend or Refuse."""

    digest: str


@dataclass(frozen=True, slots=True)
class Released:
    """It needs it no more."""

    digest: str


@dataclass(frozen=True, slots=True)
class Verified:
    """``whole``: the blob is on the disk and still what its name says; else nothing of it is left."""

    digest: str
    whole: bool


@dataclass(frozen=True, slots=True)
class ManifestArrived:
    """``genuine``: its signature verifies with the cloud's key. ``digest`` stood in the topic."""

    digest: str
    manifest: Manifest = field(repr=False)
    genuine: bool = True


@dataclass(frozen=True, slots=True)
class ChunkArrived:
    """A chunk that this or another device asked for; ``sha256`` (32 bytes) of what came."""

    digest: str
    index: int
    sha256: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PartOpened:
    """There is room, and these chunks lie verified on the disk already."""

    digest: str
    have: frozenset[int]


@dataclass(frozen=True, slots=True)
class ChunkWritten:
    """The chunk is in the part file."""

    digest: str
    index: int


@dataclass(frozen=True, slots=True)
class Landed:
    """The whole is verified, durable and in its place."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The runtime answers with this version now; it let go of the one before."""

    name: str
    digest: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class BlobLost:
    """The file to be loaded is gone or no longer what its name says; nothing of it is left."""

    name: str
    digest: str


Event = (
    Restored
    | DesiredArrived
    | Required
    | Released
    | Verified
    | ManifestArrived
    | ChunkArrived
    | PartOpened
    | ChunkWritten
    | Landed
    | Loaded
    | BlobLost
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)

# What the core wants done -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listen(Effect):
    """Subscribe to the manifest and the chunks of an artifact."""

    digest: str


@dataclass(frozen=True, slots=True)
class Unlisten(Effect):
    """No longer."""

    digest: str


@dataclass(frozen=True, slots=True)
class UnloadModule(Effect):
    """The runtime is to forget the model."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteBlob(Effect):
    """Remove the blob and what there is of a part."""

    digest: str


@dataclass(frozen=True, slots=True)
class Lend(Effect):
    """Tell the capability that required it: the blob is here, and stays until it is released."""

    digest: str


@dataclass(frozen=True, slots=True)
class Refuse(Effect):
    """Tell the capability that required it: it can't be had now. It is not required any more."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyBlob(Work):
    """Hash the blob, unless this process did. Answer: Verified."""

    digest: str


@dataclass(frozen=True, slots=True)
class Remember(Effect):
    """Save what must be known after a reboot without a network."""

    version: int
    models: Mapping[str, Remembered]


@dataclass(frozen=True, slots=True)
class OpenPart(Work):
    """Check for room, and find out which chunks are on the disk. Answer: PartOpened."""

    digest: str
    manifest: Manifest = field(repr=False)


@dataclass(frozen=True, slots=True)
class WriteChunk(Work):
    """Write the chunk that just arrived. Answer: ChunkWritten."""

    digest: str
    index: int
    offset: int


@dataclass(frozen=True, slots=True)
class Land(Work):
    """Verify the whole, make it durable, rename it into its place. Answer: Landed. Not ``durable``: what a
    power cut takes is fetched again."""

    digest: str
    durable: bool = True


@dataclass(frozen=True, slots=True)
class LoadModule(Work):
    """Have the runtime answer with this version. Answer: Loaded, or BlobLost. A failure must leave the
    version before in service."""

    name: str
    digest: str
    version: str
