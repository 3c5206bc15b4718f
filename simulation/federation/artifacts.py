"""What the cloud offers, as simulated devices get it: whole, after the time that their link needs.

The files are the coordinator's own. Signatures, chunks and repairs have their own tests and would only make
a round of a thousand devices slow here. What was withdrawn can't be had any more.
"""

from hashlib import sha256
from pathlib import Path


class Artifacts:
    """On offer, by digest; and packages, which are kept in ``folder``: see
    :class:`cloud.federated.packages.Packages`. ``sent_bytes``: what all devices have fetched; ``most``: so
    many were on offer at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offered: dict[str, Path] = {}
        self.sent_bytes = 0
        self.most = 0
        folder.mkdir(parents=True, exist_ok=True)

    def show(self, digest: str, path: Path) -> None:
        """From now on this file can be fetched."""
        self._offered[digest] = path
        self.most = max(self.most, len(self._offered))

    def withdraw(self, digest: str) -> None:
        """Nobody can fetch it any more."""
        self._offered.pop(digest, None)

    def size(self, digest: str) -> int:
        """Bytes; 0 where it is not on offer."""
        path = self._offered.get(digest)
        return path.stat().st_size if path is not None and path.exists() else 0

    def fetched(self, digest: str) -> Path | None:
        """Its file, for a device that has waited long enough; None: it is gone."""
        size = self.size(digest)
        self.sent_bytes += size
        return self._offered[digest] if size else None

    def read(self, digest: str) -> bytes:
        """A package. Raises ``OSError`` where there is none."""
        return (self._folder / digest).read_bytes()

    def offer(self, package: bytes) -> str:
        """Take a package; gives its digest."""
        digest = sha256(package).hexdigest()
        (self._folder / digest).write_bytes(package)
        self.show(digest, self._folder / digest)
        return digest
