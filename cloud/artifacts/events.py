"""What the catalog core hears (past tense) and what it wants done (imperative).

As on the device, no event carries the bytes of a piece: the shell holds them while the core decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloud.artifacts.entry import Entry
from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.messages import Manifest
from shared.package import PackageInfo


@dataclass(frozen=True, slots=True)
class Asker:
    """Who waits for a reply."""

    app: str
    correlation: str


@dataclass(frozen=True, slots=True)
class Restored:
    """The cloud woke up with this. ``blobs``: digests on the disk; ``parts``: digest -> bytes received."""

    entries: tuple[Entry, ...] = field(repr=False)
    blobs: frozenset[str]
    parts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PieceArrived:
    """An application sent ``length`` bytes of a package, from ``offset`` on."""

    asker: Asker
    digest: str
    size_bytes: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Offered:
    """Another capability of this cloud has written a whole package, as if it had been uploaded."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PieceWritten:
    """The piece is in the part file."""

    asker: Asker
    digest: str
    length: int


@dataclass(frozen=True, slots=True)
class Examined:
    """The package is what its digest says, and a model that devices can run. ``manifest``: not signed;
    its version is the package's own."""

    digest: str
    info: PackageInfo
    manifest: Manifest = field(repr=False)
    at_unix_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """Signed, in its place and in the store."""

    entry: Entry


Event = (
    Restored | PieceArrived | Offered | PieceWritten | Examined | Recorded | Failed | Tick | LinkUp | LinkDown
)


@dataclass(frozen=True, slots=True)
class WritePiece(Work):
    """Append the piece that just arrived. Answer: PieceWritten."""

    asker: Asker
    digest: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Examine(Work):
    """Hash and open the package, check what is in it. Answer: Examined."""

    digest: str


@dataclass(frozen=True, slots=True)
class Record(Work):
    """Sign the manifest, move the package into its place, save the entry. Answer: Recorded."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Announce(Effect):
    """Tell the other capabilities of the cloud that the artifact can be deployed and sent."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Discard(Effect):
    """Remove what there is of the artifact on the disk."""

    digest: str
