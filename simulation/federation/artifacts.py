"""What the cloud offers, as simulated devices get it: whole, after the time that their link needs.

Content lies in a folder as files, named by digest. Signatures, chunks and repairs have their own tests and
would only make a round of a thousand devices slow here. What was retired can't be had any more.
"""

from hashlib import sha256
from pathlib import Path


class Artifacts:
    """One folder. ``sent_bytes``: what all devices have fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self.sent_bytes = 0
        self.most = 0
        folder.mkdir(parents=True, exist_ok=True)

    def offer(self, data: bytes) -> str:
        """From now on it can be fetched; gives its digest."""
        digest = sha256(data).hexdigest()
        if digest not in self._sizes:
            (self._folder / digest).write_bytes(data)
            self._sizes[digest] = len(data)
            self.most = max(self.most, len(self._sizes))
        return digest

    def retire(self, digest: str) -> None:
        """Nobody needs it any more. A device that is at work on it has its copy."""
        if self._sizes.pop(digest, None) is not None:
            (self._folder / digest).unlink()

    def size(self, digest: str) -> int | None:
        """Bytes; None where there is no such artifact."""
        return self._sizes.get(digest)

    def fetched(self, digest: str) -> Path | None:
        """Its file, for a device that has waited long enough; None: it is gone."""
        size = self._sizes.get(digest)
        if size is None:
            return None
        self.sent_bytes += size
        return self._folder / digest

    def read(self, digest: str) -> bytes:
        """Its content."""
        return (self._folder / digest).read_bytes()
