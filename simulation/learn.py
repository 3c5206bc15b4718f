"""``python -m simulation.learn FOLDER``: a thousand devices learn together in one process, in virtual time.

The job is FOLDER's (``learn.toml``), and so are its package and its data. Training is real, in WebAssembly;
time, the network and everything that goes wrong come from the seed. The same command gives the same model.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cloud.learning.jobfile import JobFile, read_job
from shared.errors import ConfigError, ShoalError
from shared.learning import RoundRow
from simulation.federation.shares import pool
from simulation.federation.troubles import DROP, DUPLICATE, LATE, POISON, SKEW_S, Troubles
from simulation.federation.world import Outcome, Packages, Setting, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1 << 20
DEVICES = 100
DEVICES_MAX = 16_384  # as many learners as the coordinator knows
MEMORY_FOLDER = Path("/dev/shm")
FREE_BYTES_MIN = 1 << 30  # in it, to be used
_EPILOG = """\
examples: python -m simulation.learn examples/digits --devices 1000 --clients 32 --rounds 10
          python -m simulation.learn examples/digits --devices 50 --drop --duplicate --late --poison \\
              --skew --kill-coordinator --set norm_ratio_max=3 --json
The exit code is 1 when the job failed, or when the audit found an update that was counted twice, or whose
receipt says something else than the journal.
"""


def arguments(words: "Sequence[str] | None" = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m simulation.learn",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="with a learn.toml, its packages and a shards.py")
    parser.add_argument("--devices", type=int, default=DEVICES, help=f"how many (default: {DEVICES})")
    parser.add_argument("--rounds", type=int, help="at most so many (default: the job's)")
    parser.add_argument("--clients", type=int, help="updates that close a round (default: the job's)")
    parser.add_argument("--seed", type=int, help="of everything (default: the job's)")
    parser.add_argument("--alpha", type=float, default=0.5, help="evenness of the shares (default: 0.5)")
    parser.add_argument("--strategy", help="fedavg, trimmed-mean, ... (default: the job's)")
    parser.add_argument("--codec", choices=("f32", "int8", "topk"), help="(default: the job's)")
    parser.add_argument("--target", type=float, help="end when the metric is that good; 0: never")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="any key: --set plan.lr=0.05")
    _share(parser, "drop", DROP, "of a round's devices are lost in it: they crash, or lose their link")
    _share(parser, "duplicate", DUPLICATE, "of all deliveries come twice")
    _share(parser, "late", LATE, "of a round's updates come too late")
    _share(parser, "poison", POISON, "of the devices send lies: not finite, huge, or -10 x what they learned")
    _share(parser, "skew", SKEW_S, "seconds that clocks are off; they run up to 2 %% fast or slow", "S")
    parser.add_argument("--kill-coordinator", action="store_true", help="once in each round, at random")
    parser.add_argument("--scratch", type=Path, help="folder for disks (default: in memory where possible)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(words)


def _share(
    parser: argparse.ArgumentParser, name: str, usual: float, what: str, letter: str = "SHARE"
) -> None:
    parser.add_argument(
        f"--{name}",
        nargs="?",
        type=float,
        const=usual,
        default=0.0,
        metavar=letter,
        help=f"{what} (without a number: {usual:g})",
    )


def setting_of(given: argparse.Namespace, job: JobFile) -> Setting:
    """What is to be played. Raises :class:`ConfigError`."""
    for name in ("drop", "duplicate", "late", "poison"):
        if not 0 <= getattr(given, name) <= 1:
            raise ConfigError(f"--{name} {getattr(given, name):g}: a share is from 0 to 1")
    if not 1 <= given.devices <= DEVICES_MAX:
        raise ConfigError(f"--devices {given.devices}: 1 to {DEVICES_MAX} are possible")
    if given.skew < 0 or given.alpha <= 0:
        raise ConfigError("--skew is 0 or more, --alpha more than 0")
    troubles = Troubles(
        given.drop, given.duplicate, given.late, given.poison, given.skew, given.kill_coordinator
    )
    return Setting(
        spec=job.spec, devices=given.devices, seed=job.spec.seed, alpha=given.alpha, troubles=troubles
    )


def job_of(given: argparse.Namespace) -> JobFile:
    """The folder's job with the options. Raises :class:`ConfigError`."""
    options = {"rounds": given.rounds, "clients": given.clients, "seed": given.seed}
    job = read_job(
        given.folder,
        given.set or (),
        strategy=given.strategy,
        codec__name=given.codec,
        stop__target=given.target,
        **options,
    )
    if "package" not in job.files:
        raise ConfigError(f"{job.folder}: the simulation needs the package as a file beside learn.toml")
    if given.strategy is not None and not any(one.startswith("options") for one in given.set or ()):
        job = job.replace(options={})  # the file's are those of the file's strategy
    return job.replace(quorum=min(job.spec.quorum, job.spec.clients))


