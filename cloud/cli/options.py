"""What the commands have in common: where the fleet is, and how results are printed."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console, RenderableType

from shared.config import Config, broker_address, parse
from shared.errors import ConfigError

T = TypeVar("T")

WORKSPACE = Path(".shoal")
OPERATOR_FILE = WORKSPACE / "operator.toml"  # written by `shoal up`

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file with [broker] and other sections.", show_default=False),
]
BrokerOption = Annotated[
    str | None,
    typer.Option("--broker", "-b", help="mqtt://host:1883 or mqtts://user@host.", show_default=False),
]
FleetOption = Annotated[str | None, typer.Option("--fleet", help="Name of the fleet.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def load_config(config: Path | None, broker: str | None, fleet: str | None) -> Config:
    """The settings: ``--config`` (or what ``shoal up`` left here), the environment, then the options."""
    if config is None and broker is None and OPERATOR_FILE.exists():
        config = OPERATOR_FILE
    return read_config(config, {"fleet": fleet, "broker": {"url": broker}})


def read_config(path: Path | None, *overrides: dict[str, Any]) -> Config:
    """Read one file (if any) and the environment. Raises :class:`ConfigError`."""
    text = ""
    if path is not None:
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from None
    return parse(text, os.environ, *overrides)


def app_id(config: Config) -> str:
    """Who we are on the broker: the user name, where there is one, for the access rules go by it."""
    return config.broker.username or broker_address(config.broker.url).username or "cli"


def run(work: Awaitable[T]) -> T:
    """Run one command's coroutine."""

    async def main() -> T:
        return await work

    return asyncio.run(main())


def emit(value: Any, as_json: bool, render: Callable[[], RenderableType]) -> None:
    """Print ``value`` as one JSON document, or what ``render`` makes of it for a person."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    else:
        Console().print(render())
