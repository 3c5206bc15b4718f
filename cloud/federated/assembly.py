"""Updates that arrive in parts, until they are whole; within bounds that no sender can move.

The header, which comes with the first part, is a claim: what it announces is set aside at once, so that a
device that announces much and sends nothing takes room from nobody but itself, until its deadline. Parts
without a header are not kept: a device sends all of them again when no receipt comes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cloud.federated.events import Payload, Whole
from shared.learning import PART_BYTES, PARTS_MAX, UPDATE_BYTES_MAX, UpdateHeader, UpdatePart

MIB = 1 << 20
INCOMPLETE_S_MAX = 60.0
JOB_BYTES_MAX = 256 * MIB
TOTAL_BYTES_MAX = 512 * MIB
UPDATES_MAX = 4096

Place = tuple[str, str]  # job and client: one update at a time


@dataclass(slots=True)
class Coming:
    """One update on its way."""

    asked: int
    header: UpdateHeader
    count: int
    deadline: float
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Assembly:
    """All updates of all jobs that are not whole."""

    coming: dict[Place, Coming] = field(default_factory=dict)

    def begin(self, place: Place, asked: int, part: UpdatePart, now: float) -> str:
        """Take the first part; or say why not. What the client sent before and did not finish goes."""
        header = part.header
        if header is None:
            return "the first part carries no header"
        if header.digest != part.digest or part.count != parts_of(header) or part.count > PARTS_MAX:
            return "the part and its header contradict each other"
        known = self.coming.get(place)
        if known is not None and (known.asked, known.header) == (asked, header):
            return ""
        self.coming.pop(place, None)
        if not self._room(place[0], header.size_bytes):
            return "no room for one more update"
        self.coming[place] = Coming(asked, header, part.count, now + INCOMPLETE_S_MAX)
        return ""

    def add(self, place: Place, asked: int, part: UpdatePart, now: float) -> Whole | str:
        """The update, when this was what it lacked; else why nothing came of it, or nothing."""
        one = self.coming.get(place)
        if one is None or one.header.digest != part.digest or one.asked != asked:
            return "a part of no update that has begun"
        if not 0 <= part.index < one.count or len(part.data) != _size(one.header, part.index):
            return "a part of another length"
        one.parts[part.index] = part.data
        one.deadline = now + INCOMPLETE_S_MAX
        if len(one.parts) < one.count:
            return ""
        del self.coming[place]
        data = b"".join(one.parts[index] for index in range(one.count))
        return Whole(place[1], asked, one.header, Payload(data))

    def expire(self, now: float) -> Iterator[Place]:
        """Drop what did not go on."""
        for place in [place for place, one in self.coming.items() if now >= one.deadline]:
            del self.coming[place]
            yield place

    def drop(self, job: str) -> None:
        """Nothing of this job is waited for."""
        for place in [place for place in self.coming if place[0] == job]:
            del self.coming[place]

    def check(self) -> None:
        """Invariants."""
        assert len(self.coming) <= UPDATES_MAX
        assert self._bytes() <= TOTAL_BYTES_MAX
        for one in self.coming.values():
            assert len(one.parts) < one.count
            assert sum(map(len, one.parts.values())) <= one.header.size_bytes <= UPDATE_BYTES_MAX

    def _room(self, job: str, size_bytes: int) -> bool:
        return (
            0 <= size_bytes <= UPDATE_BYTES_MAX
            and len(self.coming) < UPDATES_MAX
            and self._bytes(job) + size_bytes <= JOB_BYTES_MAX
            and self._bytes() + size_bytes <= TOTAL_BYTES_MAX
        )

    def _bytes(self, job: str = "") -> int:
        return sum(one.header.size_bytes for place, one in self.coming.items() if not job or place[0] == job)


def parts_of(header: UpdateHeader) -> int:
    """How many parts an update has: an evaluation has no bytes and still one part."""
    return max(1, -(-header.size_bytes // PART_BYTES))


def _size(header: UpdateHeader, index: int) -> int:
    return min(PART_BYTES, header.size_bytes - index * PART_BYTES)
