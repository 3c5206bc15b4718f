"""``shoal watch``: what travels on the broker, decoded."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cloud.cli.options import (
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    ask,
    examples,
    load_config,
)
from shared.errors import ConfigError, RemoteError, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

    from broker.bus import Delivery
    from cloud.client import Fleet

QUEUE_MAX = 10_000
BYTES_SHOWN = 64
CHECK_S = 1.0


def watch(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        name="watch",
        epilog=examples("shoal watch 'node/+/up/#'", "shoal watch 'node/edge-1/#' --count 10 --json"),
    )(_watch)


def _watch(
    filter: Annotated[str, typer.Argument(help="Topic filter under the fleet's root.")] = "#",
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="Stop after so many messages (0: never).")
    ] = 0,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Print messages as they pass, decoded; one line each, or one JSON object a line."""
    from rich.console import Console

    from shared.topics import root

    settings, console = load_config(config, broker, fleet), Console(soft_wrap=True, highlight=False)
    wanted = filter.removeprefix(f"{root(settings.fleet)}/")  # the full topic is welcome as well

    async def watched(client: "Fleet") -> None:
        queue: asyncio.Queue[Delivery] = asyncio.Queue(QUEUE_MAX)
        try:
            client.bus.subscribe([wanted], lambda delivery: _offer(queue, delivery))
        except ValueError as error:
            raise ConfigError(f"{filter!r} is not a topic filter: {error}") from None
        seen = 0
        while not count or seen < count:
            _print(described(await _next(queue, client)), json, console)
            seen += 1

    ask(settings, watched)


async def _next(queue: "asyncio.Queue[Delivery]", client: "Fleet") -> "Delivery":
    """The next message. Raises :class:`Unavailable` when the broker did not let us subscribe."""
    while True:
        try:
            async with asyncio.timeout(CHECK_S):
                return await queue.get()
        except TimeoutError:
            link = client.bus.link
            if link.up and link.reason:
                raise Unavailable(f"the broker refuses: {link.reason}") from None


def _offer(queue: "asyncio.Queue[Delivery]", delivery: "Delivery") -> None:
    """A terminal that can't keep up loses lines; it must not hold up the broker."""
    if not queue.full():
        queue.put_nowait(delivery)


def described(delivery: "Delivery") -> dict[str, Any]:
    """One message as JSON can say it: topic, type, message (or why it can't be read)."""
    from shared.topics import find
    from shared.wire import decode

    line: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "topic": delivery.topic,
        "bytes": len(delivery.payload),
        "retained": delivery.retained,
    }
    found = find(delivery.topic)
    if found is None:
        return {**line, "type": None, "error": "no topic of the platform"}
    if not delivery.payload:
        return {**line, "type": None, "message": "cleared"}
    try:
        message = decode(found[0], delivery.payload)
    except RemoteError as error:
        return {**line, "type": found[0].message.__name__, "error": str(error)}
    return {**line, "type": type(message).__name__, "message": _plain(message)}


def _plain(value: Any) -> Any:
    """The message with packed parts opened and long bytes cut short."""
    if isinstance(value, msgspec.Raw):
        return _plain(msgspec.msgpack.decode(value))
    if isinstance(value, msgspec.Struct):
        fields = value.__struct_fields__
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>" if len(value) > BYTES_SHOWN else value.hex()
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _print(line: dict[str, Any], as_json: bool, console: "Console") -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()
        return
    from rich.text import Text

    body = msgspec.json.encode(line.get("message", line.get("error"))).decode()
    kept = Text(" kept", style="dim") if line["retained"] else Text("")
    style = "red" if "error" in line else ""
    console.print(
        Text.assemble((line["at"][11:23], "dim"), " ", (line["topic"], "bold"), kept, " ", (body, style))
    )
