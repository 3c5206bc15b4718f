"""The accepted updates of one pass: each in a log on the disk, and their running sum in memory.

    judged ──> log, synced ──> Accumulator        8 bytes a parameter, however many clients
                    └──> (robust rules) ──> one file of float32 rows, read in blocks of coordinates

Everything here is a function of what the log holds: a process that begins anew with the same log comes to
the same bits. The sum is of integers (cloud/federated/accumulator.py); rows are in the order of names.

Where privacy belongs: masked updates are added as they are (``add_sum``, their codes have one common scale);
they are unmasked, and noise is added, in :meth:`Collected.change`, between the sum and ``finish``: after the
deadline, when it is known who counts. Before that, what must be agreed upon among clients (keys, shares)
is a pass of its own in front of TRAINING.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud.federated.accumulator import Accumulator
from cloud.federated.events import Pass
from cloud.federated.journal import Log, Sync, answer_record, read_answer
from cloud.federated.records import Answer
from cloud.federated.robust import combine
from cloud.federated.strategies import Tally, client_weight, finish, limited, resolve
from cloud.federated.versions import Made, Model, next_version
from shared.codecs import SUM, decode, decode_sum
from shared.errors import Unavailable
from shared.learning import Task, UpdateHeader
from shared.vectors import F32, Vector

Key = tuple[str, int]  # client, and the round that it was asked in
Content = Vector | NDArray[np.int64] | None  # a change, a gateway's sum; None: an evaluation


class Fresh(NamedTuple):
    """An update that passed the gate: its bytes, and what they say."""

    answer: Answer
    data: bytes
    content: Content


class Collected:
    """One pass. Methods block; one thread at a time."""

    def __init__(self, at: Pass, folder: Path, sync: Sync) -> None:
        """Reads the log, and adds up what it holds."""
        self.at, self.strategy = at, resolve(at.spec.strategy, at.spec.options)
        self._log = Log(folder / log_name(at), sync)
        self._sum: Accumulator | None = None
        self.answers: dict[Key, Answer] = {}
        for record in self._log.payloads():
            answer, data = read_answer(record)
            self.answers[answer.client, answer.asked] = answer
            self._add(answer, read(answer.header, data))

    def keep(self, new: Sequence["Fresh"]) -> None:
        """Log them with one sync, then add them. Raises ``OSError``: then none of them counts."""
        self._log.append([answer_record(one.answer, one.data) for one in new])
        for one in new:
            self.answers[one.answer.client, one.answer.asked] = one.answer
            self._add(one.answer, one.content)

    @property
    def clients(self) -> int:
        """How many devices the accepted updates stand for."""
        return sum(one.header.clients for one in self.answers.values())

    def change(self) -> Vector:
        """What the server's step takes [n_params]. Raises :class:`Unavailable` for too few updates."""
        tally = Tally()
        for one in self.answers.values():
            tally = tally.plus(self.strategy, one.header, self._staleness(one))
        if self._sum is None and self.strategy.kind != "robust":
            raise Unavailable("no update was accepted")
        mean = self._robust() if self._sum is None else self._sum.mean()
        return finish(self.strategy, mean, tally)

    def next(self, model: Model) -> Made:
        """The version after ``model``, which the pass began with."""
        return next_version(self.at.spec, self.strategy, model, self.change())

    def _add(self, answer: Answer, content: Content) -> None:
        header = answer.header
        if content is None or self.strategy.kind == "robust":
            return
        if self._sum is None:
            self._sum = Accumulator(self.at.model.n_params)
        if header.codec == SUM:
            self._sum.add_sum(content.astype(np.int64, copy=False), header.weight, header.clients)
            return
        weight = client_weight(self.strategy, header, self._staleness(answer))
        self._sum.add(self._limited(content), weight)

    def _limited(self, content: Content) -> Vector:
        assert content is not None
        delta: Vector = content.astype(F32, copy=False)
        return limited(self.strategy, delta, self.at.opening.norm_median)

    def _staleness(self, answer: Answer) -> int:
        return self.at.model.version - answer.header.version

    def _robust(self) -> Vector:
        """The rule over all updates at once, which never are in memory at once."""
        n_params, order = self.at.model.n_params, sorted(self.answers)
        if not order:
            raise Unavailable("no update was accepted")
        path = self._log.path.with_suffix(".rows")
        try:
            rows = np.memmap(path, F32, "w+", shape=(len(order), n_params))
            for record in self._log.payloads():
                answer, data = read_answer(record)
                row = self._limited(read(answer.header, data))
                rows[order.index((answer.client, answer.asked))] = row
            weights = [self.answers[key].header.weight for key in order]
            return combine(self.strategy, lambda start, stop: rows[:, start:stop], weights, n_params)
        finally:
            path.unlink(missing_ok=True)


def read(header: UpdateHeader, data: bytes) -> Content:
    """What an update says [n_params]. Raises :class:`Unreadable`."""
    if header.task is Task.EVALUATE:
        return None
    if header.codec == SUM:
        return decode_sum(data, header.n_params)
    return decode(header.codec, data, header.n_params)


def log_name(at: Pass) -> str:
    """Of the file in the job's folder."""
    one = at.opening
    return f"{one.round}-{one.task}-{one.attempt}.log"


def heads(path: Path) -> tuple[Answer, ...]:
    """The answers in the log of a pass, without their bytes."""
    return tuple(read_answer(record)[0] for record in Log(path).payloads())
