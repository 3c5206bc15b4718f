"""A backup of a cloud: everything it can't make again, in one file, whichever database it uses.

    in it        every table, as of one moment; every file of the data folder (the audit log and so on)
    by option    artifacts (in, unless told otherwise), keys (``*.key``: not in, unless told otherwise)
    never        the database's own files; what is half received (``*.part``, ``*.tmp``); passwords of the
                 broker and configuration files, which are not in the data folder

The cloud runs on while a backup is made. Tables are read from one snapshot, which blocks no writer. Files are
copied after that, as long as they are when they are opened: one that only grows is cut somewhere, as by a
power cut, and one that is replaced is whole. An artifact is on the disk before the table names it, so none is
missing. The way back is :mod:`cloud.store.restore`.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import msgspec
from alembic.runtime.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from cloud.artifacts.keys import KEY_BYTES, KEY_FILE, public_hex
from cloud.store.archive import Manifest, Told, writing
from cloud.store.database import Database
from cloud.store.dump import table_bytes
from cloud.store.engine import open_engine
from cloud.store.store import DATABASE_FILE
from cloud.store.tables import METADATA
from shared.artifacts import is_digest
from shared.errors import ConfigError
from shared.package import SUFFIX

ARTIFACTS = "artifacts"
SET_ASIDE = "before-restore-"
_PIECE = 1 << 20
_UNFINISHED = (".part", ".tmp", "-lock", ".lock", ".sock")


class Choice(msgspec.Struct, frozen=True):
    """What goes in beside the tables and the other files."""

    artifacts: bool = True
    keys: bool = False


def back_up(
    url: str, data: Path, target: Path, choice: Choice, told: Told, *, replace: bool = False
) -> Manifest:
    """Write the backup; returns what is in it.

    Raises :class:`ConfigError` and :class:`StoreFailed`; then there is no file ``target``, or the old one.
    """
    if not data.is_dir():
        raise ConfigError(f"{data} is not the data folder of a cloud")
    database = Database(open_engine(url))
    try:
        with writing(target, replace=replace) as archive:
            with database.snapshot() as connection:
                revision = MigrationContext.configure(connection).get_current_revision() or ""
                tables = METADATA.sorted_tables
                for number, table in enumerate(tables, 1):
                    told(table.name, number, len(tables))
                    archive.table(table.name, table_bytes(connection, table))
            left_out: dict[str, str] = {}
            chosen = chosen_files(data, choice, database_file(url), left_out)
            for number, (name, path) in enumerate(chosen.items(), 1):
                told(name, number, len(chosen))
                try:
                    file = path.open("rb")
                except FileNotFoundError:
                    left_out[name] = "it went while the backup was made"
                    continue
                with file:
                    archive.file(name, _pieces(file))
            key = key_in(data)
            manifest = Manifest(
                made_at_unix_s=time.time(),
                version=version("shoal"),
                revision=revision,
                database="postgresql" if database.is_postgres else "sqlite",
                cloud_key="" if key is None else public_hex(key),
                tables=archive.tables,
                files=archive.files,
                left_out=left_out,
            )
            archive.finish(manifest, key)
    finally:
        database.close()
    return manifest


def database_file(url: str) -> Path | None:
    """SQLite's file. Those beside it whose names begin with its name are its own too."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"the store's URL can't be used: {error}") from None
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database
    return Path(str(parsed.database)).absolute() if is_file else None


def chosen_files(
    data: Path, choice: Choice, database: Path | None, left_out: dict[str, str]
) -> dict[str, Path]:
    """Relative name -> file, sorted: a log's heads come before its records, which may be more then."""
    chosen: dict[str, Path] = {}
    for path in sorted(path for path in data.rglob("*") if path.is_file() and not path.is_symlink()):
        if database is not None and path.parent == database.parent and path.name.startswith(database.name):
            continue
        name = path.relative_to(data).as_posix()
        reason = _reason_against(name, path, choice)
        if reason is None:
            chosen[name] = path
        elif reason:
            left_out[name] = reason
    return chosen


def _reason_against(name: str, path: Path, choice: Choice) -> str | None:
    """Why a file stays out; empty: nobody will miss it; None: it is in."""
    top = name.partition("/")[0]
    if top.startswith((SET_ASIDE, DATABASE_FILE)) or path.name.endswith(_UNFINISHED):
        return ""
    if path.suffix == ".key":
        return None if choice.keys else "a key, not asked for"
    if top != ARTIFACTS:
        return None
    if not choice.artifacts:
        return "an artifact, not asked for"
    if path.suffix == SUFFIX and is_digest(path.stem):
        return None if sha256_of(path) == path.stem else "damaged: its digest is not its name"
    return None


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    left = os.fstat(file.fileno()).st_size
    while left > 0 and (piece := file.read(min(left, _PIECE))):
        left -= len(piece)
        yield piece


def key_in(data: Path) -> Ed25519PrivateKey | None:
    """The cloud's signing key, if it has one; none is made. Raises :class:`ConfigError` for a damaged one."""
    try:
        secret = (data / KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(secret) != KEY_BYTES:
        raise ConfigError(f"{data / KEY_FILE} is not a signing key of {KEY_BYTES} bytes")
    return Ed25519PrivateKey.from_private_bytes(secret)
