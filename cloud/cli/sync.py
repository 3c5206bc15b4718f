"""``shoal sync``: keys that the cloud and its devices share."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
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
from shared.errors import ConfigError
from shared.sync import ConsistencyLevel, Required, SyncStrategy

if TYPE_CHECKING:
    from cloud.client import Fleet
    from shared.sync_views import KeyView, PutResult

HELP = """Keys that the cloud and its devices share: put, get, watch; who has what; where writers disagree.

A key is STRONG (one order for the whole fleet, on the disks of its targets before it is a success), EVENTUAL
(merged, works offline) or WEAK (sent once, never asked about). docs/sync.md says what each promises.
"""

LevelOption = Annotated[
    ConsistencyLevel | None, typer.Option(help="What the write waits for. A new key: eventual.")
]
StrategyOption = Annotated[SyncStrategy | None, typer.Option(help="Who moves it, and when. A new key: push.")]
RequiredOption = Annotated[Required, typer.Option(help="How many targets a strong write waits for.")]
ExpectedOption = Annotated[int, typer.Option(help="Strong: only at this revision; 0: only if it is new.")]
ToOption = Annotated[
    str, typer.Option("--to", help="Node ids (a,b); without, a known key keeps its own.", show_default=False)
]
ConfigStateOption = Annotated[
    bool, typer.Option("--desired", help="It is one key of the nodes' configuration: their desired state.")
]
DeadlineOption = Annotated[float, typer.Option("--deadline", min=0.1, help="Seconds to wait.")]


def sync(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="sync",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        epilog=examples(
            "shoal sync put room/limits '{\"max\": 21.5}' --to edge-1,edge-2", "shoal sync get room/limits"
        ),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.command(
        epilog=examples(
            "shoal sync put room/limits '{\"max\": 21.5}' --to edge-1,edge-2",
            "shoal sync put room/limits '{\"max\": 22}' --level strong --expected 3",
            "shoal sync put interval 30 --desired --to edge-1",
        )
    )(put)
    group.command(epilog=examples("shoal sync get room/limits", "shoal sync get desired/edge-1/interval"))(
        get
    )
    group.command("list", epilog=examples("shoal sync list", "shoal sync list room/ --json"))(list_)
    group.command(epilog=examples("shoal sync erase room/limits"))(erase)
    group.command(epilog=examples("shoal sync model digits --to edge-1,edge-2 --level strong"))(model)
    group.command(
        epilog=examples("shoal sync status", "shoal sync status operator.6917.1", "shoal sync status --json")
    )(status)
    group.command(epilog=examples("shoal sync conflicts", "shoal sync conflicts room/ --json"))(conflicts)
    group.command(epilog=examples("shoal sync watch room/", "shoal sync watch --json"))(watch)
    app.add_typer(group)


def put(
    key: Annotated[str, typer.Argument(help="a-z, 0-9 and . _ / -")],
    value: Annotated[str, typer.Argument(help="JSON, or any text.")],
    to: ToOption = "",
    level: LevelOption = None,
    strategy: StrategyOption = None,
    required: RequiredOption = Required.ALL,
    expected: ExpectedOption = -1,
    priority: Annotated[int, typer.Option(min=0, max=9, help="9 is sent first.")] = 5,
    desired: ConfigStateOption = False,
    operation: Annotated[
        str,
        typer.Option(help="EPOCH.SEQUENCE of a write that had no answer, to repeat it.", show_default=False),
    ] = "",
    deadline_s: DeadlineOption = 10.0,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Write a value for these nodes; returns as the key's level promises."""
    from cloud.sync.client import How

    how = How(level, strategy, required, expected, priority, operation=_operation(operation))
    content = _value(value)

    async def asked(client: "Fleet") -> "PutResult":
        return await client.sync.put(key, content, _nodes(to), how, config=desired, budget_s=deadline_s)

    _emit_done(ask(load_config(config, broker, fleet), asked, deadline_s), json)


