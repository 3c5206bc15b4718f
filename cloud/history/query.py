"""From chunks to points: samples in a range of time, each by itself or gathered into equal intervals."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import floor

import msgspec

from cloud.telemetry.store import Chunk, Place, TelemetryStore
from shared.messages import Sample
from shared.telemetry import Point, Series

SCANNED_MAX = 2_000_000  # samples that one question may look at; the answer says where to go on
PAGE_CHUNKS = 500
_samples = msgspec.msgpack.Decoder(list[Sample])


def series(
    store: TelemetryStore,
    node: str,
    stream: str,
    since_unix_s: float,
    until_unix_s: float,
    every_s: float,
    limit: int,
) -> Series:
    """The points of a stream, oldest first. Blocks."""
    chunks = _all(store, node, stream, since_unix_s, until_unix_s)
    if every_s > 0:
        points, more = gathered(chunks, since_unix_s, until_unix_s, every_s, limit)
    else:
        points, more = single(chunks, since_unix_s, until_unix_s, limit)
    return Series(node=node, stream=stream, every_s=every_s, points=tuple(points), next_unix_s=more)


def single(
    chunks: Iterable[Chunk], since_unix_s: float, until_unix_s: float, limit: int
) -> tuple[list[Point], float]:
    """Each sample; and the time of the first one that is left out (0: none is).

    Samples of one time are not torn apart, so there may be a few more than ``limit``.
    """
    found: list[Sample] = []
    for chunk in chunks:
        if len(found) > limit:
            found.sort(key=_time)
            cut = _cut(found, limit)
            del found[cut + 1 :]  # one beyond the end says that there is more
            if len(found) > cut and chunk.at_min_unix_s > found[-1].at_unix_s:
                break
        found += (one for one in _samples.decode(chunk.samples) if since_unix_s <= _time(one) < until_unix_s)
    found.sort(key=_time)
    cut = _cut(found, limit)
    points = [_point(sample) for sample in found[:cut]]
    return points, found[cut].at_unix_s if cut < len(found) else 0.0


@dataclass(slots=True)
class Bucket:
    """One interval. ``values``: name -> [least, sum, greatest, count]."""

    count: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """One more sample."""
        self.count += 1
        for name, value in sample.values.items():
            known = self.values.get(name)
            if known is None:
                self.values[name] = [value, value, value, 1]
                continue
            known[0], known[1] = min(known[0], value), known[1] + value
            known[2], known[3] = max(known[2], value), known[3] + 1

    def point(self, at_unix_s: float) -> Point:
        """As it travels."""
        values = {
            name: (least, total / count, most) for name, (least, total, most, count) in self.values.items()
        }
        return Point(at_unix_s, self.count, values)


def gathered(
    chunks: Iterable[Chunk], since_unix_s: float, until_unix_s: float, every_s: float, limit: int
) -> tuple[list[Point], float]:
    """One point for each interval with samples, intervals beginning at multiples of ``every_s``; and where
    the first one begins that is left out (0: none is)."""
    buckets: dict[int, Bucket] = {}
    scanned = 0
    beyond: int | None = None  # the first interval that is not complete any more
    for chunk in chunks:
        if scanned > SCANNED_MAX:
            beyond = floor(chunk.at_min_unix_s / every_s)
            break
        for sample in _samples.decode(chunk.samples):
            scanned += 1
            if since_unix_s <= sample.at_unix_s < until_unix_s:
                buckets.setdefault(floor(sample.at_unix_s / every_s), Bucket()).add(sample)
    numbers = sorted(number for number in buckets if beyond is None or number < beyond)
    if len(numbers) > limit:
        beyond = numbers[limit]
    points = [buckets[number].point(number * every_s) for number in numbers[:limit]]
    return points, 0.0 if beyond is None else beyond * every_s


def _all(
    store: TelemetryStore, node: str, stream: str, since_unix_s: float, until_unix_s: float
) -> Iterator[Chunk]:
    after: Place | None = None
    while True:
        page = store.chunks(node, stream, since_unix_s, until_unix_s, after, PAGE_CHUNKS)
        yield from page
        if len(page) < PAGE_CHUNKS:
            return
        last = page[-1]
        after = Place(last.at_min_unix_s, last.key.epoch, last.first)


def _cut(found: list[Sample], limit: int) -> int:
    """How many to return of sorted samples."""
    cut = min(limit, len(found))
    while 0 < cut < len(found) and found[cut].at_unix_s == found[cut - 1].at_unix_s:
        cut += 1
    return cut


def _time(sample: Sample) -> float:
    return sample.at_unix_s


def _point(sample: Sample) -> Point:
    return Point(sample.at_unix_s, 1, {name: (one, one, one) for name, one in sample.values.items()})
