"""``shoal audit``: the log of every decision about where data may be; is it whole, and what does it prove?"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from cloud.cli.residency import CloudConfigOption
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.client import Fleet
    from cloud.residency.verify import Verdict
    from shared.audit import Record
    from shared.audit_views import ProofView
    from shared.transparency import Head

HELP = """The audit log: who decided what about which data, without any of the data.

It is a Merkle tree (RFC 6962) whose heads the cloud signs and every device keeps.
"""
WITNESSES_S = 1.0
EXIT_BAD = 1


def audit(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="audit",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        epilog=examples("shoal audit show --refused", "shoal audit verify --witnesses"),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(
        epilog=examples(
            "shoal audit show",
            "shoal audit show --last 500 --refused --key patients/7",
            "shoal audit show --json | jq '.[].outcomes'",
        )
    )(show)
    group.command(
        epilog=examples(
            "shoal audit verify",
            "shoal audit verify --witnesses      # compare with the heads that devices hold",
            "shoal audit verify --folder /copy/of/audit --key 99822d52...",
        )
    )(verify)
    group.command(
        epilog=examples(
            "shoal audit prove 17                # that record 17 is in the log",
            "shoal audit prove 17 --size 4000",
            "shoal audit prove --from 3000       # that the first 3,000 records are still its beginning",
        )
    )(prove)
    app.add_typer(group)


def show(
    last: Annotated[int, typer.Option(min=1, max=100_000, help="How many records to look at.")] = 100,
    key: Annotated[str, typer.Option(help="Only of this key.", show_default=False)] = "",
    node: Annotated[str, typer.Option(help="Only about this node.", show_default=False)] = "",
    refused: Annotated[bool, typer.Option("--refused", help="Only where something was refused.")] = False,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the newest records."""

    async def newest(client: "Fleet") -> "list[Record]":
        page = await client.audit(-last)
        found = list(page.records)
        while page.records and found[-1].index + 1 < page.size:
            page = await client.audit(found[-1].index + 1)
            found += page.records
        return found

    records = ask(load_config(config, broker, fleet), newest)
    chosen = [one for one in records if _is_about(one, key, node, refused)]
    emit(chosen, json, lambda: _records_table(chosen))


def _is_about(record: "Record", key: str, node: str, refused: bool) -> bool:
    if key and (record.action is None or record.action.key != key):
        return False
    if refused and all(one.allow for one in record.outcomes):
        return False
    return not node or any(place.node == node for one in record.outcomes for place in one.places)


def verify(
    witnesses: Annotated[
        bool, typer.Option("--witnesses", help="Compare with the heads that devices hold (needs the broker).")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="The log's folder, such as a copy.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="The cloud's public key, 64 hex digits.", show_default=False)
    ] = None,
    config: CloudConfigOption = None,
    broker: BrokerOption = None,
    json: JsonOption = False,
) -> None:
    """Read the whole log and say whether anybody changed it. Exits with 1 if so.

    Finds records that were edited, removed, added or moved, heads that were
    changed, and a log that was cut. That a log was replaced together with its
    heads only somebody else can know: --witnesses asks the devices.
    """
    from cloud.residency.verify import verify as checked

    place = folder or _folder(config)
    if not place.is_dir():
        raise ConfigError(f"{place} is no folder with an audit log; --config or --folder names one")
    heads = _witnessed(broker) if witnesses else []
    try:
        verdict = checked(place, key or _public_key(config), heads)
    except ValueError:
        raise ConfigError("--key must be an Ed25519 public key: 64 hex digits") from None
    emit(verdict, json, lambda: _verdict_page(verdict))
    if not verdict.good:
        sys.exit(EXIT_BAD)


