"""A process that expects an answer at once does not go to sleep for it.

A processor that runs out of work halts, and waking it costs as much as handling a message does (in a virtual
machine 20 us and more). A lone request passes from process to process, so that nobody else keeps the
processors awake, and each step pays for it. Where answers come within ``AWAKE_S`` the one who waits therefore
looks for them again and again, for so long at most, and lets everybody who has work go first. Its own answer
then finds it awake, and the others take turns on the processors that are left. The technique is the kernel's
own: guest halt polling (Linux, Documentation/virt/guest-halt-polling.rst), here for one process and only
while a request is on its way.

What it costs: at most ``AWAKE_S`` of one processor's time for each request, nothing where answers take longer
than that (as over any real network), and nothing for a process that has more to do than to wait.
"""

import asyncio
import os
import time

AWAKE_S = 0.0005


class Awake:
    """Keeps an event loop turning, with everything else in it, until an answer came or the time is up."""

    def __init__(self) -> None:
        self._quick = False  # did the last answer come in time?
        self._until: float | None = None  # None: not turning

    def expect(self, loop: asyncio.AbstractEventLoop) -> None:
        """An answer is expected from now on."""
        if not self._quick:
            return
        turning = self._until is not None
        self._until = time.monotonic() + AWAKE_S
        if not turning:
            loop.call_soon(self._turn, loop)

    def answered(self, took_s: float) -> None:
        """One came, and nobody needs to look for it any more."""
        self._quick = took_s <= AWAKE_S
        if self._until is not None:
            self._until = 0.0

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._until is not None
        if time.monotonic() >= self._until:
            self._until = None
            return
        os.sched_yield()
        loop.call_soon(self._turn, loop)
