"""Commands that run processes: up, broker, cloud, edge."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.settings import read_config
from cloud.cli.options import WORKSPACE, app_id, examples, run
from shared.errors import ConfigError, RequestFailed

if TYPE_CHECKING:
    from rich.console import Console

    from cloud.local.processes import LocalFleet

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
MODULES = {
    "broker": "Run the embedded MQTT 5 broker (see 'shoal broker --help').",
    "cloud": "Run the cloud process (see 'shoal cloud --help').",
    "edge": "Run a device agent (see 'shoal edge --help').",
    "ingest": "Run one more worker that takes telemetry in (see 'shoal ingest --help').",
}
PROGRAMS = {"ingest": "cloud.telemetry"}  # where the command is not the package's name
REFRESH_S = 1.0


def processes(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "shoal up", "shoal up --devices 3 --port 1884 --http-port 8081", "shoal up --data examples/digits"
        )
    )(up)
    for module, help in MODULES.items():
        app.command(module, help=help, context_settings=_PASS_ON)(_becomes(module))


def _becomes(module: str) -> Any:
    def become(context: typer.Context) -> None:
        # The process itself, not a child: signals and exit codes need no passing on.
        program = PROGRAMS.get(module, module)
        os.execv(sys.executable, [sys.executable, "-m", program, *context.args])

    return become


def up(
    devices: Annotated[int, typer.Option(min=0, max=100, help="How many device processes.")] = 5,
    folder: Annotated[Path, typer.Option(help="Where credentials, state and logs live.")] = WORKSPACE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the broker; 0: any.")] = 1883,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0: any.")] = 8080,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "main",
    data: Annotated[
        Path | None,
        typer.Option(
            help="A job's folder, such as examples/digits: each device gets its share of the data.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live table.")] = False,
) -> None:
    """Run a whole fleet on this machine until Ctrl-C: broker, cloud, API and devices.

    Other commands in this folder find it by themselves: shoal nodes, shoal deploy, shoal infer, shoal watch,
    and with --data FOLDER also shoal learn FOLDER.
    """
    from cloud.local.lock import check_free, held
    from cloud.local.processes import LocalFleet
    from shared.ids import is_id

    if not is_id(fleet):
        raise ConfigError(f"--fleet {fleet!r}: use 1 to 64 of a-z, 0-9 and '-'")
    regions = {f"edge-{number}": ("eu", "us")[number % 2] for number in range(1, devices + 1)}
    nodes = {node: {"labels": {"region": region}, "heartbeat_s": 2.0} for node, region in regions.items()}
    with held(folder / "lock", "a fleet"):
        check_free(port, "broker", "--port")
        check_free(http_port, "REST API", "--http-port")
        training = {} if data is None or not devices else _dealt(data, folder / "data", devices)
        local = LocalFleet(folder, nodes, training=training, fleet=fleet, port=port, http_port=http_port)
        _enrol_places(local, regions)
        run(_up(local, quiet))


def _enrol_places(local: "LocalFleet", regions: dict[str, str]) -> None:
    """A device that was not enrolled anywhere yet is where its label says; for residency, see its policy."""
    from cloud.residency.places import read_places, write_places

    known = read_places(local.workspace.places)
    new = {node: region for node, region in regions.items() if node not in known}
    if new:
        write_places(local.workspace.places, new)


def _dealt(source: Path, folder: Path, devices: int) -> dict[str, dict[str, Any]]:
    from cloud.learning.jobfile import read_job
    from cloud.learning.local import ALPHA, Dealer, training_of

    job = read_job(source)
    shards = Dealer(job.folder).deal(folder, devices, alpha=ALPHA, seed=job.spec.seed)
    return training_of(job.spec.plan.source, shards)


async def _up(local: "LocalFleet", quiet: bool) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    stopped = _on_stop()
    async with local:
        _say_how_to_use(local, console)
        watching = asyncio.create_task(_watch(local, console, quiet), name="watch")
        ended = asyncio.create_task(_first_to_end(local), name="processes")
        waiting = asyncio.create_task(stopped.wait(), name="stop")
        try:
            await asyncio.wait({watching, ended, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, ended, waiting):
                task.cancel()
            await asyncio.gather(watching, ended, waiting, return_exceptions=True)
        for task in (watching, ended):
            if not task.cancelled():
                raise task.exception() or ConfigError(str(task.result()))
        console.print("stopping ...")


def _on_stop() -> asyncio.Event:
    """Set at the first signal, for an orderly end; a second one ends at once what is left."""
    stopped, main = asyncio.Event(), asyncio.current_task()
    assert main is not None

    def asked() -> None:
        if stopped.is_set():
            main.cancel()
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    return stopped


def _say_how_to_use(local: "LocalFleet", console: "Console") -> None:
    from cloud.cli.show import facts_table

    folder = local.workspace.folder
    here = "" if folder == WORKSPACE.absolute() else f" --config {folder / 'operator.toml'}"
    rows = [
        ("broker", f"{local.broker_url} (users and passwords: {folder}/*.toml)"),
        ("API", f"http://127.0.0.1:{local.http_port}/docs"),
        ("logs", str(folder / "logs")),
        ("try", f"shoal nodes{here}"),
        ("", f"shoal deploy examples/digits/digits.shoal{here}"),
        ("", f"shoal watch 'node/+/up/#'{here}"),
        ("end", "Ctrl-C"),
    ]
    console.print(facts_table(rows))


async def _first_to_end(local: "LocalFleet") -> str:
    """Waits until the broker or the cloud ends by itself; says which, with the end of its log."""
    while True:
        for process in (local.broker, local.cloud):
            if not process.running:
                return f"the {process.name} ended by itself; its log ends with:\n{process.tail()}"
        await asyncio.sleep(REFRESH_S)


async def _watch(local: "LocalFleet", console: "Console", quiet: bool) -> None:
    from rich.live import Live
    from rich.text import Text

    from cloud.cli.show import nodes_table
    from cloud.client import connected

    if quiet or not console.is_terminal:
        await asyncio.Event().wait()
    config = read_config(local.workspace.config("operator"))
    async with connected(config, app_id(config), budget_s=REFRESH_S) as fleet:
        with Live(Text("the cloud starts ..."), console=console, auto_refresh=False) as live:
            while True:
                try:
                    live.update(nodes_table(await fleet.nodes()), refresh=True)
                except RequestFailed:
                    live.update(Text("waiting for the cloud to answer ..."), refresh=True)
                await asyncio.sleep(REFRESH_S)
