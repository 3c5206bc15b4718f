"""The device's own door: a Unix socket that answers inference, takes telemetry and keeps data with no broker.

One request per connection: four bytes of length (big-endian), a MessagePack map whose ``ask`` says which of
the requests below it is; the same form back with a :class:`shared.messages.Reply`. The socket lives in the
data folder and is open only to the user who runs the agent.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import msgspec

from shared.errors import Unavailable, Unreadable
from shared.messages import Message, Reply
from shared.sync import ConsistencyLevel, Required, SyncStrategy
from shared.wire import encode, unpacked

REQUEST_BYTES_MAX = 64 << 20
CONNECTIONS_MAX = 32
SOCKET_PATH_BYTES_MAX = 100  # unix(7): 108, and 104 elsewhere
READ_S_MAX = 10.0


class LocalInfer(Message, frozen=True, kw_only=True):
    """Ask the device's own modules."""

    ask: str = "infer"
    model: str
    inputs: msgspec.Raw
    function: str = "run"
    budget_s: float = 10.0


class LocalRecord(Message, frozen=True, kw_only=True):
    """One sample of a stream. ``at_unix_s`` 0: now. The reply comes once it survives a power cut."""

    ask: str = "record"
    stream: str
    values: dict[str, float]
    at_unix_s: float = 0.0
    budget_s: float = 5.0


class LocalData(Message, frozen=True, kw_only=True):
    """Read, write or watch the device's replica. ``verb``: get, read, put, erase, watch, list, status,
    conflicts. ``value``: packed; ``expected``: see :meth:`edge.sync.data.Data.put`; ``after``: see
    :meth:`edge.sync.data.Data.wait`."""

    ask: str = "data"
    verb: str
    key: str = ""
    value: bytes = b""
    level: ConsistencyLevel | None = None
    strategy: SyncStrategy | None = None
    required: Required = Required.MAJORITY
    expected: int = -1
    after: int = -1
    budget_s: float = 10.0


class _Asked(msgspec.Struct):
    ask: str = "infer"


LocalRequest = LocalInfer | LocalRecord | LocalData
Answer = Callable[[LocalRequest], Awaitable[Reply]]

_ASKS: dict[str, type[LocalRequest]] = {"infer": LocalInfer, "record": LocalRecord, "data": LocalData}


def socket_path(data: Path) -> Path:
    """Where the door is."""
    return data / "agent.sock"


@asynccontextmanager
async def serve_locally(data: Path, answer: Answer) -> AsyncIterator[None]:
    """Answer local requests while the context lasts."""
    path = socket_path(data)
    path.unlink(missing_ok=True)
    room = asyncio.Semaphore(CONNECTIONS_MAX)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A caller that leaves early or sends nonsense ends its own connection and nothing else.
        with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError, Unreadable):
            async with room:
                async with asyncio.timeout(READ_S_MAX):
                    request = _request(msgspec.Raw(await _read(reader)))
                await _write(writer, encode(await answer(request)))
        writer.close()

    with _within_reach(path) as short:
        server = await asyncio.start_unix_server(client, short)
    os.chmod(path, 0o600)
    async with server:
        yield
    path.unlink(missing_ok=True)


async def ask_locally(data: Path, request: LocalRequest) -> Reply:
    """Ask the agent whose data folder this is. Raises :class:`Unavailable` when none runs there."""
    try:
        async with asyncio.timeout(request.budget_s + 2.0):
            with _within_reach(socket_path(data)) as short:
                reader, writer = await asyncio.open_unix_connection(short)
            await _write(writer, encode(request))
            reply = unpacked(msgspec.Raw(await _read(reader)), Reply)
            writer.close()
            return reply
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Unavailable(
            f"no agent answers in {data}: {error}; start it with 'shoal edge --node NAME'"
        ) from None
    except TimeoutError:
        raise Unavailable(f"the agent in {data} did not answer within {request.budget_s:g} s") from None


@contextmanager
def _within_reach(path: Path) -> Iterator[str]:
    """A name of the socket that fits into an address, however deep its folder lies."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _request(packed: msgspec.Raw) -> LocalRequest:
    kind = _ASKS.get(unpacked(packed, _Asked).ask)
    if kind is None:
        raise Unreadable("no such request")
    return unpacked(packed, kind)


async def _read(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > REQUEST_BYTES_MAX:
        raise Unreadable(f"{size} bytes; the limit is {REQUEST_BYTES_MAX}")
    return await reader.readexactly(size)


async def _write(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(len(payload).to_bytes(4, "big") + payload)
    await writer.drain()