def prove(
    index: Annotated[int | None, typer.Argument(help="The record to prove.", show_default=False)] = None,
    old: Annotated[
        int | None,
        typer.Option("--from", help="Prove that so many records are the beginning.", show_default=False),
    ] = None,
    size: Annotated[int, typer.Option(help="Size of the tree; 0: everything there is.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="The log's folder.", show_default=False)] = None,
    config: CloudConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print a proof that whoever holds a head can check without the log (RFC 9162, section 2.1)."""
    from cloud.residency.views import NoSuchRecord, prove_from

    if (index is None) == (old is None):
        raise ConfigError("name a record, or --from a number of records")
    try:
        proof = prove_from(folder or _folder(config), index=index, old=old, size=size)
    except NoSuchRecord as error:
        raise ConfigError(str(error)) from None
    emit(proof, json, lambda: _proof_page(proof))


# Where things are -----------------------------------------------------------------------------------


def _folder(config: Path | None) -> Path:
    from cloud.cli.residency import residency_folder
    from cloud.residency.service import AUDIT_FOLDER

    return residency_folder(config) / AUDIT_FOLDER


def _public_key(config: Path | None) -> str:
    from cloud.artifacts.keys import KEY_FILE, public_hex, signing_key
    from cloud.cli.residency import cloud_config

    data = Path(cloud_config(config).cloud.data).absolute()
    if not (data / KEY_FILE).exists():
        raise ConfigError(f"{data} has no {KEY_FILE}; give the cloud's public key with --key")
    return public_hex(signing_key(data))


def _witnessed(broker: str | None) -> "list[tuple[str, Head]]":
    """Each device's head, as the device itself has published it: the cloud is not asked."""
    return ask(load_config(None, broker, None), _hear_witnesses)


async def _hear_witnesses(client: "Fleet") -> "list[tuple[str, Head]]":
    import asyncio

    from broker.bus import Delivery
    from shared.errors import RemoteError
    from shared.topics import WITNESS
    from shared.wire import decode

    heads: dict[str, Head] = {}

    def take(delivery: Delivery) -> None:
        ids = WITNESS.ids(delivery.topic)
        try:
            seen = decode(WITNESS, delivery.payload)
        except RemoteError:
            return
        if ids is not None and seen.head is not None:
            heads[ids["node"]] = seen.head

    client.bus.subscribe([WITNESS.filter], take)
    await asyncio.sleep(WITNESSES_S)
    return sorted(heads.items())


# For people -----------------------------------------------------------------------------------------


def _records_table(records: "Sequence[Record]") -> "RenderableType":
    import time

    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("#", "when", "point", "by", "key", "decision"):
        table.add_column(column, overflow="fold")
    for one in records:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.at_unix_s))
        cells = (str(one.index), when, one.point, one.by, one.action.key if one.action else "-")
        table.add_row(*map(Text, cells), _decisions_text(one))
    return table


def _decisions_text(record: "Record") -> "RenderableType":
    from rich.text import Text

    text = Text(record.detail)
    for one in record.outcomes:
        places = ", ".join(f"{place.node or 'all'} ({place.region or 'nowhere'})" for place in one.places)
        why = f"{one.why}: {one.rule}" if one.rule else str(one.why)
        text.append(f"{'allowed' if one.allow else 'refused'} ", style="green" if one.allow else "red")
        text.append(f"{places}: {why}  ")
    return text


def _verdict_page(verdict: "Verdict") -> "RenderableType":
    from rich.text import Text

    from cloud.cli.show import facts_table

    state = Text("whole", style="green") if verdict.good else Text("NOT as it was", style="red")
    rows: list[tuple[str, str | Text]] = [
        ("log", verdict.log),
        ("is", state),
        ("records", f"{verdict.records}, of which {verdict.covered} are under a signed head"),
        ("heads", f"{verdict.heads}, and {verdict.witnesses} in the hands of devices"),
        *(("problem", Text(one, style="red")) for one in verdict.problems),
    ]
    return facts_table(rows)


def _proof_page(proof: "ProofView") -> "RenderableType":
    from cloud.cli.show import facts_table

    rows = [("tree", f"{proof.size} records"), ("root", proof.root)]
    if proof.index >= 0:
        rows += [("record", str(proof.index)), ("leaf", proof.leaf)]
    else:
        rows += [("beginning", f"{proof.old} records"), ("its root", proof.old_root)]
    return facts_table([*rows, *((f"path {number}", one) for number, one in enumerate(proof.path))])
