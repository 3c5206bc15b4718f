"""Performs the coordinator's pieces of work, one after the other: a plain synchronous object.

The service calls it in one thread of its own, a simulation calls it directly. It holds no decision and
nothing that the disk does not hold: what is in memory (running sums, newest versions) saves reading it again.

Updates that arrive together share one sync: :meth:`Executor.perform` takes several pieces of work.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from cloud.federated import versions
from cloud.federated.collected import Collected, Content, Fresh, heads, log_name, read
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
    StoredJob,
    Whole,
    Write,
    Written,
)
from cloud.federated.gate import Rejection, check_bytes, check_delta, check_sum, norm_of
from cloud.federated.journal import REWRITE_BYTES, Log, Sync, refused, write_whole
from cloud.federated.packages import Packages, check_serving, start_of, with_parameters
from cloud.federated.records import Answer, Entry, JobState, Version
from cloud.federated.spec import checked
from cloud.federated.strategies import resolve
from shared.artifacts import is_digest
from shared.codecs import SUM
from shared.core import Failed, Work
from shared.errors import ConfigError, ShoalError, Unreadable
from shared.ids import checked_id
from shared.learning import Learner, Reject, RoundView
from shared.vectors import F32, Layout, Vector, check_of

Clients = dict[str, tuple[str, Learner]]

_entries = msgspec.msgpack.Decoder(Entry)
_clients = msgspec.msgpack.Decoder(Clients)


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
    journals: dict[str, Log] = field(default_factory=dict)
    lock: int = -1

    def open(self) -> None:
        """Make the folder, and take it for this process. Raises :class:`ConfigError` when another has it."""
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self.lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{self.folder} is in use by another cloud") from None

    def close(self) -> None:
        """Give the folder back."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    @property
    def artifacts(self) -> Path:
        """Where snapshots and deltas lie."""
        return self.folder / "artifacts"

    def perform(self, works: Sequence[Work]) -> list[object]:
        """One answer for each, None where there is none; Failed where a disk or a package was the cause."""
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

    def _folder(self, job: str) -> Path:
        return self.folder / "jobs" / checked_id(job)

    # Jobs --------------------------------------------------------------------------------------------

    def _load(self, _: Load) -> Loaded:
        self.collected.clear()
        self.models.clear()
        self.journals.clear()
        jobs, problems = list[StoredJob](), list[str]()
        (self.folder / "jobs").mkdir(exist_ok=True)
        for folder in sorted((self.folder / "jobs").iterdir()):
            try:
                jobs += self._loaded(folder)
            except (OSError, ShoalError, msgspec.MsgspecError) as error:
                problems.append(f"job {folder.name} can't be read, and is left as it is: {error}")
        known = {one.digest for job in jobs for one in _manifests(job.state)}
        stray = [path for path in self.artifacts.iterdir() if path.stem not in known]
        for path in stray if not problems else ():
            path.unlink()
        digests = tuple(path.stem for path in stray if is_digest(path.stem))
        return Loaded(tuple(jobs), self._load_clients(), digests, tuple(problems))

    def _loaded(self, folder: Path) -> Iterator[StoredJob]:
        """One that has no record yet was being made when the process ended: nobody was told of it."""
        log = Log(folder / "job.log", self.sync)
        if not log.length and not any(folder.glob("*-*-*.log")):
            shutil.rmtree(folder, ignore_errors=True)
            return
        state, views = _replayed(log)
        if state is None:
            raise Unreadable("its journal holds no state")
        checked(state.spec)
        self.journals[folder.name] = log
        yield StoredJob(self._mended(folder, state), tuple(views), *self._answers(folder, state))

    def _answers(self, folder: Path, state: JobState) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
        """Of the open pass, and of the others that still have a log."""
        name, recent, answers = "", list[Answer](), tuple[Answer, ...]()
        if state.opening is not None:
            at = Pass(state.spec, state.version.ref, state.opening)
            name, answers = log_name(at), heads(folder / log_name(at))
        for path in sorted(folder.glob("*-*-*.log")):
            recent += [] if path.name == name else heads(path)
        return answers, tuple(sorted(recent, key=lambda one: one.asked))

    def _mended(self, folder: Path, state: JobState) -> JobState:
        """What a power cut took is made again: the newest version, its snapshot. A delta is only no longer
        offered: its readers have the way by the snapshot."""
        ref = state.version.ref
        try:
            model = versions.load(folder, ref)
        except Unreadable:
            model = self._made_again(folder, state)
        if all(map(self._sound, (one.digest for one in state.version.manifests))):
            return state
        again = versions.offered(versions.Made(model), ref.layout_hash, self.artifacts, self.sign)
        return msgspec.structs.replace(state, version=again)

    def _made_again(self, folder: Path, state: JobState) -> versions.Model:
        """The newest version, from the one before and the log of the pass in between: both are durable."""
        if state.before is None or state.made is None:
            raise Unreadable(f"version {state.version.ref.version} is gone")
        at = Pass(state.spec, state.before.ref, state.made)
        change = Collected(at, folder, self.sync).change()
        model = _next(at, versions.load(folder, at.model), change).model
        if check_of(model.x) != state.version.ref.check:
            raise Unreadable(f"version {model.version}, made again, is another one")
        versions.save(folder, model, self.sync)
        return model

    def _sound(self, digest: str) -> bool:
        try:
            data = versions.artifact_path(self.artifacts, digest).read_bytes()
        except OSError:
            return False
        return sha256(data).hexdigest() == digest

    def _prepare(self, work: Prepare) -> Prepared:
        spec = work.spec
        layout, x = start_of(self.packages, spec.package)
        if spec.serve:
            check_serving(self.packages, spec.serve, layout)
        folder = self._folder(spec.job)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = versions.Model(0, x)
        versions.save(folder, model, self.sync)
        return Prepared(
            spec.job, versions.offered(versions.Made(model), layout.hash, self.artifacts, self.sign)
        )

    def _write(self, work: Write) -> Written:
        log = self.journals.get(work.job)
        if log is None:
            log = self.journals[work.job] = Log(self._folder(work.job) / "job.log", self.sync)
        entry = msgspec.msgpack.encode(work.entry)
        log.append([entry])
        if log.length > REWRITE_BYTES + 4 * len(entry) and work.entry.state is not None:
            self._compact(log)
        return Written(work.job)

    def _compact(self, log: Log) -> None:
        """Of the states only the last counts; the rounds that are over are all kept, in one piece each."""
        state, views = _replayed(log)
        ended = [msgspec.msgpack.encode(Entry(ended=view)) for view in views]
        if sum(map(len, ended)) < log.length // 2:
            log.rewrite([*ended, msgspec.msgpack.encode(Entry(state=state))])

    def _remove(self, work: Remove) -> Removed:
        for cache in (self.collected, self.models, self.journals):
            cache.pop(work.job, None)
        (self._folder(work.job) / "job.log").unlink(missing_ok=True)
        shutil.rmtree(self._folder(work.job), ignore_errors=True)
        self._delete_artifacts(work.digests)
        return Removed(work.job)

    def _settle(self, work: Settle) -> None:
        folder = self._folder(work.job)
        versions.settle(folder, work.newest, self.sync)
        for path in folder.glob("version-*.state"):
            if int(path.stem.partition("-")[2]) < work.oldest:
                path.unlink(missing_ok=True)
        for path in folder.glob("*-*-*.log"):
            if int(path.name.partition("-")[0]) < work.round:
                path.unlink(missing_ok=True)
        self._delete_artifacts(work.digests)

    def _delete_artifacts(self, digests: Sequence[str]) -> None:
        for digest in digests:
            versions.artifact_path(self.artifacts, digest).unlink(missing_ok=True)

    # Clients that speak through an application -------------------------------------------------------

    def _load_clients(self) -> Clients:
        try:
            return _clients.decode((self.folder / "clients").read_bytes())
        except FileNotFoundError:
            return {}

    def _save_clients(self, work: SaveClients) -> ClientsSaved:
        write_whole(self.folder / "clients", msgspec.msgpack.encode(work.clients), self.sync)
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
        return [
            Judged(at.id, one.client, one.asked, one.header.digest, rejection, one.norm)
            for (one, *_), rejection in judged
        ]

    def _collected(self, at: Pass) -> Collected:
        found = self.collected.get(at.spec.job)
        if found is None or found.at.id != at.id:
            found = self.collected[at.spec.job] = Collected(at, self._folder(at.spec.job), self.sync)
        return found

    def _judged(self, collected: Collected, work: Judge) -> tuple[Fresh, Rejection | None]:
        whole = work.whole
        known = collected.answers.get((whole.client, whole.asked))
        if known is not None:
            return Fresh(known, b"", None), None
        rejection, content = _examined(work.at, whole)
        norm = 0.0 if rejection or content is None or whole.header.codec == SUM else norm_of(content)
        answer = Answer(
            client=whole.client, asked=whole.asked, header=whole.header, norm=norm, seconds=work.seconds
        )
        return Fresh(answer, whole.data, content), rejection

    def _aggregate(self, work: Aggregate) -> Aggregated:
        began, at, job = self.clock(), work.at, work.at.spec.job
        collected = self._collected(at)
        model = self._model(at)
        made = _next(at, model, collected.change())
        versions.save(self._folder(job), made.model, None)
        version = versions.offered(made, at.model.layout_hash, self.artifacts, self.sign)
        del self.collected[job]
        self.models[job] = made.model
        return Aggregated(at.id, version, collected.clients, self.clock() - began)

    def _model(self, at: Pass) -> versions.Model:
        known = self.models.get(at.spec.job)
        if known is not None and known.version == at.model.version:
            return known
        return versions.load(self._folder(at.spec.job), at.model)

    def _make_model(self, work: MakeModel) -> ModelMade:
        spec = work.spec
        layout: Layout = start_of(self.packages, spec.package)[0]
        model = versions.load(self._folder(spec.job), work.model)
        package = with_parameters(
            self.packages, spec.serve, spec.version_name, work.description, layout, model.x
        )
        return ModelMade(spec.job, self.packages.offer(package))


