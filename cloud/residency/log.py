"""The audit log's writer: append, sign, prove. Each method blocks; a lock makes them one at a time.

A record is in the log when :meth:`AuditLog.append` has returned: written and synced, a batch at a time, since
a sync costs as much as a thousand records. A crash leaves at most a torn tail that nobody was told about; it
is cut off at the next start. Whatever a signed head covers must still be there, or the log does not open.

Memory: the root of each full segment, and the hashes of the newest one; proofs read the one or two segments
that they cut through. A start reads everything once, about a second per million records.
"""

import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloud.residency import files
from cloud.residency.files import SEGMENT_RECORDS, AuditDamaged, Identity
from shared.audit import HeadFact, Record, record_bytes, record_of
from shared.transparency import (
    Frontier,
    Head,
    consistency_path,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_of,
    signed_head_bytes,
    split,
)


class AuditLog:
    """One log in one folder. At most one process writes to it."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey) -> None:
        """Open or begin. Raises :class:`AuditDamaged`; ``cut`` says how many bytes a crash had torn."""
        self.folder, self.cut = folder, 0
        self._key, self._lock = key, threading.RLock()
        files.records_folder(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = self._identify().log
        self.heads = self._read_heads()
        self._roots: list[bytes] = []  # of the full segments
        self._hashes: list[bytes] = []  # of the records of the newest
        self._frontier = Frontier()
        self._offset = 0
        self._read_records()

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._frontier.size

    @property
    def head(self) -> Head | None:
        """The newest signed head."""
        return self.heads[-1] if self.heads else None

    def append(self, records: Sequence[Record]) -> int:
        """Number them on from :attr:`size` and make them durable, in order; returns the new size.

        Raises ``OSError`` when the disk refuses: then none of a segment's share is in the log, and the same
        records may be tried again.
        """
        with self._lock:
            done = 0
            while done < len(records):
                room = SEGMENT_RECORDS - len(self._hashes)
                self._append(records[done : done + room])
                done += room
            return self.size

    def _append(self, records: Sequence[Record]) -> None:
        first = self.size
        written = [
            record_bytes(msgspec.structs.replace(record, index=first + number))
            for number, record in enumerate(records)
        ]
        data = b"\n".join(written) + b"\n"
        files.append_synced(files.segment_file(self.folder, first), self._offset, data)
        self._offset += len(data)
        for line in written:
            self._add(leaf_hash(line))

    def _add(self, leaf: bytes) -> None:
        self._frontier.add(leaf)
        self._hashes.append(leaf)
        if len(self._hashes) == SEGMENT_RECORDS:
            self._roots.append(root_of(self._hashes))
            self._hashes, self._offset = [], 0

    def sign(self, at_unix_s: float) -> HeadFact:
        """A new head over everything, durable, and how it follows from the one before."""
        with self._lock:
            last = self.head
            head = Head(
                log=self.log,
                number=last.number + 1 if last else 1,
                size=self.size,
                root=self._frontier.root(),
                at_unix_s=at_unix_s,
            )
            head = msgspec.structs.replace(head, signature=self._key.sign(signed_head_bytes(head)))
            path = files.heads_file(self.folder)
            files.append_synced(path, path.stat().st_size if path.exists() else 0, files.head_line(head))
            self.heads.append(head)
            previous = last.size if last else 0
            return HeadFact(head=head, previous_size=previous, path=self._consistency(previous, head.size))

    def fact(self) -> HeadFact | None:
        """The newest head again, as :meth:`sign` returned it."""
        with self._lock:
            if self.head is None:
                return None
            previous = self.heads[-2].size if len(self.heads) > 1 else 0
            return HeadFact(
                head=self.head, previous_size=previous, path=self._consistency(previous, self.head.size)
            )

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """That a record is in the tree of ``size`` records. Raises ``ValueError`` when it can't be."""
        with self._lock:
            if size > self.size:
                raise ValueError(f"the log has {self.size} records, not {size}")
            return inclusion_path(index, size, self._subtree)

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """That the tree of ``old`` records is the beginning of that of ``size``. Raises ``ValueError``."""
        with self._lock:
            if size > self.size:
                raise ValueError(f"the log has {self.size} records, not {size}")
            return self._consistency(old, size)

    def root(self, size: int) -> bytes:
        """The root of the tree of the first ``size`` records. Raises ``ValueError`` when there are fewer."""
        with self._lock:
            if not 0 < size <= self.size:
                raise ValueError(f"the log has {self.size} records, not {size}")
            return self._root_at(size)

    def _consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        return consistency_path(old, size, self._subtree) if old else ()

    def lines(self, first: int, count: int) -> list[bytes]:
        """Up to ``count`` records from ``first`` on, as they are kept; fewer at the end."""
        with self._lock:
            end, found = min(first + count, self.size), []
            while first < end:
                at = first % SEGMENT_RECORDS
                part = self._segment(first)[at : at + end - first]
                found += part
                first += len(part)
            return found

    def _segment(self, index: int) -> list[bytes]:
        kept = files.read_lines(files.segment_file(self.folder, index))
        if len(kept) < min(SEGMENT_RECORDS, self.size - (index - index % SEGMENT_RECORDS)):
            raise AuditDamaged(f"records around {index} are missing; 'shoal audit verify' says which")
        return kept

    def _subtree(self, first: int, end: int) -> bytes:
        segment, last = first // SEGMENT_RECORDS, (end - 1) // SEGMENT_RECORDS
        if segment != last:
            middle = first + split(end - first)
            return node_hash(self._subtree(first, middle), self._subtree(middle, end))
        if end - first == SEGMENT_RECORDS:
            return self._roots[segment]
        at = segment * SEGMENT_RECORDS
        hashes = self._hashes
        if segment < len(self._roots):
            hashes = [leaf_hash(line) for line in self._segment(first)]
        return root_of(hashes[first - at : end - at])

    # Opening ----------------------------------------------------------------------------------------

    def _identify(self) -> Identity:
        mine = self._key.public_key().public_bytes_raw().hex()
        found = files.read_identity(self.folder)
        if found is None:
            found = Identity(secrets.token_hex(8), mine)
            files.append_synced(files.identity_file(self.folder), 0, msgspec.json.encode(found))
        if found.key != mine:
            raise AuditDamaged(
                f"the audit log in {self.folder} was signed by another key; restore the cloud's signing.key, "
                "or move the folder away to begin a new log"
            )
        return found

    def _read_heads(self) -> list[Head]:
        path = files.heads_file(self.folder)
        if not path.exists():
            return []
        whole, torn = files.lines(path.read_bytes())
        heads = [files.head_of(line) for line in whole]
        if torn:
            self._cut(path, path.stat().st_size - len(torn))
        if heads and not genuine(heads[-1], self._key.public_key()):
            raise AuditDamaged(f"the newest head in {path} does not carry our signature")
        return heads

    def _read_records(self) -> None:
        signed = self.head.size if self.head else 0
        for path in files.segments(self.folder):
            if len(self._hashes) or path != files.segment_file(self.folder, self.size):
                raise AuditDamaged(f"{path.name} does not follow from the {self.size} records before it")
            self._read_segment(path, signed)
        if self.size < signed:
            raise AuditDamaged(f"{self.size} records are left of the {signed} that were signed")
        if self.head and self._root_at(signed) != self.head.root:
            raise AuditDamaged(
                f"{self.folder} does not hold the records that were signed; 'shoal audit verify' says where"
            )

    def _root_at(self, size: int) -> bytes:
        return self._subtree(0, size) if size else Frontier().root()

    def _read_segment(self, path: Path, signed: int) -> None:
        data, at = path.read_bytes(), 0
        for line in files.lines(data)[0]:
            if self.size >= signed and not _canonical(line, self.size):
                break
            at += len(line) + 1
            self._offset = at
            self._add(leaf_hash(line))
        if at < len(data):
            self._cut(path, at)

    def _cut(self, path: Path, size: int) -> None:
        """Take off what was being written when the process died; a copy stays for people."""
        data = path.read_bytes()
        self.cut += len(data) - size
        path.with_suffix(".torn").write_bytes(data[size:])
        with path.open("r+b") as file:
            file.truncate(size)


def _canonical(line: bytes, index: int) -> bool:
    try:
        record = record_of(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return record.index == index and record_bytes(record) == line


def genuine(head: Head, key: Ed25519PublicKey) -> bool:
    """Whether the head was signed with this key."""
    try:
        key.verify(head.signature, signed_head_bytes(head))
    except InvalidSignature:
        return False
    return True
