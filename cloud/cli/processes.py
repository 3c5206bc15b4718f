"""Commands that run processes: up, broker, cloud, edge."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from broker.process import on_signals
from cloud.cli.options import WORKSPACE, app_id, read_config, run
from cloud.cli.show import nodes_table
from cloud.client import connected
from cloud.local.processes import LocalFleet
from shared.errors import ConfigError, RequestFailed

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
REFRESH_S = 1.0


def processes(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Examples: shoal up\n\nshoal up --devices 3 --port 1883 --http-port 8080")(up)
    for module, help in (
        ("broker", "Run the embedded MQTT 5 broker (see 'shoal broker --help')."),
        ("cloud", "Run the cloud process (see 'shoal cloud --help')."),
        ("edge", "Run a device agent (see 'shoal edge --help')."),
    ):
        app.command(module, help=help, context_settings=_PASS_ON)(_becomes(module))


def _becomes(module: str) -> Any:
    def become(context: typer.Context) -> None:
        # The process itself, not a child: signals and exit codes need no passing on.
        os.execv(sys.executable, [sys.executable, "-m", module, *context.args])

    return become


def up(
    devices: Annotated[int, typer.Option(min=0, max=100, help="How many device processes.")] = 5,
    folder: Annotated[Path, typer.Option(help="Where credentials, state and logs live.")] = WORKSPACE,
    port: Annotated[int, typer.Option(help="Port of the broker.")] = 1883,
    http_port: Annotated[int, typer.Option(help="Port of the REST API.")] = 8080,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "main",
    quiet: Annotated[bool, typer.Option("--quiet", help="No live table.")] = False,
) -> None:
    """Run a whole fleet on this machine until Ctrl-C: broker, cloud, API and devices.

    Other commands in this folder find it by themselves: shoal nodes, shoal deploy, shoal infer, shoal watch.
    """
    regions = ("eu", "us")
    nodes = {
        f"edge-{number}": {"labels": {"region": regions[number % len(regions)]}, "heartbeat_s": 5.0}
        for number in range(1, devices + 1)
    }
    run(_up(LocalFleet(folder, nodes, fleet=fleet, port=port, http_port=http_port), quiet))


async def _up(local: LocalFleet, quiet: bool) -> None:
    console = Console(stderr=True)
    stopped = asyncio.Event()
    on_signals(lambda _: stopped.set())
    async with local:
        console.print(f"broker  {local.broker_url}  (users and passwords: {local.workspace.folder}/*.toml)")
        console.print(f"API     http://127.0.0.1:{local.http_port}/docs")
        console.print(f"logs    {local.workspace.folder / 'logs'}")
        console.print(
            "Try: shoal nodes | shoal deploy examples/digits/digits.shoal | shoal watch. Ctrl-C ends it."
        )
        watching = asyncio.create_task(_watch(local, console, quiet), name="watch")
        ended = asyncio.create_task(_first_to_end(local), name="processes")
        waiting = asyncio.create_task(stopped.wait(), name="stop")
        await asyncio.wait({watching, ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, ended, waiting):
            task.cancel()
        await asyncio.gather(watching, ended, waiting, return_exceptions=True)
        if ended.done() and not ended.cancelled():
            raise ConfigError(ended.result())


async def _first_to_end(local: LocalFleet) -> str:
    """Waits until the broker or the cloud ends by itself; says which, with the end of its log."""
    while True:
        for process in (local.broker, local.cloud):
            if not process.running:
                return f"the {process.name} ended by itself; its log ends with:\n{process.tail()}"
        await asyncio.sleep(REFRESH_S)


async def _watch(local: LocalFleet, console: Console, quiet: bool) -> None:
    if quiet or not console.is_terminal:
        await asyncio.Event().wait()
    config = read_config(local.workspace.config("operator"))
    async with connected(config, app_id(config)) as fleet:
        with Live(Text("waiting for the devices ..."), console=console, auto_refresh=False) as live:
            while True:
                try:
                    live.update(nodes_table(await fleet.nodes()), refresh=True)
                except RequestFailed as error:
                    live.update(Text(f"the cloud does not answer: {error}"), refresh=True)
                await asyncio.sleep(REFRESH_S)
