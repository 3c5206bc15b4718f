"""Which calls may run on the event loop: those that were quick lately, of modules that kept to it.

    Recent     the median of the last calls of one kind is under the bound: one noisy sample changes nothing
    Probation  slow calls make a debt, and too much of it bars the module; or a call that had to be stopped

A median alone would let a hostile module be quick in five calls of nine and slow in the other four. So what
slow calls take is owed, and forgiven slowly: beside its quick calls a module gets one percent of the loop's
time. One that is barred runs in threads, for a pause that quadruples when it does it again.

On a busy machine a good module's call is slow when its thread lost the processor. Only processor time is
owed, therefore. That clock costs a tenth of a small call; so it is read for a second after a call that was
slow by the clock on the wall, and the first such call is free.
Pure: the clocks are arguments.
"""

from dataclasses import dataclass
from math import inf

_SAMPLES = 9
_FORGIVEN_PER_S = 0.01
_WATCH_S = 1.0
_PAUSE_S_MIN, _PAUSE_S_MAX = 10.0, 3600.0
_PAUSES_OF_GOOD_CONDUCT = 10  # after which the next pause is a short one again


@dataclass(slots=True)
class Recent:
    """How long the last calls of one kind took, in seconds. ``is_quick``: their median is at most the bound.

    Threads may add at the same time: the tuple is replaced as a whole, and a lost sample does no harm.
    """

    quick_s_max: float
    samples: tuple[float, ...] = ()
    is_quick: bool = False

    def add(self, seconds: float) -> None:
        """A quick sample can't make a quick median slow, so most calls don't look at it."""
        self.samples = (*self.samples[1 - _SAMPLES :], seconds)
        if seconds > self.quick_s_max or not self.is_quick:
            self.is_quick = self.median_s <= self.quick_s_max

    @property
    def median_s(self) -> float:
        """The lower one of two middle samples: noise only adds."""
        return sorted(self.samples)[(len(self.samples) - 1) // 2]


@dataclass(slots=True)
class Probation:
    """Of one module. ``slow_s``: what makes a call slow. ``debt_s_max``: what it may owe. Both in seconds."""

    slow_s: float
    debt_s_max: float
    barred_until: float = -inf
    watched_until: float = -inf
    _debt_s: float = 0.0
    _charged_at: float = 0.0
    _pause_s: float = 0.0

    def slow(self, processor_s: float | None, now: float) -> None:
        """A call on the loop took over ``slow_s``; ``processor_s`` is what it used, if it was watched."""
        self.watched_until = now + _WATCH_S
        if processor_s is None or processor_s <= self.slow_s:
            return
        forgiven_s = (now - self._charged_at) * _FORGIVEN_PER_S
        self._debt_s = max(0.0, self._debt_s - forgiven_s) + processor_s
        self._charged_at = now
        if self._debt_s > self.debt_s_max:
            self.bar(now)

    def bar(self, now: float) -> None:
        """Off the loop for a while: longer when the last pause was not long ago. No effect during a pause."""
        if now < self.barred_until:
            return
        reformed = now - self.barred_until > _PAUSES_OF_GOOD_CONDUCT * self._pause_s
        self._pause_s = _PAUSE_S_MIN if reformed else min(_PAUSE_S_MAX, 4 * self._pause_s)
        self.barred_until, self._debt_s = now + self._pause_s, 0.0
