"""A telemetry store in memory: the meaning of the protocol in its shortest form, and the tests' fake."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cloud.telemetry.ledger import keys_of, settle
from cloud.telemetry.store import Chunk, Item, Letter, Outcome, Place, Position, StreamKey


class MemoryTelemetry:
    """See :class:`cloud.telemetry.store.TelemetryStore`. For one thread; gone with the process."""

    def __init__(self, group: str = "0123456789abcdef") -> None:
        self._group = group
        self._positions: dict[StreamKey, Position] = {}
        self._chunks: dict[tuple[StreamKey, int], Chunk] = {}
        self._letters: list[Letter] = []
        self._lettered = 0

    def telemetry_group(self) -> str:
        """See the protocol, as for all below."""
        return self._group

    def ingest(self, items: Sequence[Item]) -> Outcome:
        outcome = settle(self.positions(keys_of(items)), items)
        self._positions.update((one.key, one) for one in outcome.positions)
        for chunk in outcome.chunks:
            assert (chunk.key, chunk.first) not in self._chunks, "stored twice"
            self._chunks[chunk.key, chunk.first] = chunk
        for letter in outcome.letters:
            self._lettered += 1
            self._letters.append(replace(letter, number=self._lettered))
        return outcome

    def positions(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, Position]:
        return {key: self._positions[key] for key in keys if key in self._positions}

    def ledger(self, node: str = "", after: StreamKey | None = None, limit: int = 500) -> list[Position]:
        keys = [key for key in sorted(self._positions) if node in ("", key.node)]
        return [self._positions[key] for key in keys if after is None or key > after][:limit]

    def unsettled(self, limit: int = 10_000) -> list[Position]:
        open_ones = [one for one in self._positions.values() if one.settled < one.produced]
        return sorted(open_ones, key=lambda one: one.last_at_unix_s, reverse=True)[:limit]

    def chunks(
        self,
        node: str,
        stream: str,
        since_unix_s: float,
        until_unix_s: float,
        after: Place | None = None,
        limit: int = 200,
    ) -> list[Chunk]:
        found = [
            chunk
            for chunk in self._of(node, stream)
            if chunk.at_max_unix_s >= since_unix_s and chunk.at_min_unix_s < until_unix_s
        ]
        return [chunk for chunk in found if after is None or _place(chunk) > after][:limit]

    def letters(self, node: str = "", before: int = 0, limit: int = 100) -> list[Letter]:
        found = [one for one in reversed(self._letters) if node in ("", one.node)]
        return [one for one in found if not before or one.number < before][:limit]

    def trim(
        self, node: str, stream: str, before_unix_s: float, samples_max: int, chunks_max: int = 500
    ) -> int:
        held = self._of(node, stream)
        over = sum(chunk.end - chunk.first for chunk in held) - samples_max if samples_max else 0
        gone = []
        for chunk in held:
            count = chunk.end - chunk.first
            if chunk.at_max_unix_s < before_unix_s or count <= over:
                gone.append(chunk)
                over -= count
            else:
                over = 0  # what is newer than a chunk that is only partly over is not over at all
        for chunk in gone[:chunks_max]:
            del self._chunks[chunk.key, chunk.first]
        return len(gone[:chunks_max])

    def trim_letters(self, keep: int, limit: int = 500) -> int:
        count = min(limit, max(0, len(self._letters) - keep))
        del self._letters[:count]
        return count

    def retire(self, before_unix_s: float, limit: int = 500) -> int:
        newest: dict[str, int] = {}
        for key in self._positions:
            newest[key.node] = max(newest.get(key.node, 0), key.epoch)
        held = {key for key, _ in self._chunks}
        gone = [
            key
            for key, one in self._positions.items()
            if one.produced == one.settled
            and one.last_at_unix_s < before_unix_s
            and key.epoch != newest[key.node]
            and key not in held
        ][:limit]
        for key in gone:
            del self._positions[key]
        return len(gone)

    def _of(self, node: str, stream: str) -> list[Chunk]:
        found = (one for one in self._chunks.values() if (one.key.node, one.key.stream) == (node, stream))
        return sorted(found, key=_place)


def _place(chunk: Chunk) -> Place:
    return Place(chunk.at_min_unix_s, chunk.key.epoch, chunk.first)
