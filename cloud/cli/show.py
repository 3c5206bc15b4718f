"""Tables for people. A colour says something: green serves, yellow waits, red needs a person."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared.views import DeploymentView, Explanation, ModelView, NodeView, Overview

_COLOURS = {
    "idle": "green",
    "busy": "cyan",
    "ready": "green",
    "error": "red",
    "failed": "red",
    "offline": "red",
    "unknown": "yellow",
}


def coloured(word: str) -> Text:
    """A status word in its colour."""
    return Text(word, style=_COLOURS.get(word, "yellow"))


def bytes_text(count: float) -> str:
    """``1536`` -> ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def age_text(age_s: float | None) -> str:
    """How long ago, in words."""
    if age_s is None:
        return "never"
    return f"{age_s:.0f} s ago" if age_s < 120 else f"{age_s / 60:.0f} min ago"


def _add(table: Table, *cells: str | Text) -> None:
    """A row whose strings are shown as they are: names come from the network and are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def facts_table(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names in bold and values, one a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        _add(table, name, value)
    return table


def nodes_table(nodes: Sequence[NodeView]) -> RenderableType:
    """One line a node."""
    if not nodes:
        return Text("No node has registered yet. Start one with 'shoal edge --node NAME'.")
    table = Table(box=None, pad_edge=False)
    for column in ("node", "status", "heartbeat", "cpu", "in flight", "models", "labels"):
        table.add_column(column, justify="right" if column in ("cpu", "in flight") else "left")
    for node in nodes:
        status = coloured(node.status)
        if node.suspect or node.draining:
            status.append(" (suspect)" if node.suspect else " (draining)", style="yellow")
        models = Text(", ").join(
            Text(name, style=_COLOURS.get(model.state, "yellow"))
            for name, model in sorted(node.models.items())
        )
        labels = " ".join(f"{name}={value}" for name, value in sorted(node.labels.items()))
        age = age_text(node.last_heartbeat_age_s)
        _add(table, node.node, status, age, f"{node.cpu_ratio:.0%}", str(node.in_flight), models, labels)
    return table


def node_page(node: NodeView) -> RenderableType:
    """All about one node."""
    caps = node.capabilities
    rows: list[tuple[str, str | Text]] = [
        ("node", node.node),
        ("status", coloured(node.status)),
        ("why", node.why),
        ("heartbeat", age_text(node.last_heartbeat_age_s)),
        ("boot epoch", str(node.epoch)),
        ("address", node.address or "-"),
        ("machine", f"{caps.cores} cores, {bytes_text(caps.memory_bytes)}, {caps.platform}"),
        ("wasm", f"{caps.wasm_gflops:.1f} GFLOP/s, {caps.wasm_call_s * 1e6:.0f} us a call, {caps.runtime}"),
        ("load", f"cpu {node.cpu_ratio:.0%}, {node.in_flight} in flight, {node.queue_depth} waiting"),
        ("memory free", bytes_text(node.memory_available_bytes)),
        ("tasks", ", ".join(node.tasks) or "-"),
        ("labels", " ".join(f"{k}={v}" for k, v in sorted(node.labels.items())) or "-"),
    ]
    for name, model in sorted(node.models.items()):
        rows.append(("model", Text.assemble(f"{name} {model.digest[:12]} ", coloured(model.state))))
    return facts_table(rows)


def overview_page(overview: Overview) -> RenderableType:
    """The fleet in a few lines."""
    counts = Text(", ").join(
        Text(f"{count} {status}", style=_COLOURS.get(status, ""))
        for status, count in sorted(overview.nodes.items())
        if count
    )
    memory = bytes_text(overview.memory_bytes)
    ready = ", ".join(f"{name} on {count}" for name, count in sorted(overview.models.items()))
    went = ", ".join(f"{count} {how}" for how, count in sorted(overview.requests.items()) if count)
    return facts_table(
        [
            ("fleet", f"{overview.fleet}, term {overview.term}"),
            ("nodes", counts if counts.plain else "none"),
            ("machines", f"{overview.cores} cores, {memory}, {overview.slots} slots"),
            ("load", f"{overview.in_flight} in flight, cpu {overview.cpu_ratio_mean:.0%} on average"),
            ("models", ready or "none"),
            ("requests", went or "none"),
        ]
    )


def models_table(models: Sequence[ModelView]) -> RenderableType:
    """The catalog."""
    if not models:
        return Text("The catalog is empty. Put a model in with 'shoal deploy FILE.shoal --to all'.")
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "kind", "size", "digest"):
        table.add_column(column)
    for one in models:
        _add(table, one.name, one.version, one.kind, bytes_text(one.size_bytes), one.digest[:16])
    return table


def deployments_table(deployments: Sequence[DeploymentView]) -> RenderableType:
    """Each standing rule and its progress."""
    if not deployments:
        return Text("Nothing is deployed.")
    table = Table(box=None, pad_edge=False)
    for column in ("model", "version", "target", "nodes", "ready", "pending", "failed"):
        table.add_column(column)
    for one in deployments:
        numbers = (len(one.nodes), one.ready, one.pending, len(one.failures))
        _add(table, one.model, one.version, one.target, *(str(number) for number in numbers))
        for node, reason in sorted(one.failures.items()):
            _add(table, "", "", Text(f"{node}: {reason}", style="red"))
    return table


def why_page(why: Explanation) -> RenderableType:
    """One placement decision."""
    table = Table(box=None, pad_edge=False)
    for column in ("node", "score", "because"):
        table.add_column(column)
    for one in why.candidates:
        style = "green" if one.node == why.chosen else ""
        _add(table, Text(one.node, style=style), f"{one.score_s * 1e3:.3f} ms", one.why)
    excluded = ", ".join(f"{count} {reason}" for reason, count in sorted(why.excluded.items())) or "none"
    chosen = f"{why.chosen or 'nobody'}{' (second try)' if why.retried else ''}"
    return Group(
        Text(f"{why.request}: model {why.model} went to {chosen}"), table, Text(f"left out: {excluded}")
    )