def packages_of(job: JobFile) -> Packages:
    """The files that the job names."""
    serve = job.files.get("serve")
    return Packages(job.files["package"].read_bytes(), serve.read_bytes() if serve else b"")


@contextmanager
def scratch(chosen: Path | None) -> "Iterator[Path]":
    """An empty folder, in memory where there is room: a simulated disk need not survive anything."""
    parent = chosen
    if parent is None and MEMORY_FOLDER.is_dir() and os.access(MEMORY_FOLDER, os.W_OK):
        status = os.statvfs(MEMORY_FOLDER)
        parent = MEMORY_FOLDER if status.f_bavail * status.f_frsize >= FREE_BYTES_MIN else None
    with tempfile.TemporaryDirectory(prefix="shoal-simulation-", dir=parent) as name:
        yield Path(name)


def play(
    setting: Setting, job: JobFile, told: Callable[[RoundRow], None] | None, where: Path | None
) -> Outcome:
    """The whole run."""
    examples, test = pool(job.folder)
    with scratch(where) as folder, World(setting, packages_of(job), examples, test, folder) as world:
        return world.run(told)


def table_of(outcome: Outcome) -> Table:
    """A line for each round."""
    table = Table(title=f"{outcome.job}: {outcome.devices} devices, seed {outcome.seed}")
    for name in ("round", "asked", "accepted", "rejected", "late", "accuracy", "loss", "up MB", "seconds"):
        table.add_column(name, justify="right")
    for row in outcome.rounds:
        metrics = (f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in ("accuracy", "loss"))
        counts = map(str, (row.round, row.asked, row.accepted, row.rejected, row.late))
        table.add_row(*counts, *metrics, f"{row.bytes_up / 1e6:.2f}", f"{row.wall_s:.1f}")
    return table


def summary_of(outcome: Outcome, wall_s: float) -> str:
    """What came out, in words."""
    receipts = ", ".join(f"{count} {name}" for name, count in outcome.receipts.items())
    lines = [
        f"{outcome.phase} after {len(outcome.rounds)} rounds and {outcome.virtual_s:,.0f} virtual seconds "
        f"({wall_s:.1f} real ones); the coordinator was killed {outcome.kills} times",
        f"accuracy {outcome.accuracy:.4f} on data that no device has; version {outcome.version}, parameters "
        f"{outcome.digest[:16]}",
        f"{outcome.bytes_up / 1e6:.1f} MB up, {outcome.bytes_down / 1e6:.1f} MB down; receipts: {receipts}",
        "the journal agrees with what devices sent and were told"
        if not outcome.complaints
        else "\n".join(f"AUDIT: {one}" for one in outcome.complaints),
    ]
    return "\n".join([*lines, outcome.detail] if outcome.detail else lines)


def main(words: "Sequence[str] | None" = None) -> int:
    """The command. Its exit code is 2 for a job that can't be played."""
    given, began = arguments(words), time.monotonic()
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        job = job_of(given)
        with Progress(*columns, console=errors, disable=given.json and not errors.is_terminal) as bar:
            task = bar.add_task("rounds", total=job.spec.rounds)
            outcome = play(setting_of(given, job), job, lambda row: _show(bar, task, row), given.scratch)
    except ShoalError as error:
        errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    wall_s = time.monotonic() - began
    if given.json:
        sys.stdout.write(msgspec.json.encode(_with_run(outcome, wall_s)).decode() + "\n")
    else:
        console = Console()
        console.print(table_of(outcome))
        console.print(summary_of(outcome, wall_s), markup=False, highlight=False, soft_wrap=True)
    return 0 if outcome.phase == "completed" and not outcome.complaints else 1


def _show(bar: Progress, task: Any, row: RoundRow) -> None:
    accuracy = row.metrics.get("accuracy")
    text = "rounds" if accuracy is None else f"accuracy {accuracy:.3f}"
    bar.update(task, completed=row.round, description=text)


def _with_run(outcome: Outcome, wall_s: float) -> dict[str, Any]:
    """``run`` differs from run to run; everything else is the same for the same command."""
    found: dict[str, Any] = msgspec.to_builtins(outcome)
    return {**found, "run": {"wall_s": round(wall_s, 3)}}


if __name__ == "__main__":
    sys.exit(main())
