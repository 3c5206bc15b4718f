"""Commands that change something or ask for work: deploy, infer, command."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

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
from cloud.client import Answer, Fleet, connected
from shared.deploys import DeployResult
from shared.errors import ConfigError
from shared.messages import CommandVerb, Reply
from shared.package import SUFFIX
from shared.tensors import AnyArray

PREVIEW_NUMBERS = 16


def act(app: typer.Typer) -> None:
    """Add the acting commands."""
    app.command(
        epilog="Examples: shoal deploy examples/digits/digits.shoal\n\nshoal deploy digits --to region=eu"
    )(deploy)
    app.command(epilog="Example: shoal infer digits --input digit.npy")(infer)
    app.command(epilog="Example: shoal command edge-1 ping")(command)


def deploy(
    model: Annotated[str, typer.Argument(help="A .shoal file, or the name of a model in the catalog.")],
    to: Annotated[str, typer.Option("--to", help="all, node ids (a,b), or label=value terms.")] = "all",
    remove: Annotated[bool, typer.Option("--remove", help="Withdraw the model instead.")] = False,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Put a model on the nodes that match, now and whenever one joins."""
    settings = load_config(config, broker, fleet)
    package = _read_package(Path(model)) if model.endswith(SUFFIX) else None

    async def deployed() -> DeployResult:
        async with connected(settings, app_id(settings)) as client:
            name = model if package is None else await _uploaded(client, model, package, quiet=json)
            return await client.deploy(name, to, remove=remove)

    result = run(deployed())
    emit(result, json, lambda: _deployed_text(result, remove))


def _read_package(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from None


async def _uploaded(client: Fleet, label: str, package: bytes, *, quiet: bool) -> str:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(f"sending {label}", total=len(package))
        state = await client.upload(package, lambda have: progress.update(task, completed=have))
    return state.name


def _deployed_text(result: DeployResult, removed: bool) -> Text:
    nodes = ", ".join(result.nodes) or "no node yet; it goes to those that join"
    verb = "is withdrawn from" if removed else "goes to"
    return Text(f"{result.model} version {result.version} {verb} {result.target!r}: {nodes}")


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    input: Annotated[
        Path, typer.Option("--input", "-i", help="A .npy file (with its batch axis), or .json.")
    ],
    function: Annotated[str, typer.Option(help="The function of the module.")] = "run",
    node: Annotated[str, typer.Option(help="Ask this node instead of the best one.")] = "",
    deadline_s: Annotated[
        float, typer.Option("--deadline", help="Seconds until the answer is useless.")
    ] = 10.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result as .npy.")] = None,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the fleet for an inference and print the result."""
    settings = load_config(config, broker, fleet)
    array, document = _read_input(input)

    async def inferred() -> Answer:
        async with connected(settings, app_id(settings), budget_s=deadline_s) as client:
            arrays = () if array is None else (array,)
            return await client.infer(model, *arrays, json=document, function=function, node=node)

    answer = run(inferred())
    if output is not None and isinstance(answer.outputs, list):
        np.save(output, answer.outputs[0])
    emit(_answer_json(answer), json, lambda: _answer_table(answer))


def _read_input(path: Path) -> tuple[AnyArray | None, bytes | None]:
    try:
        if path.suffix == ".json":
            return None, path.read_bytes()
        return np.load(path, allow_pickle=False), None
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read {path}: {error}; write it with numpy.save, or as .json") from None


def _answer_json(answer: Answer) -> dict[str, Any]:
    outputs: Any
    if isinstance(answer.outputs, bytes):
        outputs = msgspec.Raw(answer.outputs)
    else:
        outputs = [one.tolist() for one in answer.outputs]
    return {
        "request": answer.request,
        "node": answer.node,
        "service_s": answer.service_s,
        "outputs": outputs,
    }


def _answer_table(answer: Answer) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    if isinstance(answer.outputs, bytes):
        table.add_row("output", answer.outputs.decode("utf-8", "replace"))
    else:
        for one in answer.outputs:
            numbers = np.array2string(one, precision=4, threshold=PREVIEW_NUMBERS)
            table.add_row("output", f"{one.dtype.name} {one.shape}\n{numbers}")
            if one.ndim == 2:
                table.add_row(
                    "argmax", " ".join(str(index) for index in one.argmax(axis=1)[:PREVIEW_NUMBERS])
                )
    table.add_row("node", f"{answer.node} ({answer.service_s * 1e3:.2f} ms on the device)")
    table.add_row("request", f"{answer.request}  (shoal why {answer.request})")
    return table


def command(
    node: Annotated[str, typer.Argument(help="The node's id.")],
    verb: Annotated[CommandVerb, typer.Argument(help="What it is to do.")],
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Tell one node to answer (ping), to introduce itself again (announce), or to leave (drain)."""
    settings = load_config(config, broker, fleet)

    async def commanded() -> Reply:
        async with connected(settings, app_id(settings)) as client:
            return await client.command(node, verb)

    reply = run(commanded())
    result = {"node": reply.node, "verb": verb, "status": reply.status}
    emit(result, json, lambda: Text(f"{reply.node}: {verb} {reply.status}"))
