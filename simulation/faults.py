"""What goes wrong, drawn from one seed: for any simulated processes that can be cut off, killed and misled.

    calm ──> fault ──> calm ──> fault ──> ... ──> healed

A schedule is a list of moments, drawn before anything runs, so that a seed tells the same story with a
mistake in the code and without. Every process is a :class:`Victim`; what its crash loses is its own affair.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from simulation.network import Clock, Network

HOUR_MS = 3_600_000


class Victim(Protocol):
    """A process, its link and its wall clock. Each verb does nothing where it makes no sense."""

    skew_ms: int

    def cut(self) -> None:
        """Lose the link; the process lives on."""
        ...

    def mend(self) -> None:
        """Have the link again."""
        ...

    def crash(self) -> None:
        """Lose the process, and what its disk had not confirmed."""
        ...

    def revive(self) -> None:
        """Start again from the disk."""
        ...


class Fault(StrEnum):
    """What can happen."""

    LOSS = "loss"  # messages are lost, repeated and reordered more than usual
    PARTITION = "partition"  # some are cut off together
    CRASH = "crash"  # one loses its process
    JUMP = "jump"  # one wall clock jumps by an hour, either way
    OUTAGE = "outage"  # the first victim (the server) loses its process
    USURPER = "usurper"  # another server takes over while the first one lives


@dataclass(frozen=True, slots=True)
class Moment:
    """One fault: when, for how long, and with what dice."""

    at: float
    fault: Fault
    lasts_s: float
    seed: int


def schedule(
    seed: int,
    until_s: float,
    faults: Sequence[Fault] = tuple(Fault),
    *,
    pause_s: tuple[float, float] = (0.2, 4.0),
    lasts_s: tuple[float, float] = (0.1, 6.0),
) -> list[Moment]:
    """Faults that begin before ``until_s`` and may overlap."""
    rng, now, moments = random.Random(f"faults {seed}"), 0.0, list[Moment]()
    while True:
        now += rng.uniform(*pause_s)
        if now >= until_s:
            return moments
        moments.append(Moment(now, rng.choice(faults), rng.uniform(*lasts_s), rng.randrange(1 << 30)))


class Nemesis:
    """Makes a schedule come true. ``usurp``: start another server; it is told when the fault is over."""

    def __init__(
        self,
        clock: Clock,
        net: Network,
        server: Victim,
        others: Sequence[Victim],
        usurp: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._clock, self._net, self._server, self._others, self._usurp = clock, net, server, others, usurp
        self._usual = net.loss, net.repetition, net.delay_s

    def follow(self, moments: Sequence[Moment]) -> None:
        """From now on."""
        for moment in moments:
            self._clock.after(moment.at, self._strike, moment)

    def _strike(self, moment: Moment) -> None:
        rng = random.Random(moment.seed)
        undo = _DEEDS[moment.fault](self, rng)
        self._clock.after(moment.lasts_s, undo)

    def _loss(self, rng: random.Random) -> Callable[[], None]:
        self._net.loss, self._net.repetition = rng.uniform(0.0, 0.4), rng.uniform(0.0, 0.3)
        self._net.delay_s = (0.001, rng.choice((0.05, 0.5, 2.0)))
        return self._calm

    def _calm(self) -> None:
        self._net.loss, self._net.repetition, self._net.delay_s = self._usual

    def _partition(self, rng: random.Random) -> Callable[[], None]:
        everybody = [self._server, *self._others]
        some = rng.sample(everybody, rng.randrange(1, len(everybody)))
        for one in some:
            one.cut()

        def over() -> None:
            for one in some:
                one.mend()

        return over

    def _crash(self, rng: random.Random) -> Callable[[], None]:
        one = rng.choice(self._others)
        one.crash()
        return one.revive

    def _outage(self, _: random.Random) -> Callable[[], None]:
        self._server.crash()
        return self._server.revive

    def _jump(self, rng: random.Random) -> Callable[[], None]:
        one = rng.choice([self._server, *self._others])
        one.skew_ms = rng.choice((-HOUR_MS, HOUR_MS, 0))
        return lambda: None

    def _usurper(self, _: random.Random) -> Callable[[], None]:
        self._usurp(True)
        return lambda: self._usurp(False)

    def heal(self) -> None:
        """Everybody is up, linked and tells the right time; nothing is lost any more."""
        self._net.loss, self._net.repetition, self._net.delay_s = 0.0, 0.0, (0.001, 0.05)
        for one in (self._server, *self._others):
            one.skew_ms = 0
            one.revive()
            one.mend()


_DEEDS: Mapping[Fault, Callable[[Nemesis, random.Random], Callable[[], None]]] = {
    Fault.LOSS: Nemesis._loss,
    Fault.PARTITION: Nemesis._partition,
    Fault.CRASH: Nemesis._crash,
    Fault.OUTAGE: Nemesis._outage,
    Fault.JUMP: Nemesis._jump,
    Fault.USURPER: Nemesis._usurper,
}
