"""Devices of one's own: a job's folder deals its data, and each device process gets its share.

FOLDER/learn.toml    the job
FOLDER/shards.py     write_shards(folder, devices, *, alpha, seed) -> one .npz file a device, with arrays
                     x, y, x_held, y_held; optionally held_out() -> x, y that no device has

.shoal/learn/JOB/    data/ (the shares)   fleet/ (credentials, state, logs)   report.json   JOB.shoal
"""

import asyncio
import importlib.util
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.learning.central import Central, Data, accuracy_of, gathered, train_centrally
from cloud.learning.follow import Watcher, create, follow, succeeded
from cloud.learning.jobfile import JobFile
from cloud.learning.report import Report, report_of
from cloud.local.processes import LocalFleet
from shared.errors import ConfigError, RequestFailed, Unavailable
from shared.learning import Phase
from shared.package import unpack

SHARDS = "shards.py"
START_S_MAX = 60.0
POLL_S = 0.1
ALPHA = 0.5  # of Dirichlet: how even the shares are
ASK_S = 0.5
_DEVICE = {"heartbeat_s": 2.0, "benchmark_s": 0.2}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How the data was dealt: a run that goes on has to deal it again as it was."""

    devices: int
    alpha: float
    seed: int


@dataclass(frozen=True, slots=True)
class Record:
    """The folder of one local job, which stays when its processes have ended."""

    folder: Path

    @property
    def report(self) -> Path:
        """Of its last end."""
        return self.folder / "report.json"

    @property
    def fleet(self) -> Path:
        """The workspace of its processes."""
        return self.folder / "fleet"

    def begin(self, run: Run, *, resume: bool) -> Run:
        """Forget an earlier run; or, to resume it, give what it was. Raises :class:`ConfigError`."""
        path = self.folder / "run.json"
        if resume:
            try:
                return msgspec.json.decode(path.read_bytes(), type=Run)
            except (OSError, msgspec.MsgspecError):
                raise ConfigError(f"{self.folder} has no run to go on with; leave --resume out") from None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        path.write_bytes(msgspec.json.encode(run))
        return run

    def read_report(self) -> Report:
        """Raises :class:`ConfigError` when it can't be read."""
        try:
            return msgspec.json.decode(self.report.read_bytes(), type=Report)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"can't read {self.report}: {error}") from None

    def write_report(self, report: Report) -> None:
        """Keep it for ``shoal learn report``."""
        self.report.write_bytes(msgspec.json.encode(report))

    def keep_model(self, name: str, digest: str) -> Path | None:
        """Copy the learned package out of the cloud's store; None when it is not there."""
        stored = self.fleet / "cloud" / "artifacts" / f"{digest}.shoal"
        if not digest or not stored.exists():
            return None
        kept = self.folder / f"{name}.shoal"
        shutil.copyfile(stored, kept)
        return kept


class Dealer:
    """The ``shards.py`` of a job's folder. It runs with our own rights, as a model to compile does."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`ConfigError` when there is none, or it can't be imported."""
        path = folder / SHARDS
        if not path.is_file():
            raise ConfigError(
                f"{folder} has no {SHARDS}, which would deal data to new devices; devices that have data "
                "learn with 'shoal learn' beside 'shoal up', or with --broker URL"
            )
        self._path, self._module = path, _imported(path)

    def deal(self, folder: Path, devices: int, *, alpha: float, seed: int) -> list[Path]:
        """One file a device. Raises :class:`ConfigError`."""
        try:
            return list(self._call("write_shards")(folder, devices, alpha=alpha, seed=seed))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._path}: {error}") from None

    def test(self, shards: Sequence[Path]) -> Data:
        """Data that no device has, or what the devices hold out where there is none."""
        if not hasattr(self._module, "held_out"):
            return gathered(shards, held_out=True)
        return Data(*self._call("held_out")())

    def _call(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] | None = getattr(self._module, name, None)
        if found is None:
            raise ConfigError(f"{self._path} has no function {name}")
        return found


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shoal_{path.parent.name}_shards", path)
    assert spec is not None, "a .py file has one"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # somebody else's code
        raise ConfigError(f"{path} can't be imported: {type(error).__name__}: {error}") from error
    return module


