"""``shoal learn FOLDER``: a job from its file to its model, on a fleet that is there or on one of its own."""

import os
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cloud.cli.options import (
    GRACE_S,
    WORKSPACE,
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    app_id,
    emit,
    fleet_runs_here,
    load_config,
)
from cloud.cli.options import run as run_async
from shared.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from cloud.learning.jobfile import JobFile
    from cloud.learning.local import Dealer, Record
    from cloud.learning.result import LearnResult
    from shared.config import Config

CodecName = Literal["f32", "int8", "topk"]
DEVICES = 8  # where no fleet runs and nobody said how many
DEVICES_MAX = 100
BUDGET_S = 10.0
SIMULATION = "simulation.learn"


def run(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A folder with a learn.toml, or such a file.")],
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Start a fleet of so many devices for it.", show_default=False),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default=False)] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Updates that close a round.", show_default=False)
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="fedavg, fedavgm, fedadam, median, ...", show_default=False)
    ] = None,
    codec: Annotated[
        CodecName | None, typer.Option(help="How updates are written.", show_default=False)
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="End when the metric is that good.", show_default=False)
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0.01, help="Evenness of the shares; small: devices differ.")
    ] = 0.5,
    seed: Annotated[int | None, typer.Option(help="Of the shares and the job.", show_default=False)] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key of the job: --set plan.lr=0.05.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    compare: Annotated[
        bool, typer.Option(help="Train with all the data in one place as well, and compare.")
    ] = True,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Thousands of devices on a virtual clock; also --drop, --late, --poison.",
        ),
    ] = False,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Run a job: the devices train, the cloud averages, round after round.

    With --devices, or where no fleet runs, it starts broker, cloud and devices of its own, gives each device
    its share of the folder's data, and ends them with the job.

    Else the fleet that 'shoal up' runs here, or that --broker names, does the job, and goes on with it when
    this command ends.
    """
    if simulate:
        same = {"clients": clients, "alpha": alpha, "strategy": strategy, "codec": codec, "target": target}
        counts = {"devices": devices, "rounds": rounds, "seed": seed}
        _simulate(source, {**counts, **same}, sets or [], json, context.args)
    if context.args:
        raise ConfigError(f"no such option: {context.args[0]}; 'shoal learn run --help' lists them")
    from cloud.learning.jobfile import read_job

    options = {"rounds": rounds, "clients": clients, "strategy": strategy, "seed": seed}
    job = read_job(source, sets or (), codec__name=codec, stop__target=target, **options)
    if devices is None and (config is not None or broker is not None or fleet_runs_here()):
        result = _on_a_fleet(job, load_config(config, broker, fleet), resume, json)
    else:
        result = _on_our_own(job, devices or DEVICES, alpha, clients, resume, compare, json)
    from cloud.cli.learn_show import result_page

    emit(result, json, lambda: result_page(result))


def record_of(job: str) -> "Record":
    """Where a run of its own keeps what should stay."""
    from cloud.learning.local import Record
    from shared.ids import is_id

    if not is_id(job):
        raise ConfigError(f"{job[:80]!r} is no name of a job: 1 to 64 of a-z, 0-9 and '-'")
    return Record(WORKSPACE / "learn" / job)


def _simulate(
    source: Path, options: Mapping[str, object], sets: list[str], json: bool, more: list[str]
) -> None:
    """Becomes the simulation, which is a program of its own: the cloud does not know it. It takes the same
    options and more of its own (--drop, --poison, ...)."""
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    words = [
        word for name, value in [*given, *(("set", one) for one in sets)] for word in (f"--{name}", value)
    ]
    command = [sys.executable, "-m", SIMULATION, str(source), *words, *(["--json"] if json else []), *more]
    os.execv(sys.executable, command)


# On the fleet that is there -----------------------------------------------------------------------------


def _on_a_fleet(job: "JobFile", config: "Config", resume: bool, json: bool) -> "LearnResult":
    from cloud.cli.learn_show import Board
    from cloud.client import connected
    from cloud.learning.follow import create, follow, succeeded, who_is_missing
    from cloud.learning.report import report_of
    from cloud.learning.result import result_of

    name = job.spec.job

    async def learned() -> "LearnResult":
        async with connected(config, app_id(config), budget_s=BUDGET_S, grace_s=GRACE_S) as fleet:
            with Board(_console(), job.spec.rounds, quiet=json) as board:
                if not resume:
                    await create(fleet, job, board.progress)
                    board.note(await who_is_missing(fleet.learning, job.spec))
                view = succeeded(await follow(fleet.learning, name, board.watcher))
            return result_of(await report_of(fleet.learning, view.spec.job), stays=True)

    goes_on = (
        f"the job goes on in the cloud: 'shoal learn status {name}' shows it, "
        f"'shoal learn {job.folder} --resume' watches it, 'shoal learn stop {name}' ends it"
    )
    with _told_when_interrupted(goes_on):
        return run_async(learned())


# On one of its own --------------------------------------------------------------------------------------


def _on_our_own(
    job: "JobFile", devices: int, alpha: float, clients: int | None, resume: bool, compare: bool, json: bool
) -> "LearnResult":
    from cloud.learning.local import Dealer, Run
    from cloud.local.lock import held

    if devices > DEVICES_MAX:
        raise ConfigError(f"--devices {devices}: at most {DEVICES_MAX} processes; --simulate takes thousands")
    spec = job.spec
    if clients is None:
        job = job.replace(clients=min(spec.clients, devices), quorum=min(spec.quorum, devices))
    record, dealer = record_of(spec.job), Dealer(job.folder)
    again = f"it stopped with its fleet; 'shoal learn {job.folder} --resume' goes on where it was"
    with held(record.folder.with_suffix(".lock"), f"a run of {spec.job}"), _told_when_interrupted(again):
        dealt = record.begin(Run(devices=devices, alpha=alpha, seed=spec.seed), resume=resume)
        shards = dealer.deal(record.folder / "data", dealt.devices, alpha=dealt.alpha, seed=dealt.seed)
        return run_async(_with_devices(job, record, dealer, shards, compare, json))


async def _with_devices(
    job: "JobFile", record: "Record", dealer: "Dealer", shards: "Sequence[Path]", compare: bool, json: bool
) -> "LearnResult":
    import msgspec

    from cloud.cli.learn_show import Board, waiting
    from cloud.learning.local import compared, learn_locally
    from cloud.learning.result import result_of

    console, name = _console(), job.spec.job
    with Board(console, job.spec.rounds, quiet=json) as board:
        report = await learn_locally(job, record, shards, board.progress, board.watcher)
    package = record.keep_model(job.spec.version_name or name, report.job.model)
    record.write_report(report)
    passes = 0
    if compare and package is not None and "package" in job.files:
        with waiting(console, "training with all the data in one place, to compare", quiet=json):
            central = await compared(job, dealer, shards, package, len(report.rounds))
        passes = central.passes
        report = msgspec.structs.replace(
            report, test_accuracy=central.learned, central_accuracy=central.accuracy
        )
        record.write_report(report)
    return result_of(report, package, passes, stays=False)


@contextmanager
def _told_when_interrupted(what: str) -> "Iterator[None]":
    """Ctrl-C ends the command; what becomes of the job is the next question."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted; {what}\n")
        raise


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, highlight=False)
