"""Threads for calls that are too long for the event loop, with a bound and a deadline on every wait.

    caller ──> queue (bounded: Busy) ──> gate of the module ──> thread ──> answer
               └────────────── one deadline over all of it ──────────────┘

The gate is a semaphore per module: it keeps one module from holding every thread, and it is released when
the thread is really done, not when the caller stopped waiting: a thread runs on for a tick or two after the
deadline, until the module is interrupted, and a compile for as long as it takes.

The threads are nicer than the rest of the process: a module that spins costs whoever is woken on its
processor a whole slice of the scheduler (3 to 4 ms), unless the scheduler knows who should wait.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from edge.runtime.errors import Busy, DeadlineExceeded
from shared.errors import Unavailable

T = TypeVar("T")
_NICE = 10  # a tenth of the weight of a thread of the agent


class Workers:
    """Belongs to one event loop."""

    def __init__(self, threads: int, queue_max: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_be_nice)
        self._queue_max = queue_max
        self._closed = False
        self.waiting = 0
        self.running = 0

    async def run(self, gate: asyncio.Semaphore, deadline: float, work: Callable[[], T]) -> T:
        """``work()`` in a thread. ``deadline``: monotonic seconds.

        Raises what ``work`` raises, :class:`Busy`, :class:`DeadlineExceeded`, or ``Unavailable`` after
        :meth:`close`.
        """
        try:
            async with asyncio.timeout(deadline - monotonic()):
                await self._enter(gate)
                return await self._submit(gate, work)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the module had answered") from None

    async def close(self) -> None:
        """Wait for what runs; it ends by its own deadline. What waits is refused."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, wait=True)

    async def _enter(self, gate: asyncio.Semaphore) -> None:
        if gate.locked():
            if self.waiting >= self._queue_max:
                raise Busy(f"{self.waiting} calls wait already, as many as may; try again later")
            self.waiting += 1
            try:
                await gate.acquire()
            finally:
                self.waiting -= 1
        else:
            await gate.acquire()  # free: does not suspend

    def _submit(self, gate: asyncio.Semaphore, work: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def perform() -> None:
            result: Any = None
            error: BaseException | None = None
            if not answer.done():  # done: the caller has gone while this stood in line
                try:
                    result = work()
                except BaseException as raised:  # handed to the caller, whatever it is
                    error = raised
            loop.call_soon_threadsafe(finish, result, error)

        def finish(result: T, error: BaseException | None) -> None:
            gate.release()
            self.running -= 1
            if answer.done():
                return
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        if self._closed:
            gate.release()
            raise Unavailable("the module host is closed")
        self.running += 1
        self._pool.submit(perform)
        return answer


def _be_nice() -> None:
    """Lower the priority of this thread: Linux has one per thread, elsewhere it is the process's."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid it; the module's limits hold all the same
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
