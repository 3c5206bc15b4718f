"""Is the log what it was? Reads every record and every head, and believes none of them.

What is found, and by what:

    an edited, inserted, removed or moved record     the root of every later head
    a removed or changed head                        the numbers, the signature; the newest: a witness
    a log cut short                                  heads that cover more than there is
    a log cut short together with its heads          a witness that holds a later head
    another history under the same key               a witness whose head has another root
    records behind the last head                     nothing yet: they are counted as not covered
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloud.residency import files
from cloud.residency.files import SEGMENT_RECORDS, AuditDamaged, Identity
from cloud.residency.log import genuine
from shared.audit import record_bytes, record_of
from shared.transparency import Frontier, Head, leaf_hash

PROBLEMS_MAX = 100


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``covered``: records that a signed head vouches for, the rest only by being there.

    ``witnesses``: how many heads that others hold were compared.
    """

    log: str
    records: int
    heads: int
    covered: int
    witnesses: int
    problems: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing was found."""
        return not self.problems


def verify(folder: Path, public_key: str, witnessed: Iterable[tuple[str, Head]] = ()) -> Verdict:
    """Check a log against the cloud's key (64 hex digits) and the heads that others hold, each by its name.

    Raises ``ValueError`` when that is no key. Everything else that is wrong is a problem in the verdict.
    """
    return _Check(folder, Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)), public_key).run(
        list(witnessed)
    )


class _Check:
    def __init__(self, folder: Path, key: Ed25519PublicKey, key_hex: str) -> None:
        self.folder, self.key, self.key_hex = folder, key, key_hex
        self.problems: list[str] = []

    def run(self, witnessed: Sequence[tuple[str, Head]]) -> Verdict:
        identity = self._identity()
        heads = self._heads(identity.log)
        own = [(f"head {head.number}", head) for head in heads]
        wanted = {head.size for _, head in (*own, *witnessed)}
        roots, records = self._records(wanted)
        for name, head in own:
            self._compare(name, head, roots, records)
        for name, head in witnessed:
            if head.log != identity.log:
                self._say(f"{name} holds a head of another log ({head.log})")
            elif not genuine(head, self.key):
                self._say(f"{name} holds a head that the cloud's key did not sign")
            else:
                self._compare(name, head, roots, records)
                self._find(name, head, heads)
        return Verdict(
            log=identity.log,
            records=records,
            heads=len(heads),
            covered=min(records, max((head.size for head in heads), default=0)),
            witnesses=len(witnessed),
            problems=tuple(self.problems),
        )

    def _say(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)

    def _identity(self) -> Identity:
        try:
            found = files.read_identity(self.folder)
        except AuditDamaged as error:
            self._say(str(error))
            return Identity("", "")
        if found is None:
            self._say(f"{files.identity_file(self.folder)} is missing")
            return Identity("", "")
        if found.key != self.key_hex:
            self._say("log.json names another key than the one to verify with")
        return found

    def _heads(self, log: str) -> list[Head]:
        path = files.heads_file(self.folder)
        whole, torn = files.lines(path.read_bytes()) if path.exists() else ([], b"")
        if torn:
            self._say("heads.jsonl ends in the middle of a line")
        heads: list[Head] = []
        for number, line in enumerate(whole, 1):
            try:
                head = files.head_of(line)
            except AuditDamaged as error:
                self._say(f"head {number}: {error}")
                continue
            self._check_head(number, head, line, log, heads[-1] if heads else None)
            heads.append(head)
        return heads

    def _check_head(self, number: int, head: Head, line: bytes, log: str, before: Head | None) -> None:
        if head.number != number:
            self._say(f"where head {number} should be stands head {head.number}")
        if head.log != log:
            self._say(f"head {number} belongs to another log ({head.log})")
        if not genuine(head, self.key) or files.head_line(head) != line + b"\n":
            self._say(f"head {number} is not as the cloud's key signed it")
        if before is not None and head.size < before.size:
            self._say(f"head {number} covers less than the one before it")

    def _records(self, wanted: set[int]) -> tuple[dict[int, bytes], int]:
        """The root at each size of interest, and how many records there are."""
        frontier = Frontier()
        roots = {0: frontier.root()}
        for path in (paths := files.segments(self.folder)):
            last = paths[-1]
            if path != files.segment_file(self.folder, frontier.size) or frontier.size % SEGMENT_RECORDS:
                self._say(f"{path.name} does not follow from the {frontier.size} records before it")
            whole, torn = files.lines(path.read_bytes())
            if torn and path != last:  # the last one may be written to right now
                self._say(f"{path.name} ends in the middle of a record")
            for line in whole:
                self._check_record(frontier.size, line)
                frontier.add(leaf_hash(line))
                if frontier.size in wanted:
                    roots[frontier.size] = frontier.root()
        return roots, frontier.size

    def _check_record(self, index: int, line: bytes) -> None:
        try:
            record = record_of(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._say(f"record {index} can't be read: {error}")
            return
        if record.index != index:
            self._say(f"where record {index} should be stands record {record.index}")
        elif record_bytes(record) != line:
            self._say(f"record {index} is not in the canonical form")

    def _find(self, name: str, head: Head, heads: Sequence[Head]) -> None:
        if heads[head.number - 1 : head.number] != [head]:
            self._say(f"head {head.number}, which {name} holds, is not in heads.jsonl")

    def _compare(self, name: str, head: Head, roots: dict[int, bytes], records: int) -> None:
        if head.size > records:
            self._say(f"{name} covers {head.size} records, and {records} are left")
        elif roots.get(head.size) != head.root:
            self._say(f"the first {head.size} records are not those of {name}")
