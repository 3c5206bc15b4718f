"""``shoal demo``: the main job with progress bars and a summary."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from cloud.cli.options import WORKSPACE, JsonOption, emit, run
from cloud.demo.scenario import DemoResult, play
from shared.errors import ConfigError

_STEPS = {
    "start": "broker, cloud and devices start",
    "deploy": "the digits model goes to the devices",
    "classify": "held-out digits are classified",
    "offline": "the cloud notices the killed device",
}


def demo(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="demo", epilog="Examples: shoal demo\n\nshoal demo --devices 3 --json")(_demo)


def _demo(
    devices: Annotated[int, typer.Option(min=2, max=20, help="How many device processes.")] = 5,
    examples: Annotated[Path, typer.Option(help="Folder with digits.shoal and heldout.npz.")] = Path(
        "examples/digits"
    ),
    json: JsonOption = False,
) -> None:
    """A fleet on this machine: deploy a model, classify 500 digits, kill a device half way."""
    if not (examples / "digits.shoal").exists():
        raise ConfigError(
            f"{examples / 'digits.shoal'} is missing; run this in the repository, or --examples DIR"
        )
    folder = WORKSPACE / "demo"
    shutil.rmtree(folder, ignore_errors=True)  # a new fleet every time; 'shoal up' keeps one
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        disable=json,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(_STEPS[step], total=total)
            bars.update(tasks[step], completed=done, total=total)

        result = run(play(examples, folder, devices, progress))
    emit(result, json, lambda: summary(result))


def summary(result: DemoResult) -> RenderableType:
    """The result for a person."""
    same = result.same_as_torch == result.digits
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_row(
        "accuracy",
        Text.assemble(
            f"{result.accuracy:.1%} ({result.correct} of {result.digits}); torch on the same digits: "
            f"{result.torch_accuracy:.1%} ",
            (
                "identical" if same else f"{result.digits - result.same_as_torch} differ",
                "green" if same else "red",
            ),
        ),
    )
    facts.add_row("speed", f"{result.requests_per_s:,.0f} requests/s")
    facts.add_row(
        "latency", f"p50 {result.latency_p50_ms:.1f} ms, p99 {result.latency_p99_ms:.1f} ms, 64 in flight"
    )
    facts.add_row("model", f"{result.model_bytes:,} bytes, on every device after {result.deploy_s:.2f} s")
    facts.add_row("telemetry", f"{result.telemetry_samples} samples of this machine heard from the devices")
    facts.add_row("time", f"fleet up in {result.start_s:.1f} s, everything in {result.total_s:.1f} s")
    return Panel(
        Group(facts, Text(), _devices(result), Text(), _killed(result)), title="shoal demo", expand=False
    )


def _devices(result: DemoResult) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("device", "answers", "", "in the module"):
        table.add_column(column, justify="left" if column in ("device", "") else "right")
    most = max(one.answers for one in result.devices)
    for one in result.devices:
        name = Text(f"{one.node} (killed)" if one.killed else one.node, style="red" if one.killed else "")
        table.add_row(
            name, str(one.answers), Bar(most, 0, one.answers, width=24), f"{one.service_us_median:.0f} us"
        )
    return table


def _killed(result: DemoResult) -> Text:
    killed = result.killed
    noticed = (
        f"called offline after {killed.offline_after_s:.1f} s"
        if killed.offline_after_s is not None
        else "not yet called offline"
    )
    fate = (
        f"{killed.in_flight} requests were with it: {killed.answered_elsewhere} were answered by others "
        f"(the slowest after {killed.rescue_s_max:.2f} s), {killed.failed} failed"
        if killed.in_flight
        else "no request was with it at that moment"
    )
    return Text(
        f"{killed.node} was killed with SIGKILL after {killed.answers_before} answers; {noticed}.\n{fate}."
    )
