"""Counts what a device sends and receives: a TCP proxy on this machine, one port for each device.

    async with counting("127.0.0.1", 1883, 8) as links:
        ...                       # device i connects to links[i].port
        links[0].up, links[0].down

Bytes are those of the TCP stream: headers of IP and TCP are not in them, those of HTTP, gRPC or MQTT are.

What is counted is passed on inside of ``data_received``, without a task or a stream: the proxy stands in the
way of every byte of a round whose time is measured, on the same processors.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

CONNECT_S_MAX = 10.0
BUFFER_BYTES_MAX = 1 << 20  # over this, whoever sends is not read from for a while


@dataclass
class Link:
    """One device's way to the server. ``up``: bytes that the device sent; ``down``: that it received."""

    host: str
    target: int
    port: int = 0
    up: int = 0
    down: int = 0
    connections: int = 0
    _open: set["_End"] = field(default_factory=set)

    def accept(self) -> "_End":
        """A connection of the device."""
        self.connections += 1
        return _End(self, upward=True)

    async def cut(self) -> None:
        """End the connections that are open."""
        ends = list(self._open)
        for end in ends:
            end.abort()
        await asyncio.gather(*(end.lost for end in ends), return_exceptions=True)


class _End(asyncio.Protocol):
    """One of the two ends of a connection. ``upward``: the device's."""

    def __init__(self, link: Link, *, upward: bool, peer: "_End | None" = None) -> None:
        self._link, self._upward, self._peer = link, upward, peer
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._early: list[bytes] = []  # what came before there was somewhere to write to
        self._ended = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFER_BYTES_MAX)
        self._link._open.add(self)
        if self._upward:
            self._connecting = asyncio.create_task(self._connect(), name=f"to port {self._link.target}")

    def data_received(self, data: bytes) -> None:
        if self._upward:
            self._link.up += len(data)
        else:
            self._link.down += len(data)
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.write(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        """Passed on; the other direction stays open."""
        self._ended = True
        peer = self._peer._transport if self._peer is not None else None
        if peer is not None and not peer.is_closing():
            peer.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._link._open.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.close()
        if not self.lost.done():
            self.lost.set_result(None)

    def abort(self) -> None:
        """Without a word."""
        if self._transport is not None:
            self._transport.abort()

    async def _connect(self) -> None:
        loop, link = asyncio.get_running_loop(), self._link
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                _, self._peer = await loop.create_connection(
                    lambda: _End(link, upward=False, peer=self), link.host, link.target
                )
        except OSError:
            self.abort()
            return
        assert self._peer is not None
        assert self._peer._transport is not None
        self._peer._transport.writelines(self._early)
        if self._ended:
            self._peer._transport.write_eof()


@asynccontextmanager
async def counting(host: str, target: int, devices: int) -> AsyncIterator[list[Link]]:
    """A link for each device. They stop accepting at the end, and connections that are open are cut."""
    links, loop = [Link(host, target) for _ in range(devices)], asyncio.get_running_loop()
    servers = [await loop.create_server(link.accept, "127.0.0.1", 0) for link in links]
    for link, server in zip(links, servers, strict=True):
        link.port = server.sockets[0].getsockname()[1]
    try:
        yield links
    finally:
        for server in servers:
            server.close()
        for link in links:
            await link.cut()
