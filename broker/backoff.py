"""How long to wait before the next attempt to connect.

Exponential with *full jitter* (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015):
uniform between 0 and a limit that doubles. A fleet that lost its broker at one instant comes back spread
over the whole interval instead of in waves. A connection that was accepted and died young counts as a
failed attempt: a broker that accepts and then drops everybody would otherwise be stormed for ever.
"""

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """The delays of one client. ``stable_s``: a connection that lived so long proves the broker healthy."""

    rng: random.Random
    first_s: float = 0.5
    cap_s: float = 60.0
    stable_s: float = 30.0
    attempts: int = 0

    def ended(self, alive_s: float) -> float:
        """Seconds to wait after a connection that was up for ``alive_s`` (0: it never came up)."""
        if alive_s >= self.stable_s:
            self.attempts = 0
        limit_s = limit_after(self.attempts, self.first_s, self.cap_s)
        self.attempts += 1
        return self.rng.uniform(0.0, limit_s)


def limit_after(attempts: int, first_s: float, cap_s: float) -> float:
    """The longest delay after ``attempts`` failures: ``first_s`` doubled each time, at most ``cap_s``."""
    return min(cap_s, first_s * 2.0 ** min(attempts, 64))
