"""Looks over the coordinator's shoulder: does the journal say what the devices sent and were told?

    what devices sent ──┐
    receipts            ├── one account per update; each new version is computed again from the updates that
    the journal         ┘   the journal has, each once, and must have the same bits

It keeps what devices sent until the version that it went into is checked. The sum is done here in another
way than in cloud/federated/accumulator.py: plainly, in 64 bits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cloud.federated import versions
from cloud.federated.accumulator import FRACTION_BITS, Total
from cloud.federated.collected import log_name
from cloud.federated.events import Aggregate, Aggregated, Pass
from cloud.federated.journal import Log, read_answer
from cloud.federated.records import Answer
from cloud.federated.robust import combine
from cloud.federated.strategies import Strategy, Tally, client_weight, finish, limited, resolve
from shared.codecs import decode
from shared.learning import Receipt, ReceiptStatus
from shared.vectors import F32, Vector, check_of

Sent = tuple[str, str]  # client, digest
_COUNTS = (ReceiptStatus.ACCEPTED, ReceiptStatus.DUPLICATE)


@dataclass(slots=True)
class Audit:
    """``complaints``: what does not fit, of which there should be none. ``folder``: the coordinator's."""

    folder: Path
    complaints: list[str] = field(default_factory=list)
    receipts: Counter[str] = field(default_factory=Counter)
    versions: int = 0
    _data: dict[int, dict[Sent, tuple[str, bytes]]] = field(default_factory=dict)  # by round
    _told: dict[Sent, set[str]] = field(default_factory=dict)
    _counted: dict[tuple[str, int], str] = field(default_factory=dict)  # client, round asked -> digest

    def sent(self, client: str, number: int, codec: str, digest: str, data: bytes) -> None:
        """A device has written an update for that round."""
        if data:
            self._data.setdefault(number, {})[client, digest] = codec, data

    def told(self, client: str, receipt: Receipt) -> None:
        """A device has heard what became of one."""
        self.receipts[receipt.reason or receipt.status] += 1
        self._told.setdefault((client, receipt.digest), set()).add(receipt.status)

    def aggregated(self, work: Aggregate, answer: object) -> None:
        """A version was made: of what?"""
        if not isinstance(answer, Aggregated):
            return
        at = work.at
        answers = self._logged(at)
        for one in answers:
            self._count(one)
        change = self._change(at, answers)
        base = versions.load(self.folder / "jobs" / at.spec.job, at.model)
        strategy = resolve(at.spec.strategy, at.spec.options)
        again = versions.next_version(at.spec, strategy, base, change)
        if check_of(again.model.x) != answer.version.ref.check:
            self.complaints.append(f"round {at.opening.round}: the version is not what its updates give")
        self.versions += 1
        oldest = at.opening.round - strategy.staleness_max - 1
        for number in [one for one in self._data if one < oldest]:
            del self._data[number]

    def close(self) -> tuple[str, ...]:
        """All complaints, with those about receipts, once every device has heard what it will ever hear."""
        counted = {(client, digest) for (client, _), digest in self._counted.items()}
        for client, digest in sorted(counted):
            told = self._told.get((client, digest), set())
            if not told & set(_COUNTS):
                what = ", ".join(sorted(told)) or "nothing"
                self.complaints.append(f"{client}: an update counts, and the receipt says {what}")
        return tuple(self.complaints)

    def _logged(self, at: Pass) -> list[Answer]:
        log = Log(self.folder / "jobs" / at.spec.job / log_name(at))
        return [read_answer(record)[0] for record in log.payloads()]

    def _count(self, one: Answer) -> None:
        key = one.client, one.asked
        if key in self._counted:
            self.complaints.append(f"{one.client} counts twice in round {one.asked}")
        self._counted[key] = one.header.digest

    def _change(self, at: Pass, answers: Sequence[Answer]) -> Vector:
        strategy, rows, tally = resolve(at.spec.strategy, at.spec.options), [], Tally()
        weights: list[int] = []
        total: Total = np.zeros(at.model.n_params, np.int64)
        for one in sorted(answers, key=lambda one: (one.client, one.asked)):
            codec, data = self._data[one.asked][one.client, one.header.digest]
            delta = limited(strategy, decode(codec, data, at.model.n_params), at.opening.norm_median)
            stale = at.model.version - one.header.version
            weight = client_weight(strategy, one.header, stale)
            tally = tally.plus(strategy, one.header, stale)
            weights.append(one.header.weight)
            if strategy.kind == "robust":
                rows.append(delta)
            else:
                total += weight * np.rint(delta.astype(np.float64) * 2.0**FRACTION_BITS).astype(np.int64)
        return finish(strategy, _mean(strategy, rows, weights, total, tally), tally)


def _mean(
    strategy: Strategy, rows: Sequence[Vector], weights: Sequence[int], total: Total, tally: Tally
) -> Vector:
    if strategy.kind != "robust":
        return (total / (float(tally.weight) * 2.0**FRACTION_BITS)).astype(F32)
    stacked = np.stack(rows)
    return combine(strategy, lambda start, stop: stacked[:, start:stop], weights, stacked.shape[1])
