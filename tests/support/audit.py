"""Audit logs for tests, and everything that somebody might do to one."""

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.residency import files
from cloud.residency.log import AuditLog
from shared.audit import Outcome, Point, Record
from shared.residency import Action, Place, Why
from shared.tags import Label, Tag
from shared.transparency import signed_head_bytes

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
PUBLIC = KEY.public_key().public_bytes_raw().hex()


def record(number: int) -> Record:
    """Like what the platform writes, and different for each number."""
    allow = number % 3 != 0
    return Record(
        at_unix_s=1_000.0 + number,
        point=Point.PUBLISH,
        task=f"t{number}",
        policy=1,
        action=Action(key=f"k/{number}", at_unix_s=1_000.0 + number),
        tag=Tag(label=Label.PERSONAL, home="eu/de"),
        outcomes=(
            Outcome(
                allow=allow,
                why=Why.PERMITTED if allow else Why.OUTSIDE,
                rule="home" if allow else "",
                places=(Place("n1", "eu/de" if allow else "us"),),
            ),
        ),
    )


def filled(folder: Path, records: int, every: int = 7) -> AuditLog:
    """A log with a head after every so many records, and one over everything."""
    log = AuditLog(folder, KEY)
    for first in range(0, records, every):
        log.append([record(number) for number in range(first, min(first + every, records))])
        log.sign(2_000.0 + first)
    return log


# What somebody might do -----------------------------------------------------------------------------

Mutation = Callable[[Path, random.Random], bool]
"""Changes the files of a log; False when there was nothing to change in this way."""


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _a_segment(folder: Path, rng: random.Random) -> Path:
    return rng.choice(files.segments(folder))


def flip_a_bit(folder: Path, rng: random.Random) -> bool:
    """Anywhere: records, heads, identity."""
    path = rng.choice([*files.segments(folder), files.heads_file(folder), files.identity_file(folder)])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return True


def edit_a_record(folder: Path, rng: random.Random) -> bool:
    """A denial becomes a permission, in the canonical form."""
    path = _a_segment(folder, rng)
    lines = _lines(path)
    number = rng.randrange(len(lines))
    text = lines[number]
    swapped = {b'"us"': b'"eu"', b'"personal"': b'"public"', b'"allow":false': b'"allow":true'}
    old = rng.choice([one for one in swapped if one in text] or [b'"point"'])
    lines[number] = text.replace(old, swapped.get(old, b'"paint"'))
    path.write_bytes(b"".join(lines))
    return True


def delete_a_record(folder: Path, rng: random.Random) -> bool:
    path = _a_segment(folder, rng)
    lines = _lines(path)
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))
    return True


def repeat_a_record(folder: Path, rng: random.Random) -> bool:
    path = _a_segment(folder, rng)
    lines = _lines(path)
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    path.write_bytes(b"".join(lines))
    return True


def swap_two_records(folder: Path, rng: random.Random) -> bool:
    path = _a_segment(folder, rng)
    lines = _lines(path)
    if len(lines) < 2:
        return False
    one, two = rng.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]
    path.write_bytes(b"".join(lines))
    return True


def cut_the_end(folder: Path, rng: random.Random) -> bool:
    """Of records or of heads."""
    path = rng.choice([files.segments(folder)[-1], files.heads_file(folder)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(rng.randrange(size))
    return True


def drop_a_segment(folder: Path, rng: random.Random) -> bool:
    _a_segment(folder, rng).unlink()
    return True


def drop_a_head(folder: Path, rng: random.Random) -> bool:
    path = files.heads_file(folder)
    lines = _lines(path)
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))
    return True


def roll_back(folder: Path, rng: random.Random) -> bool:
    """To an older head, cleanly: only a witness can know."""
    path = files.heads_file(folder)
    heads = _lines(path)
    if len(heads) < 2:
        return False
    keep = rng.randrange(1, len(heads))
    path.write_bytes(b"".join(heads[:keep]))
    size = files.head_of(heads[keep - 1]).size
    for segment in files.segments(folder):
        first = int(segment.stem)
        kept = _lines(segment)[: max(0, size - first)]
        segment.write_bytes(b"".join(kept)) if kept else segment.unlink()
    return True


def rewrite_and_sign_again(folder: Path, rng: random.Random) -> bool:
    """By whoever has the key: everything fits together, but not with what others hold."""
    identity = files.identity_file(folder).read_bytes()
    size = sum(len(_lines(path)) for path in files.segments(folder))
    changed = rng.randrange(size)
    for path in (*files.segments(folder), files.heads_file(folder)):
        path.unlink()
    files.identity_file(folder).write_bytes(identity)
    log = AuditLog(folder, KEY)
    records = [record(number) for number in range(size)]
    records[changed] = msgspec.structs.replace(records[changed], by="somebody")
    log.append(records)
    log.sign(9_000.0)
    return True


def sign_with_another_key(folder: Path, rng: random.Random) -> bool:
    path = files.heads_file(folder)
    lines = _lines(path)
    number = rng.randrange(len(lines))
    head = files.head_of(lines[number].rstrip())
    signature = OTHER_KEY.sign(signed_head_bytes(head))
    lines[number] = files.head_line(msgspec.structs.replace(head, signature=signature))
    path.write_bytes(b"".join(lines))
    return True


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_bit,
    edit_a_record,
    delete_a_record,
    repeat_a_record,
    swap_two_records,
    cut_the_end,
    drop_a_segment,
    drop_a_head,
    roll_back,
    rewrite_and_sign_again,
    sign_with_another_key,
)
