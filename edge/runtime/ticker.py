"""Moves an engine's epoch forward while calls are in flight, so that deadlines end endless loops.

Compiled code compares a counter of the engine with its store's deadline at each function entry and loop
edge. One thread advances that counter by the clock: a tick that came late advances it by as many steps as
have passed, so a busy machine stretches no deadline. The thread lingers a little after the last call, for
a wake-up costs more than the call of a small model, and then sleeps until the next.
"""

import math
import threading
from time import monotonic

from wasmtime import Engine

TICK_S = 0.005
_LINGER_S = 0.5


class Ticker:
    """``with ticker:`` around each call. Thread-safe. ``close()`` ends the thread."""

    def __init__(self, engine: Engine, tick_s: float = TICK_S) -> None:
        self._engine, self._tick_s = engine, tick_s
        self._changed = threading.Condition()
        self._in_flight, self._last_use = 0, 0.0
        self._awake = self._closed = False
        self._thread: threading.Thread | None = None

    def ticks(self, seconds: float) -> int:
        """The epoch deadline of a call with that much time left: rounded up, and never the current tick."""
        return max(0, math.ceil(seconds / self._tick_s)) + 1

    def __enter__(self) -> None:
        with self._changed:
            self._in_flight += 1
            if not self._awake:
                self._wake()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._in_flight -= 1
            self._last_use = monotonic()

    @property
    def awake(self) -> bool:
        """True while the thread ticks; an idle host's thread sleeps."""
        return self._awake

    def close(self) -> None:
        """End the thread. The caller has made sure that no call is in flight."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        self._awake = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="wasm-ticker", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while self._wait_for_calls():
            self._tick_until_idle()

    def _wait_for_calls(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._awake or self._closed)
            return not self._closed

    def _tick_until_idle(self) -> None:
        last = monotonic()
        while not self._fell_asleep():
            due = int((monotonic() - last) / self._tick_s)
            last += due * self._tick_s
            for _ in range(due):
                self._engine.increment_epoch()

    def _fell_asleep(self) -> bool:
        """Waits one tick. True when nothing has run for a while, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=self._tick_s)
            idle = self._in_flight == 0 and monotonic() - self._last_use > _LINGER_S
            self._awake = not (idle or self._closed)
            return not self._awake
