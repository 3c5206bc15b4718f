"""Load balancing: the documented name over the balancer's core. It holds nothing of its own."""

from math import inf
from typing import Any

import msgspec

from cloud.balancer.core import Balancer


class EdgeLoadBalancer:
    """Chooses nodes by state, capability match, network latency and load, and explains each choice."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def select_node(self, model: str, budget_s: float = inf) -> str | None:
        """The node that would answer for ``model`` now; None when none can within ``budget_s``.

        Only a look: requests are placed by asking over the broker.
        """
        return self._balancer.preview(model, budget_s)

    def explain(self, app: str, correlation: str) -> dict[str, Any] | None:
        """Candidates with their scores, the excluded nodes by reason, and how the request ended so far.

        None when it is not among the newest few thousand requests.
        """
        found = self._balancer.explain(app, correlation)
        if found is None:
            return None
        outcome = self._balancer.outcome(app, correlation)
        return {**msgspec.to_builtins(found), "outcome": outcome.value if outcome else ""}

    def get_statistics(self) -> dict[str, int]:
        """Requests by how they went, and how many wait."""
        return {**self._balancer.counts, "waiting": self._balancer.waiting}