def _next(at: Pass, model: versions.Model, change: Vector) -> versions.Made:
    return versions.next_version(at.spec, resolve(at.spec.strategy, at.spec.options), model, change)


def _examined(at: Pass, whole: Whole) -> tuple[Rejection | None, Content]:
    """The gate's word on the content, and the content."""
    header, median, spec = whole.header, at.opening.norm_median, at.spec
    problem = check_bytes(header, whole.data)
    if problem is not None:
        return problem, None
    try:
        content = read(header, whole.data)
    except Unreadable as error:
        return Rejection(Reject.UNREADABLE, str(error)), None
    if content is None:
        return None, None
    if content.dtype == np.int64:
        total = content.astype(np.int64, copy=False)
        return check_sum(total, header.weight, spec.clip, median, spec.norm_ratio_max), content
    delta = content.astype(F32, copy=False)
    return check_delta(delta, spec.clip, median, spec.norm_ratio_max), content


def _replayed(log: Log) -> tuple[JobState | None, list[RoundView]]:
    """The last state, and all rounds that are over."""
    state, views = None, []
    for payload in log.payloads():
        entry = _entries.decode(payload)
        state = entry.state or state
        if entry.ended is not None:
            views.append(entry.ended)
    return state, views


def _manifests(state: JobState) -> list[Any]:
    before: Version | None = state.before
    return [*state.version.manifests, *(before.manifests if before else ())]


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
