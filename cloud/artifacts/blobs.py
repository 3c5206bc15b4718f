"""The cloud's artifact files.

    <digest>.part     as received, in order; its length is how far an upload has come
    <digest>.shoal    verified and durable; appears by a rename and is never written to again

Every path is made from a checked digest. Methods block; the shell runs the long ones in a thread.
"""

import os
from hashlib import file_digest
from pathlib import Path

from shared.artifacts import is_digest
from shared.errors import Unreadable
from shared.package import SUFFIX

PART = ".part"


class BlobFolder:
    """The folder of one cloud."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def held(self) -> tuple[frozenset[str], dict[str, int]]:
        """Digests of the whole artifacts; digest -> bytes of the parts."""
        whole = {path.stem for path in self.folder.glob(f"*{SUFFIX}") if is_digest(path.stem)}
        parts = {path.stem: path.stat().st_size for path in self.folder.glob(f"*{PART}")}
        return frozenset(whole), {digest: size for digest, size in parts.items() if is_digest(digest)}

    def write(self, digest: str, offset: int, data: bytes) -> None:
        """Write the piece that follows what is there; what a torn write left beyond it goes."""
        descriptor = os.open(self._file(digest, PART), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, offset)
            written = os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)
        if written < len(data):
            raise OSError(f"only {written} of {len(data)} bytes could be written")

    def received(self, digest: str) -> bytes:
        """All of a part. Raises :class:`Unreadable` when it is not what its name says."""
        with self._file(digest, PART).open("rb") as file:
            if file_digest(file, "sha256").hexdigest() != digest:
                raise Unreadable("the bytes that arrived do not have the digest that was announced")
            file.seek(0)
            return file.read()

    def land(self, digest: str) -> None:
        """Make the part durable and rename it into place."""
        part = self._file(digest, PART)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self._file(digest, SUFFIX))
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """A piece of a whole artifact."""
        descriptor = os.open(self._file(digest, SUFFIX), os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def whole(self, digest: str) -> bytes:
        """All of a whole artifact."""
        return self._file(digest, SUFFIX).read_bytes()

    def delete(self, digest: str) -> None:
        """Remove the artifact and its part, as far as they are there."""
        for suffix in (SUFFIX, PART):
            self._file(digest, suffix).unlink(missing_ok=True)

    def _file(self, digest: str, suffix: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"{digest[:80]!r} is not a digest")
        return self.folder / f"{digest}{suffix}"


class BlobFolders:
    """Several folders to send from: models lie in one, what training starts from in another."""

    def __init__(self, *folders: BlobFolder) -> None:
        self._folders = folders

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """A piece of a whole artifact, wherever it lies."""
        for folder in self._folders[:-1]:
            try:
                return folder.read(digest, offset, length)
            except FileNotFoundError:
                continue
        return self._folders[-1].read(digest, offset, length)