def training_of(source: str, shards: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Device -> its ``[training]`` section: edge-1 has the first share, and so on."""
    return {
        f"edge-{number}": {"sources": {source: str(shard.absolute())}}
        for number, shard in enumerate(shards, 1)
    }


def fleet_of(record: Record, source: str, shards: Sequence[Path]) -> LocalFleet:
    """Broker, cloud and a device for each share, not started yet."""
    training = training_of(source, shards)
    return LocalFleet(record.fleet, dict.fromkeys(training, _DEVICE), training=training, log_level="warning")


async def until_ready(
    fleet: Fleet, local: LocalFleet, source: str, progress: Callable[[str, int, int], None]
) -> None:
    """Wait until every device has told what it could learn from. ``fleet`` asks with a short budget.

    Raises :class:`Unavailable`, with the end of a log, after ``START_S_MAX``.
    """
    devices = len(local.devices)

    async def ready() -> int:
        try:
            return sum(source in one.learner.sources for one in await fleet.learning.learners())
        except RequestFailed:
            return 0  # the cloud is not there yet

    try:
        async with asyncio.timeout(START_S_MAX):
            while (count := await ready()) < devices:
                progress("start", count, devices)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        ended = [process for process in local.processes if not process.running]
        tail = (ended[0] if ended else local.cloud).tail()
        raise Unavailable(f"the devices did not come up in {START_S_MAX:g} s:\n{tail}") from None
    progress("start", devices, devices)


async def learn_locally(
    job: JobFile,
    record: Record,
    shards: Sequence[Path],
    progress: Callable[[str, int, int], None],
    watcher: Watcher,
) -> Report:
    """Start a fleet whose devices have these shares, see the job to its end, stop the fleet.

    A job that an interrupted run left there goes on. ``progress``: step, done, total.
    Raises :class:`ShoalError` when a step does not come to its end.
    """
    name, source = job.spec.job, job.spec.plan.source
    local = fleet_of(record, source, shards)
    async with local:
        config = read_config(local.workspace.config("operator"))
        # Whoever asks before the cloud listens is not answered: ask often, and wait briefly each time.
        async with connected(config, "operator", budget_s=ASK_S) as asking:
            await until_ready(asking, local, source, progress)
        async with connected(config, "operator") as fleet:
            if name not in {one.spec.job for one in await fleet.learning.jobs()}:
                await create(fleet, job, progress)
            elif (await fleet.learning.job(name)).phase == Phase.ERROR:
                await fleet.learning.reset(name)
            succeeded(await follow(fleet.learning, name, watcher))
            return await report_of(fleet.learning, name)


async def compared(
    job: JobFile, dealer: Dealer, shards: Sequence[Path], learned: Path, rounds: int
) -> Central:
    """The learned model and one that was trained with all the data in one place, on the same test data."""
    stopped = threading.Event()
    try:
        return await asyncio.to_thread(_compared, job, dealer, shards, learned, rounds, stopped)
    finally:
        stopped.set()  # a thread can't be cancelled


def _compared(
    job: JobFile,
    dealer: Dealer,
    shards: Sequence[Path],
    learned: Path,
    rounds: int,
    stopped: threading.Event,
) -> Central:
    package, test = unpack(job.files["package"].read_bytes()), dealer.test(shards)
    central = train_centrally(
        package,
        job.spec.plan,
        rounds,
        gathered(shards),
        test,
        seed=job.spec.seed,
        shards=len(shards),
        stopped=stopped.is_set,
    )
    accuracy = accuracy_of(package, unpack(learned.read_bytes()), test)
    return msgspec.structs.replace(central, learned=accuracy)
