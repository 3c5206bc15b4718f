"""Batches that follow each other become one chunk: a device that sends what it kept for a day fills few rows.

A row costs a database more than its bytes do. Where a fleet hums along there is nothing to join, for a
transaction holds one batch of each stream; where a device catches up, or speaks very fast, there are many.

Chunks are joined without a look at their samples: a MessagePack array is its header and its elements.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cloud.telemetry.store import Chunk, StreamKey

SAMPLES_MAX = 500
BYTES_MAX = 64 * 1024
SPAN_S_MAX = 3600.0  # no wider than what a store finds quickly


@dataclass(slots=True)
class _Run:
    """Chunks of one stream without a gap between them."""

    chunks: list[Chunk]
    bytes: int
    at_min_unix_s: float
    at_max_unix_s: float

    def takes(self, chunk: Chunk) -> bool:
        """Take it, if it follows and there is room."""
        at_min = min(self.at_min_unix_s, chunk.at_min_unix_s)
        at_max = max(self.at_max_unix_s, chunk.at_max_unix_s)
        size = self.bytes + len(chunk.samples)
        follows = chunk.first == self.chunks[-1].end
        fits = size <= BYTES_MAX and chunk.end - self.chunks[0].first <= SAMPLES_MAX
        if not (follows and fits and at_max - at_min <= SPAN_S_MAX):
            return False
        self.chunks.append(chunk)
        self.bytes, self.at_min_unix_s, self.at_max_unix_s = size, at_min, at_max
        return True

    def joined(self) -> Chunk:
        """One chunk of all."""
        if len(self.chunks) == 1:
            return self.chunks[0]
        first, last = self.chunks[0], self.chunks[-1]
        elements = [one.samples[_header_bytes(one.samples[0]) :] for one in self.chunks]
        samples = b"".join((_header(last.end - first.first), *elements))
        return Chunk(first.key, first.first, last.end, self.at_min_unix_s, self.at_max_unix_s, samples)


def joined(chunks: Iterable[Chunk]) -> tuple[Chunk, ...]:
    """The same samples in fewer chunks, by the place of each one's first."""
    runs: list[_Run] = []
    newest: dict[StreamKey, _Run] = {}
    for chunk in chunks:
        run = newest.get(chunk.key)
        if run is None or not run.takes(chunk):
            run = _Run([chunk], len(chunk.samples), chunk.at_min_unix_s, chunk.at_max_unix_s)
            newest[chunk.key] = run
            runs.append(run)
    return tuple(run.joined() for run in runs)


def _header_bytes(first: int) -> int:
    """Length of an array's header by its first byte (fixarray, array 16, array 32)."""
    return 1 if first & 0xF0 == 0x90 else 3 if first == 0xDC else 5


def _header(count: int) -> bytes:
    return bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2)
