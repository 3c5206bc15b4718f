"""``shoal demo``: the main job with progress bars and a summary."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.cli.options import WORKSPACE, JsonOption, emit, examples, run
from shared.errors import ConfigError

if TYPE_CHECKING:
    from cloud.demo.scenario import DemoResult

EXAMPLE = Path("examples", "digits")
NEEDS = ("digits.shoal", "learn.toml")
_STEPS = {
    "start": "broker, cloud and devices start",
    "deploy": "the digits model goes to the devices",
    "classify": "held-out digits are classified",
    "offline": "the cloud notices the killed device",
    "learn": "the others learn the digits together",
}


def demo(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="demo", epilog=examples("shoal demo", "shoal demo --devices 3 --json"))(_demo)


def _demo(
    devices: Annotated[int, typer.Option(min=2, max=20, help="How many device processes.")] = 5,
    example: Annotated[
        Path | None,
        typer.Option(
            "--examples",
            help="Folder with the model, its data and learn.toml (default: examples/digits).",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """A fleet on this machine: deploy a model, classify 500 digits, kill a device, learn together."""
    from cloud.cli.summary import summary
    from cloud.local.lock import held

    found = _example(example)
    with held(WORKSPACE / "demo.lock", "a demo"):
        folder = WORKSPACE / "demo"
        shutil.rmtree(folder, ignore_errors=True)  # a new fleet every time; 'shoal up' keeps one
        result = _play(found, folder, devices, quiet=json)
    emit(result, json, lambda: summary(result))


def _example(given: Path | None) -> Path:
    """The folder of the example: as given, else from here, else from the checkout this runs from."""
    checkout = Path(__file__).parents[2]
    places = (EXAMPLE, checkout / EXAMPLE) if given is None else (given,)
    for place in places:
        if all((place / name).exists() for name in NEEDS):
            return place
    raise ConfigError(
        f"no {' or no '.join(NEEDS)} in {places[0]}; run this in the repository, or give --examples DIR"
    )


def _play(example: Path, folder: Path, devices: int, *, quiet: bool) -> "DemoResult":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

    from cloud.demo.scenario import play

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(_STEPS[step], total=total)
            bars.update(tasks[step], completed=done, total=total)

        return run(play(example, folder, devices, progress))
