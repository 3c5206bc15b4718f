"""uvicorn inside a loop that is somebody else's: no signal handlers, ends when it is cancelled."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from cloud.api.guard import Guard, allowed_hosts
from shared.errors import ConfigError

log = logging.getLogger(__name__)

BODY_WAIT_S_MAX = 30
CONNECTIONS_MAX = 256


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The process has its own."""
        yield


async def serve_http(app: FastAPI, host: str, port: int) -> None:
    """Serve until cancelled. Raises :class:`ConfigError` when the port is taken."""
    try:
        listener = socket.create_server((host, port), reuse_port=False)
    except OSError as error:
        raise ConfigError(
            f"the API can't listen on {host}:{port}: {error.strerror}; choose another with --http-port"
        ) from None
    config = uvicorn.Config(
        Guard(app, allowed_hosts(host)),
        log_config=None,
        access_log=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=BODY_WAIT_S_MAX,
        timeout_graceful_shutdown=1,
        lifespan="off",
    )
    server = _Server(config)
    log.info("API on http://%s:%d/docs", host, port)
    with listener:
        serving = asyncio.create_task(server.serve([listener]), name="uvicorn")
        try:
            await asyncio.shield(serving)
        finally:
            server.should_exit = True
            await asyncio.wait({serving}, timeout=2.0)
