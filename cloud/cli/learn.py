"""``shoal learn``: devices that learn together. ``shoal learn FOLDER`` runs a job; the rest looks at jobs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cloud.cli.learn_run import run
from cloud.cli.options import (
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    ask,
    emit,
    examples,
    fleet_runs_here,
    load_config,
)

if TYPE_CHECKING:
    from cloud.client import Fleet
    from cloud.learning.report import Report

HELP = """Devices learn together, and none of them shows its data.

'shoal learn FOLDER' (short for 'shoal learn run FOLDER') runs the job of FOLDER/learn.toml.

Each of these prints JSON with --json.
"""
RECORDS = "learn"  # in the workspace

JobArgument = Annotated[str, typer.Argument(help="The job's name.")]


class _RunByDefault(TyperGroup):
    """``shoal learn FOLDER``: what is no command is what to run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def learn(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        cls=_RunByDefault,
        name="learn",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        epilog=examples(
            "shoal learn examples/digits --devices 8 --rounds 20",
            "shoal learn jobs",
            "shoal learn report digits",
        ),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(
        epilog=examples(
            "shoal learn examples/digits --devices 8 --rounds 20",
            "shoal learn examples/digits --codec topk --set codec.ratio=0.05 --target 0.95",
            "shoal learn mine/learn.toml --broker mqtts://operator@fleet.example",
            "shoal learn examples/digits --simulate --devices 1000 --rounds 10",
        ),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(run)
    group.command(epilog=examples("shoal learn jobs"))(jobs)
    group.command(epilog=examples("shoal learn status digits"))(status)
    group.command(epilog=examples("shoal learn rounds digits", "shoal learn rounds digits --json"))(rounds)
    group.command(name="round", epilog=examples("shoal learn round digits 3"))(round_)
    group.command(epilog=examples("shoal learn learners"))(learners)
    group.command(epilog=examples("shoal learn report digits", "shoal learn report digits --out reports"))(
        report
    )
    group.command(epilog=examples("shoal learn stop digits"))(stop)
    group.command(epilog=examples("shoal learn reset digits"))(reset)
    group.command(epilog=examples("shoal learn delete digits"))(delete)
    app.add_typer(group)


def jobs(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the jobs and how far each is."""
    from cloud.cli.learn_show import jobs_table

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.jobs())
    emit(found, json, lambda: jobs_table(found))


def status(
    job: JobArgument,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one job: its phase, its metrics, its model."""
    from cloud.cli.learn_show import job_page

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.job(job))
    emit(found, json, lambda: job_page(found))


def rounds(
    job: JobArgument,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the rounds of a job."""
    from cloud.cli.learn_show import rounds_table

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.rounds(job))
    emit(found, json, lambda: rounds_table(found))


def round_(
    job: JobArgument,
    number: Annotated[int, typer.Argument(help="The round.", min=0)],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one round: who was asked, who answered, what was refused and why."""
    from cloud.cli.learn_show import round_page

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.round(job, number))
    emit(found, json, lambda: round_page(found))


def learners(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the devices that could take part, with what each could learn from."""
    from cloud.cli.learn_show import learners_table

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.learners())
    emit(found, json, lambda: learners_table(found))


def stop(
    job: JobArgument,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """End a job with the model that it has now."""
    from cloud.cli.learn_show import job_page

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.stop(job))
    emit(found, json, lambda: job_page(found))


def reset(
    job: JobArgument,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Let a job that is in ERROR go on."""
    from cloud.cli.learn_show import job_page

    found = ask(load_config(config, broker, fleet), lambda client: client.learning.reset(job))
    emit(found, json, lambda: job_page(found))


def delete(
    job: JobArgument,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Forget a job and its rounds. A model that it made stays in the catalog."""
    ask(load_config(config, broker, fleet), lambda client: client.learning.delete(job))
    emit({"job": job, "deleted": True}, json, lambda: f"{job} is deleted")


def report(
    job: JobArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and the picture.")] = Path(),
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Draw what a job did: accuracy, bytes, durations, participation, refusals.

    Writes JOB-report.html, which needs nothing else, and JOB-report.png. Where no fleet runs here, the report
    is that of the last 'shoal learn FOLDER' in this folder.
    """
    from cloud.cli.learn_show import report_page
    from cloud.learning.files import write_report

    found = _report(job, config, broker, fleet)
    files = write_report(found, out)
    value = {"files": [str(path) for path in files], "report": found}
    emit(value, json, lambda: report_page(found, files))


def _report(job: str, config: Path | None, broker: str | None, fleet: str | None) -> "Report":
    from cloud.cli.learn_run import record_of
    from cloud.learning.report import report_of

    record = record_of(job)
    if config is None and broker is None and not fleet_runs_here() and record.report.exists():
        return record.read_report()

    async def asked(client: "Fleet") -> "Report":
        return await report_of(client.learning, job)

    return ask(load_config(config, broker, fleet), asked)
