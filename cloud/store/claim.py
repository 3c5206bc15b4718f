"""Who uses a store: any number of processes at work, or one alone that puts other content in its place.

Every connection of a process at work holds a shared lock, and the kernel or the server drops it with the
connection, however that ends: on a file beside SQLite's, or of the session in PostgreSQL. A restore takes the
same lock for itself, and so finds out that a cloud still runs.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from cloud.store.database import StoreFailed
from shared.errors import ConfigError

_POSTGRES_LOCK = 0x53484F414D  # any number that is always the same; the migration's is the one before
_HANDLE = "shoal claim"


def lock_path(database: str) -> Path:
    """The file whose lock stands for an SQLite store."""
    return Path(f"{database}-lock")


def share_file(engine: Engine, path: Path) -> None:
    """Every connection of the engine holds the file, with others.

    A connect raises :class:`ConfigError` during a restore, :class:`StoreFailed` where there can be no file.
    """

    def opened(_: object, record: Any) -> None:
        refusal = f"other content is being put into the store in {path.parent}; try again"
        try:
            record.info[_HANDLE] = _locked(path, fcntl.LOCK_SH, refusal)
        except OSError as error:
            raise StoreFailed(f"can't hold {path}: {error.strerror or error}") from error

    def closed(_: object, record: Any) -> None:
        if (handle := record.info.pop(_HANDLE, None)) is not None:
            os.close(handle)

    event.listen(engine, "connect", opened)
    event.listen(engine, "close", closed)


@contextmanager
def own_file(path: Path) -> Iterator[None]:
    """Hold the file alone. Raises :class:`ConfigError` while anybody else uses the store."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    refusal = f"a process uses the store in {path.parent}: stop the cloud first"
    handle = _locked(path, fcntl.LOCK_EX, refusal)
    try:
        yield
    finally:
        os.close(handle)


def share_session(connection: Any, _: object) -> None:
    """The same for a new session of PostgreSQL."""
    connection.execute(f"SELECT pg_advisory_lock_shared({_POSTGRES_LOCK})")
    connection.commit()


def own_session(connection: Connection) -> None:
    """Hold the database alone until the transaction ends. Raises :class:`ConfigError`."""
    if not connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_POSTGRES_LOCK})").scalar():
        raise ConfigError("a process uses the store: stop the cloud first")


def _locked(path: Path, how: int, refusal: str) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise ConfigError(refusal) from None
    return handle
