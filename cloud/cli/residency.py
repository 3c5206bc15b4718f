"""``shoal residency``: what data may be where, what would change under another policy, where a node is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from broker.settings import read_config
from cloud.cli.options import (
    WORKSPACE,
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    ask,
    emit,
    examples,
    load_config,
)
from shared.config import Config
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shared.audit_views import ResidencyView, Ruling
    from shared.residency import PolicyText

HELP = """What data may be where.

A policy is a TOML file, named in the cloud's configuration: [residency] policy = "policy.toml".
Without one all data are public. docs/residency.md explains the rest.
"""
CLOUD_FILE = WORKSPACE / "cloud.toml"  # written by `shoal up`

CloudConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The cloud's TOML file (default: .shoal/cloud.toml, if it is there).",
        show_default=False,
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", help="A policy to ask, instead of the cloud's own.", show_default=False),
]


def residency(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="residency",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        epilog=examples("shoal residency show", "shoal residency check patients/7"),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(epilog=examples("shoal residency show", "shoal residency show --json | jq .places"))(show)
    group.command(
        epilog=examples(
            "shoal residency check patients/7",
            "shoal residency check patients/7 --node edge-1 --value '{\"age\": 36}'",
            "shoal residency check patients/7 --policy next.toml --region us --region eu/de",
        )
    )(check)
    group.command(
        name="dry-run",
        epilog=examples("shoal residency dry-run next.toml", "shoal residency dry-run next.toml --all"),
    )(dry_run)
    group.command(
        epilog=examples("shoal residency place edge-1 eu/de/berlin", "shoal residency place edge-1 --nowhere")
    )(place)
    app.add_typer(group)


def show(
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the policy in force, where each node is, and how the audit log is."""
    view = ask(load_config(config, broker, fleet), lambda client: client.residency())
    emit(view, json, lambda: _view_page(view))


def check(
    key: Annotated[str, typer.Argument(help="A key, as in 'shoal sync put'; model/NAME for a model.")],
    node: Annotated[
        list[str] | None, typer.Option("--node", help="Only these; all enrolled ones otherwise.")
    ] = None,
    region: Annotated[
        list[str] | None, typer.Option("--region", help="A node that were enrolled there.")
    ] = None,
    value: Annotated[
        str | None,
        typer.Option(
            help="JSON: what the fields say. Without it, data have every field.", show_default=False
        ),
    ] = None,
    policy: PolicyOption = None,
    config: CloudConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say for each node whether data of this key may be there, and why."""
    import time

    from cloud.residency.core import place_in
    from cloud.residency.views import rulings
    from shared.classify import UNSEEN
    from shared.residency import Place

    folder, text = _policy(config, policy)
    regions = _regions(folder)
    places = [Place("", where) for where in region or ()]
    names = node or ([] if region else sorted(regions))
    places += [place_in(text, name, regions) for name in names]
    if not places:
        raise ConfigError("no node is enrolled in a region; name one with --node or --region")
    found = rulings(text, key, places, time.time(), UNSEEN if value is None else _json(value))
    emit(found, json, lambda: _rulings_table(found))


def dry_run(
    policy: Annotated[Path, typer.Argument(help="The policy to try.")],
    every: Annotated[bool, typer.Option("--all", help="List what stays the same, too.")] = False,
    config: CloudConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what would have gone where: the log's questions, asked of another policy.

    Needs the cloud's data folder, and changes nothing. The log holds no values:
    data are taken to be as sensitive as they were, or as they can be at most.
    """
    import time

    from cloud.residency.files import all_lines
    from cloud.residency.policy import read_policy
    from cloud.residency.views import dry_run as replayed
    from shared.audit import record_of

    folder = residency_folder(config)
    found = replayed(read_policy(policy), map(record_of, all_lines(folder / "audit")), time.time())
    changed = [one for one in found if every or one.allow != (one.before == "allowed")]
    emit(changed, json, lambda: _dry_run_page(changed, len(found)))


def place(
    node: Annotated[str, typer.Argument(help="The node's id.")],
    region: Annotated[
        str, typer.Argument(help="Where it is, such as eu/de/berlin.", show_default=False)
    ] = "",
    nowhere: Annotated[bool, typer.Option("--nowhere", help="Take it out.")] = False,
    config: CloudConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Enrol a node in a region. The running cloud takes it over within seconds."""
    from cloud.residency.places import PLACES_FILE, checked_region, write_places
    from shared.ids import is_id

    if not is_id(node):
        raise ConfigError(f"{node[:80]!r} is not a node's id: 1 to 64 of a-z, 0-9 and '-'")
    if nowhere == bool(region):
        raise ConfigError("name a region, or --nowhere")
    write_places(residency_folder(config) / PLACES_FILE, {node: checked_region(region) if region else ""})
    result = {"node": node, "region": region}
    emit(result, json, lambda: f"{node}: {region or 'nowhere'}")


# Where things are -----------------------------------------------------------------------------------


def cloud_config(config: Path | None) -> Config:
    """The cloud's own settings."""
    if config is None and CLOUD_FILE.exists():
        config = CLOUD_FILE
    return read_config(config, {})


def residency_folder(config: Path | None) -> Path:
    """The cloud's folder for all of this."""
    from cloud.residency.service import FOLDER

    return Path(cloud_config(config).cloud.data).absolute() / FOLDER


def _policy(config: Path | None, policy: Path | None) -> "tuple[Path, PolicyText]":
    """The cloud's folder, and the policy to ask."""
    from cloud.residency.policy import read_policy
    from shared.residency import OPEN

    named = policy or (Path(own) if (own := cloud_config(config).residency.policy) else None)
    return residency_folder(config), read_policy(named) if named else OPEN.text


def _regions(folder: Path) -> dict[str, str]:
    from cloud.residency.places import PLACES_FILE, read_places

    return read_places(folder / PLACES_FILE)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(f"--value is not JSON: {error}") from None


# For people -----------------------------------------------------------------------------------------


def _view_page(view: "ResidencyView") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from cloud.cli.show import facts_table

    policy, head = view.policy, view.head
    rules = f"{len(policy.data)} classes, {len(policy.permit)} permits, {len(policy.forbid)} forbids"
    rows: list[tuple[str, str | Text]] = [
        ("policy", f"version {policy.version}: {rules}" if policy.version else "none: all data are public"),
        ("cloud", view.cloud_region or "in no region"),
        ("audit log", f"{view.records} records, {view.waiting} waiting"),
        ("head", f"number {head.number} over {head.size} records of log {head.log}" if head else "none yet"),
        ("withheld", f"{view.withheld} messages that were not published"),
        *(("alarm", Text(one, style="red")) for one in view.alarms),
    ]
    places = facts_table([(node, region) for node, region in view.places.items()])
    return Group(facts_table(rows), Text(f"\n{view.enrolled} nodes in a region"), places)


def _rulings_table(rulings: "Sequence[Ruling]", *, before: bool = False) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("key", "node", "region", *(("was",) if before else ()), "now", "why"):
        table.add_column(column)
    for one in rulings:
        answer = Text("allowed", style="green") if one.allow else Text("refused", style="red")
        why = f"{one.why}: {one.rule}" if one.rule else one.why
        cells = [one.key, one.node or "-", one.region or "nowhere", *((one.before,) if before else ())]
        table.add_row(*map(Text, cells), answer, Text(why))
    return table


def _dry_run_page(changed: "Sequence[Ruling]", asked: int) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    differing = sum(one.allow != (one.before == "allowed") for one in changed)
    summary = Text(f"{differing} of {asked} answers in the log would be another one")
    return Group(summary, _rulings_table(changed, before=True)) if changed else summary
