"""What a device must know after a power cut: who it is, which boot this is, what it is to run.

A few documents in a few small tables, each put in milliseconds and durable when the call returns. What
grows (telemetry that waits to be sent) does not belong here: TinyDB writes the whole file every time.

    boot/counter      {"epoch", "unsettled"}         one number per boot, and how many boots in a row failed
    identity/device   {"key"}                        the device's secret
    anything else     put and read by its owner      models/desired, models/ready, ...
"""

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinydb import TinyDB
from tinydb.table import Document, Table

from edge.store.atomic import AtomicStorage, Damage, StoreUnwritable
from shared.errors import Unavailable

KEY_BYTES = 32


class StoreBusy(Unavailable):
    """Another process lives on this folder."""


class _KeyedTable(Table):
    """A table whose documents are found by name, not by number."""

    document_id_class = str  # type: ignore[assignment]  # TinyDB allows any type; its annotation says int


class DeviceState:
    """Verbs on the device's tables. Any thread may call any of them; a write takes milliseconds.

    Raises :class:`StoreFull` or :class:`StoreUnwritable` when the disk refuses; the old state stays then.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open or create ``folder``/state.json. Raises :class:`StoreBusy`, :class:`StoreUnwritable`."""
        path = Path(folder) / "state.json"
        self._lock = threading.RLock()
        self._claim = _claimed(path.with_name("lock"))
        self._storage = AtomicStorage(path)
        self._db = TinyDB(storage=lambda: self._storage)
        self._db.table_class = _KeyedTable

    @property
    def damage(self) -> tuple[Damage, ...]:
        """Files that were unreadable when the store was opened. Empty: all is well. Publish it when not."""
        return self._storage.damage

    def close(self) -> None:
        """Let another process have the folder. Nothing is written here: all was durable already."""
        os.close(self._claim)

    # The verbs --------------------------------------------------------------------------------------

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        """The document, or None."""
        with self._lock:
            found = self._db.table(table).get(doc_id=key)  # type: ignore[call-overload]
            return None if found is None else found["value"]

    def all(self, table: str) -> dict[str, dict[str, Any]]:
        """Every document of a table by its key."""
        with self._lock:
            return {str(document.doc_id): document["value"] for document in self._db.table(table)}

    def put(self, table: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep ``value`` (what JSON can say) in place of what was there."""
        with self._lock, self.transaction():
            documents = self._db.table(table)
            # Wrapped, because TinyDB merges the fields of an update and we mean to replace them.
            fields = {"value": dict(value)}
            if not documents.update(fields, doc_ids=[key]):  # type: ignore[list-item]
                documents.insert(Document(fields, key))  # type: ignore[arg-type]

    def delete(self, table: str, key: str) -> None:
        """Forget a document; it need not exist."""
        with self._lock:
            self._db.table(table).remove(doc_ids=[key])  # type: ignore[list-item]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several verbs, one write: all of them become durable together, or none when the block raises."""
        with self._lock, self._storage.transaction():
            yield

    # Who and when -----------------------------------------------------------------------------------

    def next_epoch(self, unix_s: float) -> int:
        """The number of this boot: larger than any before, durable when this returns.

        It is at least the clock's time, so that it still grows after the store was lost, and at least one
        more than the last, so that it grows when the clock jumps back. Both generations of the file hold it:
        the loss of one must not give a boot the number of another, for the cloud ignores what is not newer.
        """
        with self._lock:
            last = self.get("boot", "counter") or {"epoch": 0, "unsettled": 0}
            epoch = max(int(last["epoch"]) + 1, int(unix_s))
            self._put_twice("boot", "counter", {"epoch": epoch, "unsettled": int(last["unsettled"]) + 1})
            return epoch

    @property
    def boots_unsettled(self) -> int:
        """Boots in a row, this one included, that never came to :meth:`settle`.

        The crash-loop breaker: an agent that reads a handful here should start without its models, report,
        and wait for new orders, since one of them probably kills it.
        """
        return int((self.get("boot", "counter") or {"unsettled": 0})["unsettled"])

    def settle(self) -> None:
        """This boot is good: call it when the agent has been up for a while."""
        counter = self.get("boot", "counter")
        if counter is not None and counter["unsettled"]:
            self.put("boot", "counter", {**counter, "unsettled": 0})

    def device_key(self) -> bytes:
        """The device's secret (32 bytes), made on the first call and durable before it is shown to anyone."""
        with self._lock:
            found = self.get("identity", "device")
            if found is None:
                found = {"key": secrets.token_hex(KEY_BYTES)}
                self._put_twice("identity", "device", found)
            return bytes.fromhex(found["key"])

    def _put_twice(self, table: str, key: str, value: Mapping[str, Any]) -> None:
        self.put(table, key, value)
        self._storage.keep_twice()


def _claimed(path: Path) -> int:
    """A handle on the lock file; the kernel drops the lock when the process dies, however it dies."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnwritable(f"can't keep the device's state in {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreBusy(
            f"{path.parent} belongs to another running agent; give this one its own data folder"
        ) from error
    return handle
