"""The blob folder: content-addressed files that are whole, or not there.

    <digest>.shoal    verified, durable; appears by a rename and is never written to again
    <digest>.part     on its way; any byte of it may be missing or torn

After a crash a part is hashed chunk by chunk against the signed manifest, and what matches is kept. There
is no journal beside it that could disagree with it, and chunks need no sync of their own: one that the
power failure took does not match its hash and is fetched again. Hashing costs about a second per gigabyte,
in a thread; fetching the same bytes costs minutes.

Every path is made from a checked digest. Methods block; the shell runs the long ones in a thread.
"""

import errno
import os
import shutil
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path

from edge.store.folders import sync_folder
from shared.artifacts import chunk_count, chunk_digest, is_digest
from shared.errors import Unavailable, Unreadable
from shared.messages import Manifest
from shared.package import SUFFIX
from shared.topics import MIB

PART = ".part"


class Blobs:
    """The folder of one device. ``free_bytes_min``: what is left for everything else on the disk."""

    def __init__(self, folder: Path, *, free_bytes_min: int = 16 * MIB) -> None:
        self.folder, self._free_bytes_min = folder, free_bytes_min
        self._root, self._verified = str(folder), set[str]()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the whole blob is, or will be."""
        return Path(self._name(digest, SUFFIX))

    def held(self) -> tuple[dict[str, int], dict[str, int]]:
        """The whole blobs and the parts on the disk: digest -> bytes."""
        whole: dict[str, int] = {}
        parts: dict[str, int] = {}
        for path in self.folder.iterdir():
            where = {SUFFIX: whole, PART: parts}.get(path.suffix)
            if where is not None and is_digest(path.stem):
                where[path.stem] = path.stat().st_size
        return whole, parts

    def open(self, manifest: Manifest) -> frozenset[int]:
        """Make sure of a part file with room to grow; return the chunks that lie in it, verified.

        Raises :class:`Unavailable` when the disk has no room for the rest.
        """
        descriptor = os.open(self._name(manifest.digest, PART), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, min(os.fstat(descriptor).st_size, manifest.size_bytes))
            have = frozenset(_chunks_in(descriptor, manifest))
        finally:
            os.close(descriptor)
        self._check_room(manifest.size_bytes - len(have) * manifest.chunk_bytes)
        return have

    def write(self, digest: str, offset: int, data: bytes) -> None:
        """Put one chunk at its place. Raises :class:`Unavailable` when the disk is full."""
        descriptor = os.open(self._name(digest, PART), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            written = os.pwrite(descriptor, data, offset)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            written = 0
        finally:
            os.close(descriptor)
        if written < len(data):
            raise Unavailable(f"no room: need {len(data)} bytes, have {self._free_bytes()}")

    def part_bytes(self, digest: str) -> int:
        """Of what has come so far; 0 where there is nothing."""
        try:
            return os.stat(self._name(digest, PART)).st_size
        except FileNotFoundError:
            return 0

    def land(self, digest: str, durable: bool = True) -> int:
        """Verify the whole part, make it durable, rename it into place; return its size in bytes.

        Not ``durable``: a power cut may spoil it. :meth:`verify` notices.
        Raises :class:`Unreadable` when it is not what its name says; it stays a part then.
        """
        part = self._name(digest, PART)
        with open(part, "rb") as file:
            if file_digest(file, "sha256").hexdigest() != digest:
                raise Unreadable("the chunks are what was signed, the whole is not")
            if durable:
                os.fsync(file.fileno())
            size_bytes = os.fstat(file.fileno()).st_size
        os.replace(part, self._name(digest, SUFFIX))
        if durable:
            sync_folder(self.folder)
        self._verified.add(digest)
        return size_bytes

    def verify(self, digest: str) -> bool:
        """Whether the blob is there and still what its name says (hashed once per process)."""
        if digest not in self._verified:
            try:
                with self.path(digest).open("rb") as file:
                    if file_digest(file, "sha256").hexdigest() != digest:
                        return False
            except FileNotFoundError:
                return False
            self._verified.add(digest)
        return True

    def delete(self, digest: str) -> None:
        """Remove the blob and the part, as far as they are there."""
        self._verified.discard(digest)
        for suffix in (SUFFIX, PART):
            with suppress(FileNotFoundError):
                os.unlink(self._name(digest, suffix))

    def _name(self, digest: str, suffix: str) -> str:
        """As text: a device makes these names with every chunk, and a ``Path`` takes as long as the write."""
        if not is_digest(digest):
            raise ValueError(f"{digest[:80]!r} is not a digest")
        return f"{self._root}/{digest}{suffix}"

    def _check_room(self, need_bytes: int) -> None:
        have = self._free_bytes()
        if need_bytes > have:
            raise Unavailable(f"no room: need {need_bytes} bytes, have {have}")

    def _free_bytes(self) -> int:
        return max(0, shutil.disk_usage(self.folder).free - self._free_bytes_min)


def _chunks_in(descriptor: int, manifest: Manifest) -> list[int]:
    """The indexes whose bytes match the manifest; what lies beyond the end of the file can't."""
    size_bytes = os.fstat(descriptor).st_size
    reachable = min(chunk_count(manifest), -(-size_bytes // manifest.chunk_bytes))
    return [
        index
        for index in range(reachable)
        if sha256(os.pread(descriptor, manifest.chunk_bytes, index * manifest.chunk_bytes)).digest()
        == chunk_digest(manifest, index)
    ]