def get(
    key: Annotated[str, typer.Argument(help="The key, also desired/NODE/KEY and reported/NODE/KEY.")],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show one key: its value, its level, and who lacks the newest state."""
    from cloud.cli.sync_show import key_page

    found = ask(load_config(config, broker, fleet), lambda client: client.sync.get(key))
    emit(found, json, lambda: key_page(found))


def list_(
    prefix: Annotated[str, typer.Argument(help="How the keys begin.")] = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """List the keys."""
    from cloud.cli.sync_show import keys_table

    found = ask(load_config(config, broker, fleet), lambda client: client.sync.keys(prefix))
    emit(found, json, lambda: keys_table(found))


def erase(
    key: Annotated[str, typer.Argument(help="The key.")],
    to: ToOption = "",
    expected: ExpectedOption = -1,
    desired: ConfigStateOption = False,
    deadline_s: DeadlineOption = 10.0,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Erase a key everywhere."""
    from cloud.sync.client import How

    async def asked(client: "Fleet") -> "PutResult":
        how = How(expected=expected)
        return await client.sync.erase(key, _nodes(to), how, config=desired, budget_s=deadline_s)

    _emit_done(ask(load_config(config, broker, fleet), asked, deadline_s), json)


def model(
    name: Annotated[str, typer.Argument(help="NAME or NAME@VERSION of the catalog.")],
    to: Annotated[str, typer.Option("--to", help="Node ids (a,b).")],
    level: LevelOption = None,
    strategy: StrategyOption = None,
    required: RequiredOption = Required.ALL,
    deadline_s: DeadlineOption = 60.0,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Have these nodes hold a model; strong: returns when enough of them are ready."""
    from cloud.sync.client import How

    how = How(level, strategy, required)

    async def asked(client: "Fleet") -> "PutResult":
        return await client.sync.model(name, _nodes(to), how, budget_s=deadline_s)

    _emit_done(ask(load_config(config, broker, fleet), asked, deadline_s), json)


def status(
    task: Annotated[str, typer.Argument(help="A task's id; without, the newest are listed.")] = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show writes on their way: state, attempts, each target's acknowledgement, lag, conflicts."""
    from cloud.cli.sync_show import task_page, tasks_table

    settings = load_config(config, broker, fleet)
    if task:
        one = ask(settings, lambda client: client.sync.status(task))
        emit(one, json, lambda: task_page(one))
    else:
        found = ask(settings, lambda client: client.sync.tasks())
        emit(found, json, lambda: tasks_table(found))


def conflicts(
    prefix: Annotated[str, typer.Argument(help="How the keys begin.")] = "",
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show fields on which writers disagree: what readers see, and what lost. Writing a field settles it."""
    from cloud.cli.sync_show import conflicts_table

    found = ask(load_config(config, broker, fleet), lambda client: client.sync.conflicts(prefix))
    emit(found, json, lambda: conflicts_table(found))


def watch(
    prefix: Annotated[str, typer.Argument(help="How the keys begin.")] = "",
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between looks.")] = 0.5,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Print keys as they change, a line each, until interrupted."""

    async def watched(client: "Fleet") -> None:
        seen: dict[str, KeyView] = {}
        while True:
            found = {one.key: one for one in await client.sync.keys(prefix)}
            for key, one in found.items():
                if _differs(seen.get(key), one):
                    _print_change(one, json)
            seen = found
            await asyncio.sleep(every_s)

    ask(load_config(config, broker, fleet), watched)


def _differs(before: "KeyView | None", now: "KeyView") -> bool:
    what = ("value", "revision", "erased", "conflicts", "changed_at_unix_ms")
    return before is None or any(getattr(before, name) != getattr(now, name) for name in what)


def _print_change(one: "KeyView", as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(one).decode() + "\n")
    else:
        value = "erased" if one.erased else msgspec.json.encode(one.value).decode()
        sys.stdout.write(f"{one.key}  {value}\n")
    sys.stdout.flush()


def _emit_done(done: "PutResult", as_json: bool) -> None:
    from cloud.cli.sync_show import done_text

    emit(done, as_json, lambda: done_text(done))


def _nodes(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _value(text: str) -> Any:
    """JSON where it is; any other text is itself."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _operation(text: str) -> tuple[int, int]:
    epoch, _, sequence = text.rpartition(".")
    epoch = epoch.rpartition(".")[2]  # a task's id begins with the application's name
    if text and not (epoch.isdigit() and sequence.isdigit()):
        raise ConfigError(f"--operation {text!r}: write EPOCH.SEQUENCE, or the task's whole id")
    return (int(epoch), int(sequence)) if text else (0, 0)
