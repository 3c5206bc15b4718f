"""Every journal of a device and of the cloud, cut at two hundred places as by a power cut.

What is found is a prefix of what was written, and holds every write whose acknowledgement the cut could have
left true: those after which the files were not longer than what is left.
"""

import random
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.residency.log import AuditLog
from cloud.store.store import Store
from cloud.telemetry.store import BatchItem, StreamKey
from edge.store.journal import StateJournal
from edge.store.segments import Lot, Segments
from shared.audit import Point, Record, record_of

WRITES, CUTS = 60, 100  # for each of two kinds of tail
KEY = Ed25519PrivateKey.generate()


class Journal(ABC):
    """One kind of journal in ``folder``; ``grows``: its files that only grow, in the order of their bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def open(self) -> None:
        """For writing."""

    @abstractmethod
    def write(self, number: int, payload: bytes) -> None:
        """Durable when this returns."""

    @abstractmethod
    def grows(self) -> list[Path]: ...

    @abstractmethod
    def found(self) -> list[int]:
        """What a new start finds."""


class DeviceTelemetry(Journal):
    def open(self) -> None:
        self.segments = Segments(self.folder, segment_bytes=3000)
        self.segments.recover()

    def write(self, number: int, payload: bytes) -> None:
        self.segments.append([Lot("s", number, [payload])])

    def grows(self) -> list[Path]:
        return sorted(self.folder.glob("*.seg"))

    def found(self) -> list[int]:
        segments = Segments(self.folder)
        there = segments.recover()
        ends = [(one.first, one.end) for one in there.segments]
        # A record whose header is whole may have been promised: it is told as damaged, not as there.
        damaged = {number for first, end in there.damaged.get("s", ()) for number in range(first, end)}
        numbers = [number for first, end in ends for number in range(first, end) if number not in damaged]
        assert sorted(segments.read("s", 0, WRITES)) == numbers
        return numbers


class DeviceState(Journal):
    def open(self) -> None:
        self.journal = StateJournal(self.folder, "replica")
        self.journal.recover()
        self.journal.replace(b"")

    def write(self, number: int, payload: bytes) -> None:
        self.journal.append(number.to_bytes(4) + payload)

    def grows(self) -> list[Path]:
        return sorted(self.folder.glob("*.log"))

    def found(self) -> list[int]:
        there = StateJournal(self.folder, "replica").recover()
        return [int.from_bytes(change[:4]) for change in there.changes]


class CloudStore(Journal):
    """SQLite's write-ahead log."""

    def open(self) -> None:
        self.store = Store.open(self._url)
        with self.store._database._engine.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def write(self, number: int, payload: bytes) -> None:
        item = BatchItem(StreamKey("n", 1, "s"), number, 1, 1.0 * number, 1.0 * number, payload, 5.0)
        self.store.telemetry.ingest([item])

    def grows(self) -> list[Path]:
        return [self.folder / "shoal.db-wal"]

    def found(self) -> list[int]:
        self.folder.joinpath("shoal.db-shm").unlink(missing_ok=True)  # memory: it does not survive
        store = Store.open(self._url)
        try:
            numbers = [chunk.first for chunk in store.telemetry.chunks("n", "s", -1.0, 1e9, limit=1000)]
            assert [one.settled for one in store.telemetry.ledger()] == ([len(numbers)] if numbers else [])
            return numbers
        finally:
            store.close()

    @property
    def _url(self) -> str:
        return f"sqlite:///{self.folder / 'shoal.db'}"


class Audit(Journal):
    def open(self) -> None:
        self.log = AuditLog(self.folder, KEY)

    def write(self, number: int, payload: bytes) -> None:
        self.log.append([Record(at_unix_s=float(number), point=Point.SELECT, detail=payload.hex())])

    def grows(self) -> list[Path]:
        return sorted((self.folder / "records").iterdir())

    def found(self) -> list[int]:
        log = AuditLog(self.folder, KEY)
        return [int(record_of(line).at_unix_s) for line in log.lines(0, log.size)]


KINDS = {kind.__name__: kind for kind in (DeviceTelemetry, DeviceState, CloudStore, Audit)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", ["nothing", "garbage"])
def test_a_cut_journal_holds_every_acknowledged_write(kind, tail, tmp_path):
    rng = random.Random(f"{kind} {tail}")
    written, sizes = tmp_path / "written", []
    written.mkdir()
    journal = KINDS[kind](written)
    journal.open()
    for number in range(WRITES):
        journal.write(number, rng.randbytes(rng.randrange(1, 200)))
        sizes.append(sum(path.stat().st_size for path in journal.grows()))
    assert sizes == sorted(set(sizes)), "a journal that only grows"
    names = [path.relative_to(written) for path in journal.grows()]
    for cut in (0, sizes[0], sizes[-1], *(rng.randrange(sizes[-1]) for _ in range(CUTS))):
        copy = tmp_path / "cut"
        shutil.copytree(written, copy)
        left = cut
        for name in names:
            data = (written / name).read_bytes()
            kept = data[:left]
            last = len(kept) < len(data)
            if last and tail == "garbage":  # the disk had made room, and not yet written
                kept += bytes(rng.randrange(1, 300)) if rng.random() < 0.5 else rng.randbytes(100)
            (copy / name).write_bytes(kept) if kept or left else (copy / name).unlink()
            left = max(0, left - len(data))
            if last:
                for later in names[names.index(name) + 1 :]:
                    (copy / later).unlink()
                break
        found = KINDS[kind](copy).found()
        acknowledged = sum(size <= cut for size in sizes)
        assert found == list(range(len(found))), cut
        assert len(found) >= acknowledged, cut
        shutil.rmtree(copy)
