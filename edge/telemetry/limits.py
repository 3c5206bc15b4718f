"""Every bound of a device's telemetry, and which stream comes before which."""

from collections.abc import Mapping
from dataclasses import dataclass

from edge.telemetry.stream import Stream
from shared.messages import Grade

GRADES = (Grade.CRITICAL, Grade.NORMAL, Grade.BULK)
_RANK: Mapping[Grade, int] = {grade: rank for rank, grade in enumerate(GRADES)}


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts are samples. ``memory``: in memory, of one stream, beyond what is not on the disk yet;
    ``unwritten``: in memory because the disk refuses, all streams together."""

    batch_min: int = 20
    batch_max: int = 100
    linger_s: float = 1.0
    window: int = 1000  # until the cloud says otherwise
    window_max: int = 20_000
    streams: int = 64
    strangers: int = 64  # streams that the cloud asks for and nobody here knows
    memory: int = 512
    unwritten: int = 5000
    append: int = 5000  # of one write
    bytes_max: int = 64 << 20
    pieces: int = 2000  # files
    resend_min_s: float = 5.0
    resend_max_s: float = 60.0
    report_s: float = 60.0
    hold_s: float = 3.0  # for the cloud to say what it has of earlier boots


def highest_first(stream: Stream) -> tuple[int, int]:
    """Important before unimportant, and of those the older boot."""
    return _RANK[stream.id.grade], stream.id.epoch


def lowest_first(stream: Stream) -> tuple[int, int]:
    return -_RANK[stream.id.grade], stream.id.epoch
