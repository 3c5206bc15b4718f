"""A thousand devices that only heartbeat: what they cost the broker and the cloud, and whether memory stays.

    python -m benchmarks.bench_scale [--devices 1000] [--seconds 60] [--json PATH]

The devices are clients of their own (``benchmarks.simulated``), with the agent's real core and messages, 500
to a process. CPU is user and system time of the process; memory is its resident set, once a second.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.fleet import run, until
from benchmarks.measuring import Found, cpu_s, memory_bytes, progress, slope, write_json
from benchmarks.simulated import name_of
from broker.acl import Role
from broker.credentials import (
    PASSWORDS,
    ROLES,
    Credentials,
    hashed,
    parse_passwords,
    render_passwords,
    render_roles,
    write_private,
)
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet

PER_PROCESS = 500
SETTLE_S = 12.0  # a whole round of heartbeats after the last device has come
MIB = 1 << 20


def enrol(folder: Path, count: int) -> list[str]:
    """Passwords of ``count`` devices, all written at once: one by one would rewrite the files as often."""
    known = Credentials(folder)
    passwords = [secrets.token_urlsafe(18) for _ in range(count)]
    names = [name_of(number) for number in range(count)]
    stored = parse_passwords((folder / PASSWORDS).read_text()) | {
        name: hashed(password.encode(), secrets.token_bytes(12))
        for name, password in zip(names, passwords, strict=True)
    }
    write_private(folder / PASSWORDS, render_passwords(stored))
    write_private(folder / ROLES, render_roles(known.roles | dict.fromkeys(names, Role.DEVICE)))
    return passwords


@asynccontextmanager
async def simulated(local: LocalFleet, passwords: list[str]) -> AsyncIterator[None]:
    """Processes full of devices."""
    async with AsyncExitStack() as stack:
        for first in range(0, len(passwords), PER_PROCESS):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.simulated", "--port", str(local.port)),
                *("--first", str(first)),
                stdin=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)  # before the wait: exits run backwards
            assert process.stdin is not None
            process.stdin.write("\n".join(passwords[first : first + PER_PROCESS]).encode())
            process.stdin.close()
        yield


async def heartbeating(fleet: Fleet, devices: int) -> bool:
    """Whether the cloud counts that many nodes as idle."""
    return (await fleet.overview()).nodes.get("idle", 0) >= devices


async def measured(folder: Path, devices: int, seconds: float) -> Found:
    """For broker and cloud: cores used (1.0 is a whole one), MiB, MiB per minute."""
    local = LocalFleet(folder, {}, log_level="warning")
    passwords = enrol(local.workspace.credentials_dir, devices)
    async with local, connected(read_config(local.workspace.config("operator")), "operator") as fleet:
        began = time.monotonic()
        async with simulated(local, passwords):
            await until("every device heartbeats", local, lambda: heartbeating(fleet, devices))
            joined_s = time.monotonic() - began
            progress(f"{devices} devices joined in {joined_s:.1f} s")
            await asyncio.sleep(SETTLE_S)
            found = await _watch({"broker": local.broker.pid, "cloud": local.cloud.pid}, seconds)
            still = (await fleet.overview()).nodes.get("idle", 0)
    return {"devices": devices, "devices_at_end": still, "seconds": seconds, "joined_s": joined_s, **found}


async def _watch(pids: dict[str, int], seconds: float) -> dict[str, Found]:
    used_s = {name: cpu_s(pid) for name, pid in pids.items()}
    rss: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        for name, pid in pids.items():
            rss[name].append((now / 60, memory_bytes(pid)["Rss"] / MIB))
        if len(rss["cloud"]) % 30 == 1:
            progress(f"{now:.0f} s: " + ", ".join(f"{name} {rss[name][-1][1]:.1f} MiB" for name in pids))
        await asyncio.sleep(1.0)
    lasted_s = time.monotonic() - began
    return {
        name: {
            "cores": (cpu_s(pid) - used_s[name]) / lasted_s,
            "rss_start_mib": rss[name][0][1],
            "rss_end_mib": rss[name][-1][1],
            "rss_mib_per_minute": slope(rss[name]),
        }
        for name, pid in pids.items()
    }


def show(found: Found) -> None:
    title = f"{found['devices']:,} devices, heartbeats every 10 s, {found['seconds']:g} s"
    table = Table("process", "% of a core", "MiB at start", "at end", "MiB per minute", title=title)
    for name in ("broker", "cloud"):
        one = found[name]
        memory = (f"{one['rss_start_mib']:.1f}", f"{one['rss_end_mib']:.1f}")
        table.add_row(name, f"{one['cores'] * 100:.1f}", *memory, f"{one['rss_mib_per_minute']:+.2f}")
    table.caption = f"all joined in {found['joined_s']:.1f} s; {found['devices_at_end']:,} idle at the end"
    Console().print(table)


def main(seconds: float = 60.0) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        found = run(lambda: measured(Path(folder), arguments.devices, arguments.seconds))
    show(found)
    write_json(arguments.json, found)


if __name__ == "__main__":
    main()
