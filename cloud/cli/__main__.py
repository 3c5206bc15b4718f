"""``shoal``: builds the command line from its parts and shows errors as one line."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from cloud.cli.act import act
from cloud.cli.demo import demo
from cloud.cli.doctor import doctor
from cloud.cli.processes import processes
from cloud.cli.read import read
from cloud.cli.watch import watch
from shared.errors import ShoalError

HELP = """Run a fleet of edge devices over MQTT: models in WebAssembly, inference, telemetry.

Start with 'shoal demo' (half a minute, needs nothing) or 'shoal up' (a fleet that stays).
"""


def build() -> typer.Typer:
    """Every command."""
    app = typer.Typer(
        name="shoal", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )
    app.callback()(_options)
    for part in (demo, processes, read, act, watch, doctor):
        part(app)
    return app


def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        Console().print(version("shoal"))
        raise typer.Exit


def main() -> None:
    """The entry point: expected errors are one line on standard error, bugs are tracebacks."""
    try:
        build()()
    except ShoalError as error:
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {error}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
