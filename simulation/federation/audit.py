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
from typing import NamedTuple

import numpy as np

from cloud.federated import versions
from cloud.federated.accumulator import FRACTION_BITS, Total
from cloud.federated.collected import log_name
from cloud.federated.events import Aggregate, Aggregated, Judged, Pass, PassId
from cloud.federated.journal import Log, read_answer
from cloud.federated.records import Answer
from cloud.federated.robust import combine
from cloud.federated.strategies import Strategy, Tally, client_weight, finish, limited, resolve
from shared.codecs import decode
from shared.learning import Receipt, ReceiptStatus
from shared.vectors import F32, Vector, check_of

Sent = tuple[str, str]  # client, digest
Counted = tuple[str, int, str]  # client, the round that it answers, digest
_COUNTS = (ReceiptStatus.ACCEPTED, ReceiptStatus.DUPLICATE)


class Made(NamedTuple):
    """A version, and what it was made of. A coordinator that was killed over it makes it again."""

    at: PassId
    check: str
    of: tuple[Counted, ...]


@dataclass(slots=True)
class Audit:
    """``complaints``: what does not fit, of which there should be none. ``folder``: the coordinator's."""

    folder: Path
    complaints: list[str] = field(default_factory=list)
    receipts: Counter[str] = field(default_factory=Counter)
    stale: int = 0  # updates that count, from an older version
    _data: dict[int, dict[Sent, tuple[str, bytes]]] = field(default_factory=dict)  # by round
    _told: dict[Sent, str] = field(default_factory=dict)  # the first receipt: it ends the duty to send
    _journal: set[Sent] = field(default_factory=set)
    _accepted: dict[PassId, set[Sent]] = field(default_factory=dict)  # in passes that are not over
    _made: dict[int, Made] = field(default_factory=dict)  # by version

    def sent(self, client: str, number: int, codec: str, digest: str, data: bytes) -> None:
        """A device has written an update for that round."""
        if data:
            self._data.setdefault(number, {})[client, digest] = codec, data

    def told(self, client: str, receipt: Receipt) -> None:
        """A device has heard what became of one."""
        self.receipts[receipt.reason or receipt.status] += 1
        self._told.setdefault((client, receipt.digest), receipt.status)

    def judged(self, answer: object) -> None:
        """The journal has one more update, or has not."""
        if isinstance(answer, Judged) and answer.rejection is None:
            self._journal.add((answer.client, answer.digest))
            self._accepted.setdefault(answer.at, set()).add((answer.client, answer.digest))

    def aggregated(self, work: Aggregate, answer: object) -> None:
        """A version was made: of what?"""
        if not isinstance(answer, Aggregated):
            return
        at, check = work.at, answer.version.ref.check
        answers = self._logged(at)
        lacking = self._accepted.get(at.id, set()) - {(one.client, one.header.digest) for one in answers}
        for client, _ in sorted(lacking):
            self._complain(at, f"an update of {client} was accepted, and the log of the pass lacks it")
        self._accepted = {one: sent for one, sent in self._accepted.items() if one == at.id}
        base = versions.load(self.folder / "jobs" / at.spec.job, at.model)
        strategy = resolve(at.spec.strategy, at.spec.options)
        again = versions.next_version(at.spec, strategy, base, self._change(at, answers))
        if check_of(again.model.x) != check:
            self._complain(at, "the version is not what its updates give")
        before = self._made.get(answer.version.ref.version)
        if before is not None and before.at == at.id and before.check != check:
            self._complain(at, "the same updates gave two different versions")
        of = tuple((one.client, one.asked, one.header.digest) for one in answers)
        self._made[answer.version.ref.version] = Made(at.id, check, of)
        oldest = at.opening.round - strategy.staleness_max - 1
        for number in [one for one in self._data if one < oldest]:
            del self._data[number]

    def close(self) -> tuple[str, ...]:
        """All complaints, once every device has heard what it will ever hear."""
        counted = [one for made in self._made.values() for one in made.of]
        for (client, number), times in Counter((client, number) for client, number, _ in counted).items():
            if times > 1:
                self.complaints.append(f"{client} counts {times} times in round {number}")
        for client, number, digest in sorted(counted):
            told = self._told.get((client, digest), "nothing")
            if told not in _COUNTS:
                self.complaints.append(f"{client}, round {number}: it counts, and the receipt says {told}")
        for (client, digest), told in sorted(self._told.items()):
            if told == ReceiptStatus.ACCEPTED and (client, digest) not in self._journal:
                self.complaints.append(f"{client}: told that an update was accepted which no journal has")
        return tuple(self.complaints)

    def _complain(self, at: Pass, what: str) -> None:
        self.complaints.append(f"round {at.opening.round}, attempt {at.opening.attempt}: {what}")

    def _logged(self, at: Pass) -> list[Answer]:
        log = Log(self.folder / "jobs" / at.spec.job / log_name(at))
        return [read_answer(record)[0] for record in log.payloads()]

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
            self.stale += stale > 0
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
