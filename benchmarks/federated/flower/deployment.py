"""Flower as it is deployed: a superlink, supernodes behind counting proxies, one run of the application."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from statistics import median

from benchmarks.federated.flower.environment import APP, BIN, variables
from benchmarks.federated.processes import pss_mib, tree, tree_cpu_s
from benchmarks.federated.proxy import Link, counting
from benchmarks.federated.rows import Journal, Row, row_of
from benchmarks.measuring import progress

CONNECTION = "local"
POLL_S = 0.02
START_S_MAX = 240.0  # so many processes on so few cores
IDLE_S = 15.0
STOP_S = 5.0
LOG_CHARS = 600


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Process:
    """One command in a session of its own, with its output in a file."""

    def __init__(self, name: str, home: Path, *command: str) -> None:
        self.name, self.log = name, home / f"{name}.log"
        self._home, self._command = home, command
        self.pid = 0
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> "Process":
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(BIN / self._command[0]),
                *self._command[1:],
                cwd=self._home,
                env=variables(self._home),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in tree(self.pid):
                _signal(pid, number)
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
                    return
            except TimeoutError:
                continue

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.returncode is None

    def tail(self) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-LOG_CHARS:]


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@asynccontextmanager
async def federation(home: Path, devices: int) -> AsyncIterator[tuple[Process, list[Process], list[Link]]]:
    """A superlink and so many supernodes that it knows."""
    port = free_port()
    (home / "flwr").mkdir(parents=True, exist_ok=True)
    (home / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            Process(
                "superlink",
                home,
                "flower-superlink",
                "--insecure",
                "--disable-runtime-dependency-installation",
                "--port",
                str(port),
            )
        )
        await _listens(port, server)
        links = await stack.enter_async_context(counting("127.0.0.1", port, devices))
        nodes = [
            await stack.enter_async_context(
                Process(
                    f"supernode-{number}",
                    home,
                    "flower-supernode",
                    "--insecure",
                    "--superlink",
                    f"127.0.0.1:{link.port}",
                    "--port",
                    str(free_port()),
                )
            )
            for number, link in enumerate(links, start=1)
        ]
        yield server, nodes, links


async def _listens(port: int, process: Process) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        if not process.running:
            raise RuntimeError(f"{process.name} has ended: {process.tail()}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(POLL_S)
            continue
        writer.close()
        return
    raise TimeoutError(f"{process.name} does not listen after {START_S_MAX:g} s: {process.tail()}")


async def measure(
    home: Path, devices: int, params: int, rounds: int, *, idle: bool, round_s_max: float = 120.0
) -> Row:
    """One run. ``idle``: whether the memory of idle devices is measured before.

    Raises what went wrong, with the end of the log of the process that it went wrong in.
    """
    async with federation(home, devices) as (server, nodes, links):
        progress(f"flower, deployment: {devices} devices, {params:,} parameters")
        await _connected(nodes, links)
        idle_mib = await _idle(nodes) if idle else None
        journal = Journal(home / "rounds.jsonl")
        config = f'devices={devices} params={params} rounds={rounds} journal="{journal.path}"'
        pids = [server.pid, *(node.pid for node in nodes)]
        async with Process("run", home, "flwr", "run", str(APP), CONNECTION, "--run-config", config) as run:
            deadline = time.monotonic() + START_S_MAX + rounds * round_s_max
            while len(journal.lines()) < rounds:
                journal.look(links, lambda: tree_cpu_s(pids))
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{len(journal.lines())} of {rounds} rounds; {_story(run, server, nodes[0])}"
                    )
                await asyncio.sleep(POLL_S)
            journal.look(links, lambda: tree_cpu_s(pids))
    return row_of("flower", "deployment", devices, params, journal, idle_mib)


async def _connected(nodes: list[Process], links: list[Link]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not all(link.up for link in links):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a supernode is silent: {nodes[0].tail()}")
        await asyncio.sleep(POLL_S)


async def _idle(nodes: list[Process]) -> float:
    """MiB of one device's processes while nothing happens, median over the devices."""
    await asyncio.sleep(IDLE_S)
    return median(pss_mib(node.pid) for node in nodes)


def _story(*processes: Process) -> str:
    return "; ".join(f"{one.name}: {one.tail()}" for one in processes)
