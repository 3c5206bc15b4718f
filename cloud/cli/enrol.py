"""``shoal enrol``: a password and a configuration file for a device or a program of an existing fleet."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from broker.settings import read_config
from cloud.cli.options import WORKSPACE, JsonOption, emit, examples
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

RoleName = Literal["device", "app", "operator", "cloud"]


def enrol(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples(
        "shoal enrol edge-9 --label region=eu && shoal edge --config .shoal/edge-9.toml",
        "shoal enrol edge-9 --region eu/de/berlin    # data that may not leave the EU may go there",
        "shoal enrol thermometer --show      # any MQTT device: use the password it prints",
        "shoal enrol dashboard --role app",
        "shoal enrol ingest-2 --role cloud   # one more worker for telemetry: 'shoal ingest'",
    )
    app.command(name="enrol", epilog=epilog)(_enrol)


def _enrol(
    name: Annotated[str, typer.Argument(help="The node's id, or the program's user name.")],
    role: Annotated[RoleName, typer.Option(help="What it may do on the broker.")] = "device",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="name=value, for 'shoal deploy --to'.")
    ] = None,
    region: Annotated[
        str,
        typer.Option(help="Where the device is, for 'shoal residency', as in eu/de.", show_default=False),
    ] = "",
    broker: Annotated[
        str | None,
        typer.Option("--broker", "-b", help="Address as the device sees it.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Its data folder on its machine.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option(help="The fleet's folder, made by 'shoal up'.")] = WORKSPACE,
    renew: Annotated[bool, typer.Option("--renew", help="Give a known name a new password.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the password as well.")] = False,
    json: JsonOption = False,
) -> None:
    """Give a new device or program its password and configuration, while the fleet runs."""
    from broker.acl import Role
    from broker.process import labels
    from cloud.local.workspace import Workspace
    from cloud.residency.places import checked_region, write_places

    operator = folder / "operator.toml"
    if not operator.exists():
        raise ConfigError(f"{operator} is missing: name the folder of a fleet with --folder, or 'shoal up'")
    known = read_config(operator)
    workspace = Workspace(folder, known.fleet)
    device: dict[str, Any] = {"labels": labels(label) or {}}
    if data is not None:
        device["data"] = str(data)
    if region:
        checked_region(region)
    password = workspace.enrol(name, Role(role), broker or known.broker.url, device, renew=renew)
    result = {"name": name, "role": role, "config": str(workspace.config(name))}
    if region:
        write_places(workspace.places, {name: region})
        result["region"] = region
    if show:
        result["password"] = password
    emit(result, json, lambda: _page(result))


def _page(result: dict[str, str]) -> "RenderableType":
    from cloud.cli.show import facts_table

    rows = [(key, value) for key, value in result.items()]
    if result["role"] == "device":
        rows.append(("next", f"shoal edge --config {result['config']}"))
    return facts_table(rows)
