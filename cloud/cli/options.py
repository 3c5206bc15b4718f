"""What the commands have in common: where the fleet is, and how results are printed.

Every command imports what is heavy (numpy, cryptography, the client) when it runs: ``shoal --help`` and a
mistyped option answer at once.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from broker.settings import read_config
from shared.config import Config, broker_address

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.client import Fleet

T = TypeVar("T")

WORKSPACE = Path(".shoal")
OPERATOR_FILE = WORKSPACE / "operator.toml"  # written by `shoal up`
GRACE_S = 1.0  # a person waits; a broker that refused twice will not change its mind

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


def examples(*commands: str) -> str:
    """A command's epilog. Brackets are escaped, for help texts are rich markup."""
    lines = [command.replace("[", r"\[") for command in commands]
    return "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])


def fleet_runs_here() -> bool:
    """Whether 'shoal up' runs in this folder now."""
    from cloud.local.lock import is_held

    return OPERATOR_FILE.exists() and is_held(WORKSPACE / "lock")


def load_config(config: Path | None, broker: str | None, fleet: str | None) -> Config:
    """The settings: ``--config`` (or what ``shoal up`` left here), the environment, then the options."""
    if config is None and broker is None and OPERATOR_FILE.exists():
        config = OPERATOR_FILE
    return _with_password(read_config(config, {"fleet": fleet, "broker": {"url": broker}}))


def _with_password(config: Config) -> Config:
    """Ask a person who gave a user name without any proof; a program has SHOAL_BROKER_PASSWORD."""
    broker = config.broker
    address = broker_address(broker.url)
    user = broker.username or address.username
    proof = broker.password or broker.password_file or broker.cert or address.password
    if not user or proof or not sys.stdin.isatty():
        return config
    password: str = typer.prompt(f"Password of {user} at {address.host}", hide_input=True, err=True)
    return msgspec.structs.replace(config, broker=msgspec.structs.replace(broker, password=password))


def app_id(config: Config) -> str:
    """Who we are on the broker: the user name, where there is one, for the access rules go by it."""
    return config.broker.username or broker_address(config.broker.url).username or "cli"


def run(work: Awaitable[T]) -> T:
    """Run one command's coroutine. SIGTERM and SIGHUP end it like Ctrl-C, so that it cleans up."""

    async def main() -> T:
        current = asyncio.current_task()
        assert current is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, current.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def ask(config: Config, question: Callable[["Fleet"], Awaitable[T]], budget_s: float = 10.0) -> T:
    """Connect, ask, disconnect."""
    from cloud.client import connected

    async def asked() -> T:
        async with connected(config, app_id(config), budget_s=budget_s, grace_s=GRACE_S) as fleet:
            return await question(fleet)

    return run(asked())


def emit(value: Any, as_json: bool, render: Callable[[], "RenderableType"]) -> None:
    """Print ``value`` as one JSON document, or what ``render`` makes of it for a person."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    else:
        from rich.console import Console

        Console(highlight=False).print(render())
