"""Moves an engine's epoch forward while calls are in flight, so that deadlines end endless loops.

Compiled code compares a counter of the engine with its store's deadline at each function entry and loop
edge. One thread advances that counter by the clock: a tick that came late advances it by as many steps as
have passed, so a busy machine stretches no deadline; and a deadline counts the steps that are still to come,
so a late tick cuts none short. The thread lingers a little after the last call, for
a wake-up costs more than the call of a small model, and then sleeps until the next.

Invariant: the thread is awake as long as a call is in flight. That is why both ends of a call take the lock,
uncontended nearly always, and why nobody may make a call that holds the GIL: the thread needs it to tick.
"""

import math
import threading
from time import monotonic, sleep

from wasmtime import Engine

TICK_S = 0.005
_LINGER_S = 1.0


class Ticker:
    """``with ticker:`` around each call. Thread-safe. ``close()`` ends the thread."""

    def __init__(self, engine: Engine, tick_s: float = TICK_S) -> None:
        self._engine, self._tick_s = engine, tick_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._in_flight = self._ended = 0
        self._ticked = 0.0  # the moment that the epoch stands for
        self._awake = self._closed = False
        self._thread: threading.Thread | None = None

    def ticks(self, deadline: float) -> int:
        """From the current epoch to the first that is past the deadline (monotonic seconds): 1 or more.

        Only between enter and exit.
        """
        return max(1, math.ceil((deadline - self._ticked) / self._tick_s))

    def __enter__(self) -> None:
        with self._lock:
            self._in_flight += 1
            if not self._awake:
                self._wake()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._in_flight -= 1
            self._ended += 1

    @property
    def awake(self) -> bool:
        """True while the thread ticks; an idle host's thread sleeps."""
        return self._awake

    def close(self) -> None:
        """End the thread. The caller has made sure that no call is in flight."""
        with self._lock:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        self._awake, self._ticked = True, monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="wasm-ticker", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while self._wait_for_calls():
            self._tick_until_idle()

    def _wait_for_calls(self) -> bool:
        with self._lock:
            self._changed.wait_for(lambda: self._awake or self._closed)
            return not self._closed

    def _tick_until_idle(self) -> None:
        ended, used = -1, self._ticked
        while not self._fell_asleep(idle=self._ticked - used > _LINGER_S):
            sleep(self._tick_s)
            due = int((monotonic() - self._ticked) / self._tick_s)
            for _ in range(due):
                self._engine.increment_epoch()
            self._ticked += due * self._tick_s  # last: who comes in between gets a tick more, not less
            if ended != self._ended:
                ended, used = self._ended, self._ticked

    def _fell_asleep(self, *, idle: bool) -> bool:
        """True when nothing has run for a while, or at the end."""
        with self._lock:
            self._awake = self._in_flight > 0 or not (idle or self._closed)
            return not self._awake
