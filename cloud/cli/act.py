"""Commands that change something or ask for work: deploy, infer, command."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from shared.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.text import Text

    from cloud.client import Fleet
    from shared.deploys import DeployResult

Verb = Literal["ping", "announce", "drain"]
SUFFIX = ".shoal"
WAIT_S_MAX = 120.0
_POLL_S = 0.1


def act(app: typer.Typer) -> None:
    """Add the acting commands."""
    app.command(
        epilog=examples(
            "shoal deploy examples/digits/digits.shoal --wait",
            "shoal deploy digits --to region=eu",
            "shoal deploy digits --to edge-1,edge-2 --remove",
        )
    )(deploy)
    app.command(epilog=examples("shoal infer digits --input digit.npy", "shoal infer echo -i question.json"))(
        infer
    )
    app.command(epilog=examples("shoal command edge-1 ping"))(command)


def deploy(
    model: Annotated[str, typer.Argument(help="A .shoal file, or the name of a model in the catalog.")],
    to: Annotated[str, typer.Option("--to", help="all, node ids (a,b), or label=value terms.")] = "all",
    remove: Annotated[bool, typer.Option("--remove", help="Withdraw the model instead.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is ready on the nodes.")] = False,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Put a model on the nodes that match, now and whenever one joins."""
    package = _read_package(Path(model)) if model.endswith(SUFFIX) else None

    async def deployed(client: "Fleet") -> "DeployResult":
        with _bars(quiet=json or (package is None and not wait)) as bars:
            name = model if package is None else await _uploaded(client, model, package, bars)
            result = await client.deploy(name, to, remove=remove)
            if wait and not remove:
                await _until_ready(client, result, bars)
        return result

    result = ask(load_config(config, broker, fleet), deployed)
    emit(result, json, lambda: _deployed_text(result))


def _read_package(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from None


def _bars(*, quiet: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


async def _uploaded(client: "Fleet", label: str, package: bytes, bars: "Progress") -> str:
    from cloud.cli.show import bytes_text

    task = bars.add_task(f"sending {label}", total=len(package), count=bytes_text(len(package)))
    state = await client.upload(package, lambda have: bars.update(task, completed=have))
    return state.name


async def _until_ready(client: "Fleet", result: "DeployResult", bars: "Progress") -> None:
    """Raises :class:`Unavailable` when a node refuses the model, or the wait takes too long."""
    task = bars.add_task(f"{result.model} gets ready", total=result.matched, count=f"0/{result.matched}")
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            while (ready := await _ready(client, result)) < result.matched:
                bars.update(task, completed=ready, count=f"{ready}/{result.matched}")
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise Unavailable(
            f"not ready everywhere within {WAIT_S_MAX:g} s; 'shoal deployments' shows who is missing"
        ) from None
    bars.update(task, completed=result.matched, count=f"{result.matched}/{result.matched}")


async def _ready(client: "Fleet", result: "DeployResult") -> int:
    for rule in await client.deployments():
        if (rule.model, rule.target) == (result.model, result.target):
            for node, reason in sorted(rule.failures.items()):
                raise Unavailable(f"{len(rule.failures)} nodes failed; {node}: {reason}")
            return rule.ready
    return 0


def _deployed_text(result: "DeployResult") -> "Text":
    from rich.text import Text

    nodes = ", ".join(result.nodes) or "no node yet; it goes to those that join"
    verb = "is withdrawn from" if result.removed else "goes to"
    text = Text(f"{result.model} version {result.version} {verb} {result.target!r}: {nodes}")
    if result.unknown_nodes:
        text.append(f"\nnobody has seen: {', '.join(result.unknown_nodes)} (misspelt?)", style="yellow")
    return text


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    input: Annotated[
        Path, typer.Option("--input", "-i", help="A .npy file (with its batch axis), or .json.")
    ],
    function: Annotated[str, typer.Option(help="The function of the module.")] = "run",
    node: Annotated[str, typer.Option(help="Ask this node instead of the best one.")] = "",
    deadline_s: Annotated[
        float, typer.Option("--deadline", min=0.001, help="Seconds until the answer is useless.")
    ] = 10.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result as .npy.")] = None,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the fleet for an inference and print the result."""
    from cloud.cli import arrays

    array, document = arrays.read_input(input)
    answer = ask(
        load_config(config, broker, fleet),
        lambda client: client.infer(
            model, *(() if array is None else (array,)), json=document, function=function, node=node
        ),
        deadline_s,
    )
    if output is not None:
        arrays.write_output(output, answer)
    emit(arrays.answer_json(answer), json, lambda: arrays.answer_table(answer))


def command(
    node: Annotated[str, typer.Argument(help="The node's id.")],
    verb: Annotated[Verb, typer.Argument(help="What it is to do.")],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Tell one node to answer (ping), to introduce itself again (announce), or to leave (drain)."""
    from shared.messages import CommandVerb

    reply = ask(load_config(config, broker, fleet), lambda client: client.command(node, CommandVerb(verb)))
    result = {"node": reply.node, "verb": verb, "status": reply.status}
    emit(result, json, lambda: f"{reply.node}: {verb} {reply.status}")
