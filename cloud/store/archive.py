"""A backup as a file: a zip, so that any tool can look inside, whose content is proved by its last members.

    tables/NAME        see cloud.store.dump
    files/PATH         of the cloud's data folder
    manifest.json      what this is, and the size and SHA-256 of every member before it
    manifest.proof     SHA-256 of the manifest; where the cloud has its signing key also key and signature

It appears under its name when it is whole and on the disk. A torn one has no manifest, a changed one does not
match it, and whoever changes the manifest too needs the cloud's key: see :meth:`ArchiveReader.check`.
"""

import errno
import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import ConfigError, ShoalError, Unreadable

T = TypeVar("T")

FORMAT = 1
MANIFEST_BYTES_MAX = 256 << 20
_PIECE = 1 << 20
_MANIFEST, _PROOF = "manifest.json", "manifest.proof"
_TABLES, _FILES = "tables/", "files/"

# What zipfile raises on bytes that nobody wrote on purpose.
_TORN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)

Told = Callable[[str, int, int], None]  # what is worked on, its number, of how many


class BackupDamaged(ShoalError):
    """The file is not a whole, unchanged backup. Nothing was taken from it."""


class Member(msgspec.Struct, frozen=True):
    """``rows``: of a table."""

    size_bytes: int
    sha256: str
    rows: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``revision``: of the tables. ``cloud_key``: public key of the cloud; empty: it had none.

    ``left_out``: files that are not in it, by option or because they were damaged, each with the reason.
    """

    format: int = FORMAT
    made_at_unix_s: float
    version: str
    revision: str
    database: str
    cloud_key: str = ""
    tables: dict[str, Member]
    files: dict[str, Member]
    left_out: dict[str, str]


class Proof(msgspec.Struct, frozen=True):
    """``key`` and ``signature`` (Ed25519, hex) are empty where the cloud had no signing key."""

    sha256: str
    key: str = ""
    signature: str = ""


class ArchiveWriter:
    """Members one after the other, then the manifest."""

    def __init__(self, zipped: zipfile.ZipFile) -> None:
        self._zip = zipped
        self.tables: dict[str, Member] = {}
        self.files: dict[str, Member] = {}

    def table(self, name: str, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Write a table's blocks, each with its number of rows."""
        self.tables[name] = self._write(_TABLES + name, blocks)

    def file(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file of the data folder."""
        self.files[name] = self._write(_FILES + name, ((0, piece) for piece in pieces))

    def finish(self, manifest: Manifest, key: Ed25519PrivateKey | None) -> None:
        """Write the manifest and its proof."""
        content = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2)
        proof = Proof(hashlib.sha256(content).hexdigest())
        if key is not None:
            public = key.public_key().public_bytes_raw().hex()
            proof = Proof(proof.sha256, public, key.sign(_signed(content)).hex())
        self._write(_MANIFEST, [(0, content)])
        self._write(_PROOF, [(0, msgspec.json.encode(proof))])

    def _write(self, name: str, pieces: Iterable[tuple[int, bytes]]) -> Member:
        digest, size, rows = hashlib.sha256(), 0, 0
        info = zipfile.ZipInfo(name)  # the same content is the same file, whenever it is written
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = 0o600 << 16
        with self._zip.open(info, "w", force_zip64=True) as file:
            for count, piece in pieces:
                file.write(piece)
                digest.update(piece)
                size, rows = size + len(piece), rows + count
        return Member(size, digest.hexdigest(), rows)


@contextmanager
def writing(path: Path, *, replace: bool) -> Iterator[ArchiveWriter]:
    """A new archive that appears at ``path`` when the block has ended well. Raises :class:`ConfigError`."""
    if path.exists() and not replace:
        raise ConfigError(f"{path} is there already; name another file, or --force")
    draft = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
            with zipfile.ZipFile(file, "w", compresslevel=1) as zipped:
                yield ArchiveWriter(zipped)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"can't make the backup {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


class ArchiveReader:
    """An archive whose manifest proved to be the one it was written with."""

    def __init__(self, zipped: zipfile.ZipFile) -> None:
        self._zip = zipped
        content = self._whole(_MANIFEST)
        self.proof = _decoded(self._whole(_PROOF), Proof, _PROOF)
        if hashlib.sha256(content).hexdigest() != self.proof.sha256:
            raise BackupDamaged(f"{_MANIFEST} was changed after the backup was made")
        self.manifest = _decoded(content, Manifest, _MANIFEST)
        if self.manifest.format != FORMAT:
            raise BackupDamaged(f"format {self.manifest.format} is not known; use a newer shoal")
        _check_signature(content, self.proof, self.manifest.cloud_key)
        self._check_names()

    def check(self, told: Told) -> None:
        """Read everything once. Raises :class:`BackupDamaged` that names the first member that is wrong."""
        members = self._members()
        for number, name in enumerate(members, 1):
            told(name, number, len(members))
            with self._open(name) as file:
                while file.read(_PIECE):
                    pass

    @contextmanager
    def table(self, name: str) -> Iterator[Callable[[int], bytes]]:
        """``read(n)`` of a table's bytes."""
        with self._open(_TABLES + name) as file:
            yield file.read

    def pieces(self, name: str) -> Iterator[bytes]:
        """A file of the data folder."""
        with self._open(_FILES + name) as file:
            while piece := file.read(_PIECE):
                yield piece

    def _members(self) -> dict[str, Member]:
        found = {_TABLES + name: member for name, member in self.manifest.tables.items()}
        return found | {_FILES + name: member for name, member in self.manifest.files.items()}

    def _check_names(self) -> None:
        expected, found = {*self._members(), _MANIFEST, _PROOF}, self._zip.namelist()
        if sorted(expected) != sorted(found):
            odd = ", ".join(sorted(expected.symmetric_difference(found))[:3]) or "a name that is there twice"
            raise BackupDamaged(f"the members are not those of the manifest: {odd}")
        for name in self.manifest.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name:
                raise BackupDamaged(f"{name[:200]!r} would be outside the data folder")

    @contextmanager
    def _open(self, name: str) -> Iterator["_Checked"]:
        with _typed_damage(name), self._zip.open(name) as file:
            checked = _Checked(file, self._members()[name], name)
            yield checked
            checked.finish()

    def _whole(self, name: str) -> bytes:
        with _typed_damage(name):
            if self._zip.getinfo(name).file_size > MANIFEST_BYTES_MAX:
                raise BackupDamaged(f"{name} is too large")
            return self._zip.read(name)


@contextmanager
def reading(path: Path) -> Iterator[ArchiveReader]:
    """Open an archive. Raises :class:`BackupDamaged`, or :class:`ConfigError` where there is none."""
    try:
        with zipfile.ZipFile(path) as zipped:
            yield ArchiveReader(zipped)
    except _TORN as error:
        raise BackupDamaged(f"{path} is not a backup, or only a part of one: {error}") from error
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # bz2 on what is no bz2; a place before the file's beginning
            raise BackupDamaged(f"{path} is damaged: {error}") from error
        raise ConfigError(f"can't read the backup {path}: {error.strerror or error}") from error


class _Checked:
    """A member that is known to be right once it was read to its end."""

    def __init__(self, file: IO[bytes], member: Member, name: str) -> None:
        self._file, self._member, self._name = file, member, name
        self._digest, self._size = hashlib.sha256(), 0

    def read(self, length: int) -> bytes:
        piece = self._file.read(length)
        self._digest.update(piece)
        self._size += len(piece)
        if self._size > self._member.size_bytes:
            raise BackupDamaged(f"{self._name} is longer than its manifest says")
        return piece

    def finish(self) -> None:
        while self.read(_PIECE):
            pass
        if (self._size, self._digest.hexdigest()) != (self._member.size_bytes, self._member.sha256):
            raise BackupDamaged(f"{self._name} is not what was backed up: its digest does not match")


def sync_folder(folder: Path) -> None:
    """Make renames in it durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _signed(content: bytes) -> bytes:
    return b"shoal backup\0" + content


def _check_signature(content: bytes, proof: Proof, cloud_key: str) -> None:
    if proof.key != cloud_key:
        raise BackupDamaged("the backup was not signed by the cloud that it is of")
    if not proof.key:
        return
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(proof.key))
        public.verify(bytes.fromhex(proof.signature), _signed(content))
    except (InvalidSignature, ValueError):
        raise BackupDamaged("the signature of the manifest is wrong: it was changed") from None


def _decoded(content: bytes, of: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(content, type=of)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BackupDamaged(f"{name} can't be read: {error}") from None


@contextmanager
def _typed_damage(name: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise BackupDamaged(f"{name} is missing: this is no backup of shoal") from None
    except (*_TORN, Unreadable) as error:
        raise BackupDamaged(f"{name} is damaged: {error}") from None
