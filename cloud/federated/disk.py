"""The coordinator's folder: jobs are read from it, written to it, mended after a power cut, and deleted.

One process has it at a time (it is locked). What lies where is told in ``cloud/federated/journal.py``.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec

from cloud.federated import versions
from cloud.federated.collected import Collected, heads, log_name
from cloud.federated.events import (
    Loaded,
    Pass,
    Remove,
    SaveClients,
    Settle,
    StoredJob,
    Write,
)
from cloud.federated.journal import REWRITE_BYTES, Log, Sync, write_whole
from cloud.federated.records import Answer, Entry, JobState
from cloud.federated.spec import checked
from shared.artifacts import is_digest
from shared.errors import ConfigError, ShoalError, Unreadable
from shared.ids import checked_id
from shared.learning import Learner, RoundView
from shared.messages import Manifest
from shared.vectors import check_of

Clients = dict[str, tuple[str, Learner]]

_entries = msgspec.msgpack.Decoder(Entry)
_clients = msgspec.msgpack.Decoder(Clients)


@dataclass(slots=True)
class Disk:
    """Methods block, one thread at a time, and raise ``OSError`` where the disk refuses."""

    folder: Path
    sign: versions.Sign
    sync: Sync
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

    def job(self, name: str) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / checked_id(name)

    def write(self, work: Write) -> None:
        """Append to the journal; rewrite it when it has become long."""
        log = self.journals.get(work.job)
        if log is None:
            log = self.journals[work.job] = Log(self.job(work.job) / "job.log", self.sync)
        entry = msgspec.msgpack.encode(work.entry)
        log.append([entry], durable=not work.derived)
        if log.length > REWRITE_BYTES + 4 * len(entry) and work.entry.state is not None:
            self._compact(log)

    def remove(self, work: Remove) -> None:
        """Delete a job. Its journal goes first: without one it is no job."""
        self.journals.pop(work.job, None)
        (self.job(work.job) / "job.log").unlink(missing_ok=True)
        shutil.rmtree(self.job(work.job), ignore_errors=True)
        self._delete_artifacts(work.digests)

    def settle(self, work: Settle) -> None:
        """The newest version is durable: what nobody needs beside it goes."""
        folder = self.job(work.job)
        for path in folder.glob("version-*.state"):
            if int(path.stem.partition("-")[2]) < work.oldest:
                path.unlink(missing_ok=True)
        for path in folder.glob("*-*-*.log"):
            if int(path.name.partition("-")[0]) < work.round:
                path.unlink(missing_ok=True)
        self._delete_artifacts(work.digests)

    def save_clients(self, work: SaveClients) -> None:
        """The whole list, durable when this returns."""
        write_whole(self.folder / "clients", msgspec.msgpack.encode(work.clients), self.sync)

    # Reading ------------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """Every job, and whatever no job needs cleared away."""
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
        """Of the open pass, and of those that are over and still have a log: attempts that failed count for
        nothing."""
        name, answers = "", tuple[Answer, ...]()
        if state.opening is not None:
            at = Pass(state.spec, state.version.ref, state.opening)
            name, answers = log_name(at), heads(folder / log_name(at))
        over: dict[tuple[int, str], tuple[int, Path]] = {}  # the last attempt of each pass
        for path in folder.glob("*-*-*.log"):
            number, task, attempt = path.stem.split("-")
            key = int(number), task
            if path.name != name and key != (state.round, state.task):
                over[key] = max(over.get(key, (-1, path)), (int(attempt), path))
        recent = [one for _, (_, path) in sorted(over.items()) for one in heads(path)]
        return answers, tuple(recent)

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
        model = Collected(at, folder, self.sync).next(versions.load(folder, at.model)).model
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

    def _compact(self, log: Log) -> None:
        """Of the states only the last counts; the rounds that are over are all kept, in one piece each."""
        state, views = _replayed(log)
        ended = [msgspec.msgpack.encode(Entry(ended=view)) for view in views]
        if sum(map(len, ended)) < log.length // 2:
            log.rewrite([*ended, msgspec.msgpack.encode(Entry(state=state))])

    def _delete_artifacts(self, digests: Sequence[str]) -> None:
        for digest in digests:
            versions.artifact_path(self.artifacts, digest).unlink(missing_ok=True)

    def _load_clients(self) -> Clients:
        try:
            return _clients.decode((self.folder / "clients").read_bytes())
        except FileNotFoundError:
            return {}


def _replayed(log: Log) -> tuple[JobState | None, list[RoundView]]:
    """The last state, and all rounds that are over."""
    state, views = None, []
    for payload in log.payloads():
        entry = _entries.decode(payload)
        state = entry.state or state
        if entry.ended is not None:
            views.append(entry.ended)
    return state, views


def _manifests(state: JobState) -> list[Manifest]:
    before = state.before.manifests if state.before else ()
    return [*state.version.manifests, *before]
