"""Counts what a device sends and receives: a TCP proxy on this machine, one port for each device.

    async with counting("127.0.0.1", 1883, 8) as links:
        ...                       # device i connects to links[i].port
        links[0].up, links[0].down

Bytes are those of the TCP stream: headers of IP and TCP are not in them, those of HTTP, gRPC or MQTT are.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 18
CONNECT_S_MAX = 10.0


@dataclass
class Link:
    """One device's way to the server. ``up``: bytes that the device sent; ``down``: that it received."""

    host: str
    target: int
    port: int = 0
    up: int = 0
    down: int = 0
    connections: int = 0
    _open: set["asyncio.Task[None]"] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of the device."""
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer), name=f"connection {self.connections}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def cut(self) -> None:
        """End the connections that are open."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until both sides have ended it."""
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                far_reader, far_writer = await asyncio.open_connection(self.host, self.target)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far_writer, upward=True), name="up")
                tasks.create_task(self._pump(far_reader, writer, upward=False), name="down")
        finally:
            writer.close()
            far_writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, upward: bool) -> None:
        """Until the end of the stream, which is passed on too."""
        with suppress(ConnectionError):
            while data := await source.read(CHUNK_BYTES):
                if upward:
                    self.up += len(data)
                else:
                    self.down += len(data)
                sink.write(data)
                await sink.drain()
        with suppress(OSError):
            sink.write_eof()


@asynccontextmanager
async def counting(host: str, target: int, devices: int) -> AsyncIterator[list[Link]]:
    """A link for each device. They stop accepting at the end, and connections that are open are cut."""
    links = [Link(host, target) for _ in range(devices)]
    servers = [await asyncio.start_server(link.accept, "127.0.0.1", 0, limit=CHUNK_BYTES) for link in links]
    for link, server in zip(links, servers, strict=True):
        link.port = server.sockets[0].getsockname()[1]
    try:
        yield links
    finally:
        for server in servers:
            server.close()
        for link in links:
            await link.cut()
