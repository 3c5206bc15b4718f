"""Which artifacts are required of the device's artifact folder, and which are here."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from edge.training.events import Available, Release, Require, Unavailable
from shared.core import Effect


@dataclass(slots=True)
class Barred:
    """An artifact that could not be had: not asked for again before ``until``."""

    until: float
    wait_s: float


@dataclass(slots=True)
class Borrowing:
    """``required``: asked for and not refused; ``here``: digest -> path of what was lent."""

    chance: Callable[[], float]
    retry_min_s: float
    retry_max_s: float
    required: set[str] = field(default_factory=set)
    here: dict[str, str] = field(default_factory=dict)
    barred: dict[str, Barred] = field(default_factory=dict)

    def available(self, event: Available) -> bool:
        """It is here. False: nobody needs it any more."""
        if event.digest not in self.required:
            return False
        self.here[event.digest] = event.path
        self.barred.pop(event.digest, None)
        return True

    def unavailable(self, event: Unavailable, now: float) -> bool:
        """It will be asked for again, later each time. False: nobody needs it any more."""
        digest, last = event.digest, self.barred.get(event.digest)
        if digest not in self.required:
            return False
        self.required.discard(digest)
        self.here.pop(digest, None)
        wait_s = min(2 * last.wait_s, self.retry_max_s) if last else self.retry_min_s
        self.barred[digest] = Barred(now + wait_s * (1 + 0.5 * self.chance()), wait_s)
        return True

    def keep(self, needs: Set[str], now: float) -> list[Effect]:
        """Require what is needed, release what is not."""
        self.barred = {digest: one for digest, one in self.barred.items() if digest in needs}
        effects: list[Effect] = []
        for digest in sorted(self.required - needs):
            self.required.discard(digest)
            self.here.pop(digest, None)
            effects.append(Release(digest))
        for digest in sorted(needs - self.required):
            if digest not in self.barred or now >= self.barred[digest].until:
                self.required.add(digest)
                effects.append(Require(digest))
        return effects

    def check(self, needs: Set[str]) -> None:
        """Invariants."""
        assert self.here.keys() <= self.required <= needs
        assert self.barred.keys() <= needs
