"""Commands that read the fleet: nodes, node, overview, models, deployments, why."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import RenderableType

from cloud.cli import show
from cloud.cli.options import (
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    app_id,
    emit,
    load_config,
    run,
)
from cloud.client import Fleet, connected

T = TypeVar("T")


def read(app: typer.Typer) -> None:
    """Add the reading commands."""
    app.command(epilog="Example: shoal nodes --json | jq '.[].node'")(nodes)
    app.command(epilog="Example: shoal node edge-1")(node)
    app.command(epilog="Example: shoal overview")(overview)
    app.command(epilog="Example: shoal models")(models)
    app.command(epilog="Example: shoal deployments")(deployments)
    app.command(epilog="Example: shoal why last")(why)


def _ask(
    config: Path | None,
    broker: str | None,
    fleet: str | None,
    question: Callable[[Fleet], Awaitable[T]],
) -> T:
    settings = load_config(config, broker, fleet)

    async def asked() -> T:
        async with connected(settings, app_id(settings)) as client:
            return await question(client)

    return run(asked())


def _show(answer: T, as_json: bool, render: Callable[[T], RenderableType]) -> None:
    emit(answer, as_json, lambda: render(answer))


def nodes(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the nodes: status, last heartbeat, load, models."""
    _show(_ask(config, broker, fleet, lambda client: client.nodes()), json, show.nodes_table)


def node(
    name: Annotated[str, typer.Argument(help="The node's id.")],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one node: the evidence for its status, its machine, its models."""
    _show(_ask(config, broker, fleet, lambda client: client.node(name)), json, show.node_page)


def overview(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the fleet in a few numbers."""
    _show(_ask(config, broker, fleet, lambda client: client.overview()), json, show.overview_page)


def models(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the catalog of models."""
    _show(_ask(config, broker, fleet, lambda client: client.models()), json, show.models_table)


def deployments(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List what is deployed where, and how far it is."""
    _show(_ask(config, broker, fleet, lambda client: client.deployments()), json, show.deployments_table)


def why(
    request: Annotated[
        str, typer.Argument(help="The request that 'shoal infer' printed, or 'last'.")
    ] = "last",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Explain why a request went to the node it went to."""
    _show(_ask(config, broker, fleet, lambda client: client.why(request)), json, show.why_page)
