"""Start, watch and stop the processes of a local fleet."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cloud.local.workspace import Workspace
from shared.errors import Unavailable

STOP_S_MAX = 15.0
START_S_MAX = 30.0


class LocalProcess:
    """One OS process of ours; its output goes to a file, so that a full pipe never stops it."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.command, self.log = name, tuple(command), log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Started and not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it (again)."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,  # its end tells our processes that we are gone: --until-eof
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop them in order
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended does not mind."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()

    def tail(self, lines: int = 12) -> str:
        """The end of its log, for an error message."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


class LocalFleet:
    """Broker (unless one is given), cloud and devices on this machine.

    ``nodes``: id -> settings of its ``[device]`` section (labels, heartbeat_s, ...); ``training``: id ->
    settings of its ``[training]`` section.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Mapping[str, Mapping[str, Any]],
        *,
        training: Mapping[str, Mapping[str, Any]] | None = None,
        fleet: str = "main",
        port: int = 0,
        http_port: int = 0,
        log_level: str = "info",
    ) -> None:
        self.workspace = Workspace(folder, fleet)
        self.port, self.http_port = port or free_port(), http_port or free_port()
        self.broker_url = f"mqtt://127.0.0.1:{self.port}"
        self.workspace.prepare(self.broker_url, nodes, self.http_port, training or {})
        logs = self.workspace.folder / "logs"
        logs.mkdir(exist_ok=True)

        def process(name: str, module: str, *options: str) -> LocalProcess:
            command = (sys.executable, "-m", module, "--until-eof", "--log-level", log_level, *options)
            return LocalProcess(name, command, logs / f"{name}.log")

        credentials = str(self.workspace.credentials_dir)
        listen = ("--port", str(self.port), "--credentials", credentials, "--fleet", fleet)
        self.broker = process("broker", "broker", *listen)
        self.cloud = process("cloud", "cloud", "--config", str(self.workspace.config("cloud")))
        self.devices = {
            node: process(node, "edge", "--config", str(self.workspace.config(node))) for node in nodes
        }

    @property
    def processes(self) -> list[LocalProcess]:
        """All of them, in the order in which they start."""
        return [self.broker, self.cloud, *self.devices.values()]

    async def start(self) -> None:
        """Start everything. The cloud takes longest to load, so it loads while the broker begins to listen;
        the devices come after that, since an early one would only be refused and wait to try again.

        Raises :class:`Unavailable`, with the end of its log, when the broker does not come up.
        """
        await self.broker.start()
        await self.cloud.start()
        await self.listening(self.broker, self.port)
        for device in self.devices.values():
            await device.start()

    async def listening(self, process: LocalProcess, port: int) -> None:
        """Wait until ``process`` accepts connections on ``port``."""
        deadline = time.monotonic() + START_S_MAX
        while not await _accepts(port):
            if not process.running or time.monotonic() > deadline:
                raise Unavailable(f"the {process.name} did not start; its log ends with:\n{process.tail()}")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Devices first, so that they can say goodbye; then the cloud, then the broker.

        Cut short (a second Ctrl-C), it kills whoever is left.
        """
        try:
            await asyncio.gather(*(device.stop() for device in self.devices.values() if device.running))
            for process in (self.cloud, self.broker):
                if process.running:
                    await process.stop()
        finally:
            for process in self.processes:
                process.signal(signal.SIGKILL)

    async def __aenter__(self) -> "LocalFleet":
        """Start, and stop what had started when it fails half way."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
