"""Commands that read the fleet: nodes, node, overview, models, deployments, why."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cloud.cli.options import (
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    ask,
    emit,
    examples,
    load_config,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.client import Fleet

T = TypeVar("T")


def read(app: typer.Typer) -> None:
    """Add the reading commands."""
    app.command(epilog=examples("shoal nodes", "shoal nodes --json | jq '.[].node'"))(nodes)
    app.command(epilog=examples("shoal node edge-1"))(node)
    app.command(epilog=examples("shoal overview"))(overview)
    app.command(epilog=examples("shoal models"))(models)
    app.command(epilog=examples("shoal deployments"))(deployments)
    app.command(epilog=examples("shoal why last", "shoal why operator/3f2a8c611"))(why)


def _answer(
    config: Path | None,
    broker: str | None,
    fleet: str | None,
    json: bool,
    question: Callable[["Fleet"], Awaitable[T]],
    render: Callable[[T], "RenderableType"],
) -> None:
    answer = ask(load_config(config, broker, fleet), question)
    emit(answer, json, lambda: render(answer))


def nodes(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the nodes: status, last heartbeat, load, models."""
    from cloud.cli.show import nodes_table

    _answer(config, broker, fleet, json, lambda client: client.nodes(), nodes_table)


def node(
    name: Annotated[str, typer.Argument(help="The node's id.")],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one node: the evidence for its status, its machine, its models."""
    from cloud.cli.show import node_page

    _answer(config, broker, fleet, json, lambda client: client.node(name), node_page)


def overview(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the fleet in a few numbers."""
    from cloud.cli.show import overview_page

    _answer(config, broker, fleet, json, lambda client: client.overview(), overview_page)


def models(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the catalog of models."""
    from cloud.cli.show import models_table

    _answer(config, broker, fleet, json, lambda client: client.models(), models_table)


def deployments(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List what is deployed where, and how far it is."""
    from cloud.cli.show import deployments_table

    _answer(config, broker, fleet, json, lambda client: client.deployments(), deployments_table)


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
    from cloud.cli.show import why_page

    _answer(config, broker, fleet, json, lambda client: client.why(request), why_page)
