"""Performs the coordinator's pieces of work, one after the other: a plain synchronous object.

The service calls it in one thread of its own, a simulation calls it directly. It holds no decision and
nothing that the disk does not hold: what is in memory (running sums, newest versions) saves reading it again.

Updates that arrive together share one sync: :meth:`Executor.perform` takes several pieces of work.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np

from cloud.federated import versions
from cloud.federated.collected import Collected, Content, Fresh, read
from cloud.federated.disk import Disk
from cloud.federated.events import (
    Aggregate,
    Aggregated,
    ClientsSaved,
    Judge,
    Judged,
    Load,
    Loaded,
    MakeModel,
    ModelMade,
    Pass,
    Prepare,
    Prepared,
    Remove,
    Removed,
    SaveClients,
    Settle,
    Whole,
    Write,
    Written,
)
from cloud.federated.gate import Rejection, check_bytes, check_delta, check_sum, norm_of
from cloud.federated.journal import Sync, refused
from cloud.federated.packages import Packages, check_serving, start_of, with_parameters
from cloud.federated.records import Answer
from shared.core import Failed, Work
from shared.errors import ShoalError, Unreadable
from shared.learning import ModelRef, Reject
from shared.vectors import F32, Layout

MODELS_KEPT = 4  # in memory: of the jobs that moved last


@dataclass(slots=True)
class Executor:
    """``folder``: of the coordinator. ``clock``: seconds, to say how long a version took. ``sync``: what
    makes a file durable; a simulation, whose disk is never cut off, passes one that does nothing."""

    folder: Path
    packages: Packages
    sign: versions.Sign
    clock: Callable[[], float]
    sync: Sync = os.fsync
    collected: dict[str, Collected] = field(default_factory=dict)  # by job: of its newest pass
    models: dict[str, versions.Model] = field(default_factory=dict)  # by job: its newest version
    unsaved: set[str] = field(default_factory=set)  # jobs whose newest version is in memory only
    disk: Disk = field(init=False)
    guard: Lock = field(default_factory=Lock)
    closed: bool = False

    def __post_init__(self) -> None:
        self.disk = Disk(self.folder, self.sign, self.sync)

    def open(self) -> None:
        """Take the folder for this process. Raises :class:`ConfigError` when another has it."""
        self.disk.open()

    def close(self) -> None:
        """Give it back, after what is being done; nothing is done any more."""
        with self.guard:
            self.closed = True
            self.disk.close()

    @property
    def artifacts(self) -> Path:
        """Where snapshots and deltas lie."""
        return self.disk.artifacts

    def perform(self, works: Sequence[Work]) -> list[object]:
        """One answer for each, None where there is none; Failed where a disk or a package was the cause."""
        with self.guard:
            if self.closed:
                return [Failed(work, "the coordinator's folder was given back") for work in works]
            return self._performed(works)

    def _performed(self, works: Sequence[Work]) -> list[object]:
        answers: list[object] = []
        for judging, group in groupby(works, lambda one: one.at.id if isinstance(one, Judge) else None):
            some = list(group)
            answers += self._judge(cast(list[Judge], some)) if judging is not None else map(self._one, some)
        return answers

    def _one(self, work: Work) -> object:
        try:
            return _PERFORM[type(work)](self, work)
        except OSError as error:
            return Failed(work, str(refused(error)))
        except ShoalError as error:
            return Failed(work, str(error))

    # Jobs --------------------------------------------------------------------------------------------

    def _load(self, _: Load) -> Loaded:
        self.collected.clear()
        self.models.clear()
        self.unsaved.clear()
        return self.disk.load()

    def _prepare(self, work: Prepare) -> Prepared:
        spec = work.spec
        layout, x = start_of(self.packages, spec.package)
        if spec.serve:
            check_serving(self.packages, spec.serve, layout)
        folder = self.disk.job(spec.job)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = versions.Model(0, x)
        versions.save(folder, model, self.sync)
        return Prepared(
            spec.job, versions.offered(versions.Made(model), layout.hash, self.artifacts, self.sign)
        )

    def _write(self, work: Write) -> Written:
        self.disk.write(work)
        return Written(work.job)

    def _remove(self, work: Remove) -> Removed:
        self.collected.pop(work.job, None)
        self.models.pop(work.job, None)
        self.unsaved.discard(work.job)
        self.disk.remove(work)
        return Removed(work.job)

    def _save_clients(self, work: SaveClients) -> ClientsSaved:
        self.disk.save_clients(work)
        return ClientsSaved()

    # Updates and versions ----------------------------------------------------------------------------

    def _judge(self, works: Sequence[Judge]) -> list[object]:
        """All of one pass: those that pass the gate become durable together."""
        at = works[0].at
        try:
            collected = self._collected(at)
            judged = [self._judged(collected, one) for one in works]
            fresh = {
                (one.answer.client, one.answer.asked): one
                for one, rejection in judged
                if rejection is None and (one.answer.client, one.answer.asked) not in collected.answers
            }
            if fresh:
                collected.keep(list(fresh.values()))
        except (OSError, ShoalError) as error:
            self.collected.pop(at.spec.job, None)  # to be read again from the log
            return [Failed(work, str(error)) for work in works]
        finally:
            for work in works:
                work.whole.data.clear()
        return [
            Judged(at.id, one.client, one.asked, one.header.digest, rejection, one.norm)
            for (one, *_), rejection in judged
        ]

    def _collected(self, at: Pass) -> Collected:
        found = self.collected.get(at.spec.job)
        if found is None or found.at.id != at.id:
            found = self.collected[at.spec.job] = Collected(at, self.disk.job(at.spec.job), self.sync)
        return found

    def _judged(self, collected: Collected, work: Judge) -> tuple[Fresh, Rejection | None]:
        whole = work.whole
        known = collected.answers.get((whole.client, whole.asked))
        if known is not None:
            return Fresh(known, b"", None), None
        rejection, content, norm = _examined(work.at, whole)
        answer = Answer(
            client=whole.client, asked=whole.asked, header=whole.header, norm=norm, seconds=work.seconds
        )
        return Fresh(answer, whole.data.data, content), rejection

    def _aggregate(self, work: Aggregate) -> Aggregated:
        """The version stays in memory until :class:`Settle`: no round waits for its file."""
        began, at, job = self.clock(), work.at, work.at.spec.job
        self._save(job, self.sync)  # a Settle that the disk refused: one version at most follows from logs
        collected = self._collected(at)
        made = collected.next(self._model(job, at.model))
        version = versions.offered(made, at.model.layout_hash, self.artifacts, self.sign)
        del self.collected[job]
        self._remember(job, made.model)
        return Aggregated(at.id, version, collected.clients, self.clock() - began)

    def _remember(self, job: str, model: versions.Model) -> None:
        self.models.pop(job, None)
        self.models[job] = model
        self.unsaved.add(job)
        while len(self.models) > MODELS_KEPT:
            oldest = next(iter(self.models))
            self._save(oldest, None)
            del self.models[oldest]

    def _save(self, job: str, sync: Sync | None) -> None:
        if job in self.unsaved:
            versions.save(self.disk.job(job), self.models[job], sync)
            self.unsaved.discard(job)

    def _model(self, job: str, ref: ModelRef) -> versions.Model:
        known = self.models.get(job)
        if known is not None and known.version == ref.version:
            return known
        return versions.load(self.disk.job(job), ref)

    def _settle(self, work: Settle) -> None:
        known = self.models.get(work.job)
        if known is not None and known.version == work.newest and work.job in self.unsaved:
            self._save(work.job, self.sync)
        else:
            versions.settle(self.disk.job(work.job), work.newest, self.sync)
        self.disk.settle(work)

    def _make_model(self, work: MakeModel) -> ModelMade:
        spec = work.spec
        layout: Layout = start_of(self.packages, spec.package)[0]
        model = self._model(spec.job, work.model)
        package = with_parameters(
            self.packages, spec.serve, spec.version_name, work.description, layout, model.x
        )
        return ModelMade(spec.job, self.packages.offer(package))


def _examined(at: Pass, whole: Whole) -> tuple[Rejection | None, Content, float]:
    """The gate's word on the content, the content, and its norm where it is one device's change."""
    header, median, spec = whole.header, at.opening.norm_median, at.spec
    problem = check_bytes(header, whole.data.data)
    if problem is not None:
        return problem, None, 0.0
    try:
        content = read(header, whole.data.data)
    except Unreadable as error:
        return Rejection(Reject.UNREADABLE, str(error)), None, 0.0
    if content is None:
        return None, None, 0.0
    if content.dtype == np.int64:
        total = content.astype(np.int64, copy=False)
        return check_sum(total, header.weight, spec.clip, median, spec.norm_ratio_max), content, 0.0
    delta = content.astype(F32, copy=False)
    norm = norm_of(delta)
    problem = check_delta(delta, norm, spec.clip, median, spec.norm_ratio_max)
    return problem, content, 0.0 if problem else norm


_PERFORM: Mapping[type[Work], Callable[[Executor, Any], object]] = {
    Load: Executor._load,
    Prepare: Executor._prepare,
    Write: Executor._write,
    Aggregate: Executor._aggregate,
    MakeModel: Executor._make_model,
    Settle: Executor._settle,
    Remove: Executor._remove,
    SaveClients: Executor._save_clients,
}
