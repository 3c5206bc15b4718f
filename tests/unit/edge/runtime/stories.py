"""Lets a test be an ``async def``."""

import asyncio
import functools
from collections.abc import Awaitable, Callable


def story(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))  # type: ignore[arg-type]

    return run
