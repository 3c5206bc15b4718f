"""A backup put in place of what a cloud holds.

The whole backup is read and proved before anything is changed. Tables go into a fresh SQLite file that takes
the old one's place by a rename, or into PostgreSQL in one transaction; they are made in the form of the
backup's revision, compared with the backup by digest, and then brought to the newest form by the migrations.
What stood in the data folder is moved to ``before-restore-<time>`` and not deleted; PostgreSQL's rows are
replaced. It refuses to run beside a cloud: see :mod:`cloud.store.claim`.

Files come before tables, for a table names artifacts: a restore that ends half-way has changed no row.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from cloud.artifacts.keys import KEY_FILE, public_hex
from cloud.store.archive import ArchiveReader, BackupDamaged, Told, sync_folder
from cloud.store.backup import ARTIFACTS, SET_ASIDE, Choice, chosen_files, database_file, key_in, sha256_of
from cloud.store.claim import lock_path, own_file, own_session
from cloud.store.database import reason_of
from cloud.store.dump import load_table, table_bytes
from cloud.store.engine import connected, migrate
from shared.errors import ConfigError

_ANY = 'SELECT EXISTS (SELECT 1 FROM "{}")'
_EMPTY_IF_ONLY = frozenset({"meta", "alembic_version"})  # a cloud that was merely started has rows there


def restore(archive: ArchiveReader, url: str, data: Path, told: Told, *, force: bool = False) -> str:
    """Put the backup in place of what is there; returns the folder with what was, or an empty text.

    Raises :class:`BackupDamaged` and :class:`ConfigError` before anything is changed. Without ``force`` it
    refuses where something would be lost; a signing key that is there is never replaced by another.
    """
    database = database_file(url)
    archive.check(told)
    aside = data / f"{SET_ASIDE}{int(time.time())}"
    _check_key(archive, data)
    try:
        with _target(url, aside, force=force) as connection:
            standing = _standing(archive, data, database)  # now that no cloud writes there
            if standing and not force:
                raise ConfigError(f"{data} holds {standing[0]} already; --force sets it aside")
            _load(connection, archive, told)
            _put_files(archive, data, database, aside, told)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"the store's URL can't be used: {error}") from None
    except CommandError as error:
        raise ConfigError(
            f"the backup was made by shoal {archive.manifest.version}, which this one does not know: {error}"
        ) from None
    except (DBAPIError, OSError) as error:
        reason = reason_of(error)
        raise ConfigError(f"the restore failed, and nothing was changed in the store: {reason}") from error
    return str(aside) if aside.exists() else ""


def _check_key(archive: ArchiveReader, data: Path) -> None:
    ours = key_in(data)
    if ours is not None and archive.manifest.cloud_key not in ("", public_hex(ours)):
        raise ConfigError(
            f"{data / KEY_FILE} is the key of another cloud than the backup's; restore into another folder"
        )


def _standing(archive: ArchiveReader, data: Path, database: Path | None) -> list[str]:
    """Files of the folder that are not what the backup has under their name."""
    everything = Choice(artifacts=True, keys=True)
    found = chosen_files(data, everything, database, {}) if data.is_dir() else {}
    return [name for name, path in found.items() if not _same(archive, name, path)]


def _same(archive: ArchiveReader, name: str, path: Path) -> bool:
    """Whether a file may stay: it is what the backup has, or a key or artifact that the backup lacks."""
    member = archive.manifest.files.get(name)
    if member is None:
        return path.suffix == ".key" or name.startswith(f"{ARTIFACTS}/")
    return path.stat().st_size == member.size_bytes and sha256_of(path) == member.sha256


def _put_files(archive: ArchiveReader, data: Path, database: Path | None, aside: Path, told: Told) -> None:
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in _standing(archive, data, database):
        old = aside / name
        old.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / name).replace(old)
    for number, name in enumerate(archive.manifest.files, 1):
        told(name, number, len(archive.manifest.files))
        path = data / name
        if path.exists():
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.tmp")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for piece in archive.pieces(name):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)


@contextmanager
def _target(url: str, aside: Path, *, force: bool) -> Iterator[Connection]:
    """A transaction on an empty database that becomes the store when the block has ended well."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        with own_file(lock_path(str(path))):
            if path.exists() and not force and _file_has_rows(path):
                raise ConfigError(f"the store {path} is not empty; --force sets it aside")
            with _fresh_sqlite(path, aside) as connection:
                yield connection
        return
    engine = connected(parsed, shared=False)
    try:
        with engine.begin() as connection:
            own_session(connection)
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            if not force and _has_rows(connection):
                raise ConfigError("the store is not empty; --force replaces what it holds")
            _drop_everything(connection)
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _fresh_sqlite(path: Path, aside: Path) -> Iterator[Connection]:
    fresh = path.with_name(f"{path.name}.restoring.tmp")
    files = [fresh, *(fresh.with_name(f"{fresh.name}{suffix}") for suffix in ("-wal", "-shm"))]
    for one in files:
        one.unlink(missing_ok=True)
    engine = connected(make_url("sqlite://").set(database=str(fresh)), shared=False)
    try:
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()  # the last connection takes the write-ahead log with it
        _swap(fresh, path, aside)
    finally:
        for one in files:
            with suppress(OSError):
                one.unlink(missing_ok=True)


def _swap(fresh: Path, path: Path, aside: Path) -> None:
    """The log of the old file goes first: beside the new one it would be taken for the new one's."""
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    for suffix in ("-wal", "-shm", ""):
        old = path.with_name(f"{path.name}{suffix}")
        if old.exists():
            aside.mkdir(mode=0o700, parents=True, exist_ok=True)
            old.replace(aside / old.name)
    fresh.replace(path)
    sync_folder(path.parent)


def _file_has_rows(path: Path) -> bool:
    """Whether an SQLite file holds something; one that can't be read does.

    It is only looked at: whoever opens it to write folds its log into it, even where the log is not its own.
    """
    mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            names = {name for (name,) in tables if not name.startswith("sqlite_")} - _EMPTY_IF_ONLY
            return any(connection.execute(_ANY.format(name)).fetchone()[0] for name in names)
    except sqlite3.Error:
        return True


def _has_rows(connection: Connection) -> bool:
    names = set(inspect(connection).get_table_names()) - _EMPTY_IF_ONLY
    return any(connection.exec_driver_sql(_ANY.format(name)).scalar() for name in names)


def _drop_everything(connection: Connection) -> None:
    standing = MetaData()
    standing.reflect(connection)
    standing.drop_all(connection)


def _load(connection: Connection, archive: ArchiveReader, told: Told) -> None:
    """Every table in the form that it had, compared, and brought to the newest form."""
    manifest = archive.manifest
    migrate(connection, manifest.revision)
    reflected = MetaData()
    reflected.reflect(connection)
    tables = [table for table in reflected.sorted_tables if table.name != "alembic_version"]
    if {table.name for table in tables} != manifest.tables.keys():
        raise BackupDamaged("its tables are not those of its revision")
    for number, table in enumerate(tables, 1):
        told(table.name, number, len(tables))
        with archive.table(table.name) as read:
            load_table(connection, table, read)
        digest = hashlib.sha256()
        for _, block in table_bytes(connection, table):
            digest.update(block)
        if digest.hexdigest() != manifest.tables[table.name].sha256:
            raise BackupDamaged(f"{table.name} is not the same after it was written")
    migrate(connection)
