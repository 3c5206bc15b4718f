"""``shoal doctor``: one check after the other, each with what to do about it."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cloud.cli.options import (
    GRACE_S,
    WORKSPACE,
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    app_id,
    emit,
    examples,
    load_config,
    run,
)
from shared.config import Config, broker_address
from shared.errors import RequestFailed, ShoalError, TimedOut, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

    from cloud.client import Fleet

CLOCK_S_MAX = 2.0
DISK_RATIO_MAX = 0.9
DISK_FREE_BYTES_MIN = 1 << 30
NODES_PINGED_MAX = 50
INGEST_TROUBLES = ("failures", "no room", "refused", "given up")
LATE_S = 120.0  # telemetry of which nothing more was heard for so long
_SERVING = ("idle", "busy", "error")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check. ``advice`` says what to do when it is not ok."""

    check: str
    ok: bool
    detail: str
    advice: str = ""


def doctor(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples("shoal doctor", "shoal doctor --json | jq '.[] | select(.ok | not)'")
    app.command(name="doctor", epilog=epilog)(_doctor)


def _doctor(
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds for each question.")] = 5.0,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Check broker, credentials, cloud, clocks, versions and disks, and say what to do."""
    settings = load_config(config, broker, fleet)

    async def examined() -> list[Finding]:
        return [finding async for finding in examine(settings, timeout_s)]

    findings = run(examined())
    emit(findings, json, lambda: _table(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


async def examine(settings: Config, timeout_s: float) -> AsyncIterator[Finding]:
    """Every check in order; what can't be checked because an earlier one failed is left out."""
    yield _disk()
    reached = await _reachable(settings, timeout_s)
    yield reached
    if not reached.ok:
        return
    from cloud.client import connected

    try:
        async with connected(
            settings, app_id(settings), budget_s=timeout_s, grace_s=min(timeout_s, GRACE_S)
        ) as client:
            yield Finding(check="credentials", ok=True, detail=f"logged in as {client.app!r}")
            async for finding in _fleet(client):
                yield finding
    except Unavailable as error:
        advice = "check user name and password (--config, or mqtt://user:password@host)"
        yield Finding(check="credentials", ok=False, detail=str(error), advice=advice)


def _disk() -> Finding:
    folder = WORKSPACE if WORKSPACE.exists() else Path()
    free = shutil.disk_usage(folder).free
    advice = "" if free >= DISK_FREE_BYTES_MIN else "free some space: stores refuse writes on a full disk"
    return Finding(check="disk here", ok=not advice, detail=f"{free / (1 << 30):.1f} GiB free", advice=advice)


async def _reachable(settings: Config, timeout_s: float) -> Finding:
    address = broker_address(settings.broker.url)
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address.host, address.port)
        writer.close()
    except (OSError, TimeoutError) as error:
        advice = "start one with 'shoal up', or name yours with --broker"
        detail = f"{address.host}:{address.port} does not answer ({error or 'timeout'})"
        return Finding(check="broker", ok=False, detail=detail, advice=advice)
    return Finding(check="broker", ok=True, detail=f"{address.host}:{address.port} answers")


async def _fleet(client: "Fleet") -> AsyncIterator[Finding]:
    started = time.time()
    try:
        status = await client.status()
    except TimedOut as error:
        advice = "start it with 'shoal cloud'; if it runs, look at its log and its fleet name"
        yield Finding(check="cloud", ok=False, detail=f"does not answer: {error}", advice=advice)
        return
    round_trip_s = time.time() - started
    yield Finding(
        check="cloud", ok=True, detail=f"answers in {round_trip_s * 1e3:.1f} ms, term {status['term']}"
    )
    yield _same_version("cloud", str(status["version"]))
    yield _clock("cloud", float(status["at_unix_s"]), started, round_trip_s)
    async for finding in _nodes(client):
        yield finding
    yield _ingest(status.get("counters", {}).get("ingest", {}))
    yield await _ledger(client)
    yield await _letters(client)


def _ingest(counts: "dict[str, int]") -> Finding:
    """The worker in the cloud process, since its start."""
    detail = f"{counts.get('samples', 0)} samples in {counts.get('transactions', 0)} transactions"
    troubles = {name: counts[name] for name in INGEST_TROUBLES if counts.get(name)}
    if not troubles:
        return Finding(check="ingest", ok=True, detail=detail)
    detail += "".join(f"; {name}: {count}" for name, count in troubles.items())
    advice = (
        "the store was too slow or refused: look at the cloud's log and its disk; 'shoal ingest' helps out"
    )
    return Finding(check="ingest", ok=False, detail=detail, advice=advice)


async def _ledger(client: "Fleet") -> Finding:
    """Whether everything that devices produced is accounted for, or at least on its way."""
    try:
        rows = [row for row in await client.ledger() if row.numbered]
    except (RequestFailed, ShoalError) as error:
        return Finding(check="ledger", ok=False, detail=str(error), advice="look at the cloud's log")
    late = [row for row in rows if row.pending and time.time() - row.last_at_unix_s > LATE_S]
    detail = f"{sum(row.stored for row in rows)} of {sum(row.produced for row in rows)} samples stored"
    away = sum(row.dropped for row in rows), sum(row.lost for row in rows)
    detail += f", {away[0]} dropped and {away[1]} lost by devices" if any(away) else ""
    if not late:
        return Finding(check="ledger", ok=True, detail=detail)
    named = ", ".join(f"{row.node} {row.stream} ({row.pending})" for row in late[:5])
    advice = "the devices still hold them, or are gone: 'shoal ledger NODE' shows what is missing"
    return Finding(check="ledger", ok=False, detail=f"{detail}; not arrived: {named}", advice=advice)


async def _letters(client: "Fleet") -> Finding:
    try:
        letters = [one for one in await client.letters() if time.time() - one.at_unix_s < 3600]
    except (RequestFailed, ShoalError) as error:
        return Finding(check="dead letters", ok=False, detail=str(error), advice="look at the cloud's log")
    detail = f"{len(letters)} in the last hour" + (f", such as: {letters[0].reason}" if letters else "")
    advice = "a device sends what can't be stored: 'shoal ledger --letters' shows it" if letters else ""
    return Finding(check="dead letters", ok=not letters, detail=detail, advice=advice)


async def _nodes(client: "Fleet") -> AsyncIterator[Finding]:
    nodes = await client.nodes()
    serving = [node.node for node in nodes if node.status in _SERVING]
    away = [f"{node.node} ({node.status}: {node.why})" for node in nodes if node.status not in _SERVING]
    advice = "look at the devices' logs: 'shoal node NAME' shows the evidence" if away else ""
    detail = f"{len(serving)} of {len(nodes)} serve" + (f"; not: {', '.join(away[:5])}" if away else "")
    yield Finding(check="nodes", ok=not away, detail=detail, advice=advice)
    answers = await asyncio.gather(*(_ping(client, node) for node in serving[:NODES_PINGED_MAX]))
    for findings in answers:
        for finding in findings:
            yield finding


async def _ping(client: "Fleet", node: str) -> list[Finding]:
    from shared.messages import CommandVerb, Pong
    from shared.wire import unpacked

    started = time.time()
    try:
        reply = await client.command(node, CommandVerb.PING)
        pong = unpacked(reply.body, Pong)
    except (RequestFailed, ShoalError) as error:
        advice = "its heartbeats arrive but it does not answer: restart the agent, check its access rules"
        return [Finding(check=node, ok=False, detail=f"no answer to a ping: {error}", advice=advice)]
    round_trip_s = time.time() - started
    disk_advice = "" if pong.disk_ratio <= DISK_RATIO_MAX else "free space on the device"
    return [
        Finding(
            check=node,
            ok=not pong.trouble,
            detail=f"answers in {round_trip_s * 1e3:.1f} ms" + (f"; {pong.trouble}" if pong.trouble else ""),
            advice="see the agent's log" if pong.trouble else "",
        ),
        _same_version(node, pong.agent_version),
        _clock(node, pong.at_unix_s, started, round_trip_s),
        Finding(
            check=f"{node} disk", ok=not disk_advice, detail=f"{pong.disk_ratio:.0%} used", advice=disk_advice
        ),
    ]


def _same_version(who: str, theirs: str) -> Finding:
    from importlib.metadata import version

    ours = version("shoal")
    advice = "" if theirs == ours else f"this command is {ours}: bring both to one version"
    return Finding(check=f"{who} version", ok=not advice, detail=theirs, advice=advice)


def _clock(who: str, theirs_unix_s: float, started: float, round_trip_s: float) -> Finding:
    """Their clock against the middle of our question's round trip (Cristian's algorithm)."""
    off_s = theirs_unix_s - (started + round_trip_s / 2)
    good = abs(off_s) <= CLOCK_S_MAX + round_trip_s / 2
    advice = "" if good else "turn NTP on: times in telemetry and logs will not match"
    return Finding(
        check=f"{who} clock", ok=good, detail=f"{off_s:+.3f} s against this machine", advice=advice
    )


def _table(findings: list[Finding]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = Text("ok", style="green") if finding.ok else Text("!!", style="bold red")
        detail = finding.detail if finding.ok else f"{finding.detail}\n-> {finding.advice}"
        table.add_row(mark, finding.check, detail)
    return table
