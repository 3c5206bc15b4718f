"""``shoal``: builds the command line from its parts and shows errors as one line."""

import logging
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from cloud.cli.act import act
from cloud.cli.audit import audit
from cloud.cli.backup import backup
from cloud.cli.compile import compile_
from cloud.cli.demo import demo
from cloud.cli.doctor import doctor
from cloud.cli.enrol import enrol
from cloud.cli.inspect import inspect
from cloud.cli.learn import learn
from cloud.cli.options import examples
from cloud.cli.processes import processes
from cloud.cli.read import read
from cloud.cli.residency import residency
from cloud.cli.sync import sync
from cloud.cli.telemetry import telemetry
from cloud.cli.watch import watch
from shared.errors import ShoalError

HELP = """Run a fleet of edge devices over MQTT: models in WebAssembly, inference, telemetry.

Start with 'shoal demo' (half a minute, needs nothing) or 'shoal up' (a fleet that stays).
"""
EXIT_TROUBLE, EXIT_INTERRUPTED = 1, 130

# click's UsageError. Typer brings its own copy of click in newer versions; this is the one it raises.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("shoal"))
        raise typer.Exit


def build() -> typer.Typer:
    """Every command."""
    app = typer.Typer(
        name="shoal",
        help=HELP,  # a callback's docstring would come first
        epilog=examples("shoal demo", "shoal up", "shoal nodes"),
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for part in (
        demo,
        processes,
        read,
        act,
        watch,
        telemetry,
        sync,
        doctor,
        enrol,
        compile_,
        inspect,
        learn,
        backup,
        residency,
        audit,
    ):
        part(app)
    return app


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """What stands before the command: all of it acts at once."""


def main() -> None:
    """The entry point: what was to be expected is one line on standard error, a bug is a traceback."""
    # A retry of the connection is not news here: the command says in the end what did not work.
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    try:
        sys.exit(build()(args=sys.argv[1:] or ["--help"], prog_name="shoal", standalone_mode=False))
    except _UsageError as error:
        _fail(_usage(error))
    except ShoalError as error:
        _fail(str(error))
    except ExceptionGroup as group:
        expected, bugs = group.split(ShoalError)
        if bugs is not None or expected is None:
            raise
        _fail("; ".join(str(error) for error in _leaves(expected)))
    except BrokenPipeError:
        # Whoever read us has gone (`shoal nodes | head -1`): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_TROUBLE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(EXIT_INTERRUPTED)


def _usage(error: Any) -> str:
    """click's complaint as one line."""
    path = error.ctx.command_path if error.ctx is not None else "shoal"
    complaint = " ".join(error.format_message().split()).rstrip(".")
    return f"{complaint}; '{path} --help' shows how"


def _fail(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(EXIT_TROUBLE)


def _leaves(group: ExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, ExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    main()
