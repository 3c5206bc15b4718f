"""``shoal learn``: devices that learn together. ``shoal learn FOLDER`` runs a job; the rest looks at jobs."""

from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
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
    from rich.console import RenderableType

    from cloud.client import Fleet
    from cloud.learning.client import LearningClient
    from cloud.learning.report import Report
    from shared.config import Config

HELP = """Devices learn together, and none of them shows its data.

'shoal learn FOLDER' (short for 'shoal learn run FOLDER') runs the job of FOLDER/learn.toml.

Each of these prints JSON with --json.
"""

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
    for name, help, question, page in OF_THE_FLEET:
        group.command(name, help=help, epilog=examples(f"shoal learn {name}"))(_of_the_fleet(question, page))
    for name, help, about, page in OF_A_JOB:
        command = _of_a_job(about, page)
        group.command(name, help=help, epilog=examples(f"shoal learn {name} digits"))(command)
    group.command(name="round", epilog=examples("shoal learn round digits 3"))(round_)
    group.command(epilog=examples("shoal learn report digits", "shoal learn report digits --out reports"))(
        report
    )
    app.add_typer(group)


# Name, what it does, what is asked, and the function of cloud/cli/learn_show.py that draws the answer.
OF_THE_FLEET: Sequence[tuple[str, str, "Callable[[LearningClient], Awaitable[Any]]", str]] = (
    ("jobs", "List the jobs and how far each is.", lambda client: client.jobs(), "jobs_table"),
    (
        "learners",
        "List the devices that could take part, with what each could learn from.",
        lambda client: client.learners(),
        "learners_table",
    ),
)
OF_A_JOB: Sequence[tuple[str, str, "Callable[[LearningClient, str], Awaitable[Any]]", str]] = (
    (
        "status",
        "Show one job: its phase, its metrics, its model.",
        lambda client, job: client.job(job),
        "job_page",
    ),
    ("rounds", "List the rounds of a job.", lambda client, job: client.rounds(job), "rounds_table"),
    (
        "stop",
        "End a job with the model that it has now.",
        lambda client, job: client.stop(job),
        "job_page",
    ),
    ("reset", "Let a job that is in ERROR go on.", lambda client, job: client.reset(job), "job_page"),
    (
        "delete",
        "Forget a job and its rounds. A model that it made stays in the catalog.",
        lambda client, job: _deleted(client, job),
        "deleted_page",
    ),
)


def _of_the_fleet(question: "Callable[[LearningClient], Awaitable[Any]]", page: str) -> Callable[..., None]:
    def command(
        config: ConfigOption = None,
        broker: BrokerOption = None,
        fleet: FleetOption = None,
        json: JsonOption = False,
    ) -> None:
        _answer(load_config(config, broker, fleet), json, question, page)

    return command


def _of_a_job(question: "Callable[[LearningClient, str], Awaitable[Any]]", page: str) -> Callable[..., None]:
    def command(
        job: JobArgument,
        config: ConfigOption = None,
        broker: BrokerOption = None,
        fleet: FleetOption = None,
        json: JsonOption = False,
    ) -> None:
        _answer(load_config(config, broker, fleet), json, lambda client: question(client, job), page)

    return command


def _answer(
    config: "Config", json: bool, question: "Callable[[LearningClient], Awaitable[Any]]", page: str
) -> None:
    """``page`` by its name: what draws is loaded when there is something to draw."""
    found = ask(config, lambda fleet: question(fleet.learning))

    def drawn() -> "RenderableType":
        made: RenderableType = getattr(import_module("cloud.cli.learn_show"), page)(found)
        return made

    emit(found, json, drawn)


async def _deleted(client: "LearningClient", job: str) -> dict[str, Any]:
    await client.delete(job)
    return {"job": job, "deleted": True}


def round_(
    job: JobArgument,
    number: Annotated[int, typer.Argument(help="The round.", min=1)],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one round: who was asked, who answered, what was refused and why."""
    _answer(load_config(config, broker, fleet), json, lambda client: client.round(job, number), "round_page")


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
