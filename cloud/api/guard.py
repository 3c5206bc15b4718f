"""What stands between the socket and the application: who may talk to it from a browser, and how much.

The API has no login yet. On a loopback address that is the machine's own business, with one exception: any
web page that is open in a browser on this machine can reach 127.0.0.1 as well. Two checks keep pages out:

- Host: a page that made its own name resolve to 127.0.0.1 ("DNS rebinding") still sends that name.
- Origin: a browser names the page that sends; only a page of this very API may.

There is no CORS header, so no other page can read an answer. Bodies share one budget of memory and have a
deadline, so that many large or very slow uploads can't fill the process.
"""

import asyncio
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cloud.api.problems import problem
from shared.errors import Unavailable

BODIES_BYTES_MAX = 1 << 30
BODY_S_MAX = 600.0
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def allowed_hosts(http_host: str) -> frozenset[str] | None:
    """Names by which an API that listens on ``http_host`` may be called; None: any.

    On an address that others can reach we can't know the names; there a proxy with a login stands in front.
    """
    return LOOPBACK_NAMES if _is_loopback(http_host) else None


class Guard:
    """ASGI middleware. ``hosts``: names that a Host header may carry (any port); None: any."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None,
        *,
        bodies_bytes_max: int = BODIES_BYTES_MAX,
        body_s_max: float = BODY_S_MAX,
    ) -> None:
        self._app, self._hosts = app, hosts
        self._free_bytes, self._body_s_max = bodies_bytes_max, body_s_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with a body that is counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        complaint = self._complaint(Headers(scope=scope))
        if complaint:
            await problem(Request(scope), 403, "forbidden", complaint)(scope, receive, send)
            return
        body = _CountedBody(self, receive)
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._free_bytes += body.taken_bytes

    def _complaint(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and _name(host) not in self._hosts:
            return f"this API is not called {host[:80]!r}; use one of {', '.join(sorted(self._hosts))}"
        if origin is not None and urlsplit(origin).netloc != host:
            return f"a page of {origin[:80]!r} may not use this API; only its own pages may"
        return ""

    def take(self, count: int) -> None:
        """Count bytes of a body. Raises :class:`Unavailable` when all bodies together are too large."""
        if count > self._free_bytes:
            raise Unavailable("too many large bodies at once; try again later")
        self._free_bytes -= count

    @property
    def body_s_max(self) -> float:
        """How long one body may take to arrive."""
        return self._body_s_max


class _CountedBody:
    """The body of one request: counted as it comes, and due at a deadline."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.taken_bytes = 0
        self._guard, self._receive = guard, receive
        self._due: float | None = asyncio.get_running_loop().time() + guard.body_s_max

    async def receive(self) -> Message:
        """The next piece. Raises :class:`Unavailable` at a limit."""
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError:
            raise Unavailable(f"the body did not arrive within {self._guard.body_s_max:g} s") from None
        count = len(message.get("body", b""))
        self._guard.take(count)
        self.taken_bytes += count
        if not message.get("more_body", False):
            self._due = None  # from here on only a disconnect can come, whenever it likes
        return message


def _name(host: str) -> str:
    """``[::1]:8080`` -> ``::1``; ``localhost:8080`` -> ``localhost``."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
