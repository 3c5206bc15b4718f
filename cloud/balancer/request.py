"""One request on its way through the balancer, and afterwards the record of what was decided.

(asked) ──> SENT ──────reply──────────────> ANSWERED
  │          │ ├──dies, silent, declined──> RESENT ──> ANSWERED, DIED, DECLINED, EXPIRED
  │          │ ├──dies, no second try─────> DIED       (the app hears FAILED: it may have happened)
  │          │ └──declined, nobody else───> DECLINED   (the app hears REFUSED: it did not happen)
  │          └──────deadline──────────────> EXPIRED    (the app has timed out by itself)
  └── no node, no time, no room ──────────> SHED       (the app hears REFUSED: it did not happen)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from cloud.balancer.node import Node
from cloud.balancer.score import Standing
from shared.errors import InvalidTransition
from shared.messages import InferAsk
from shared.views import CandidateView, Explanation


class Phase(StrEnum):
    """Where a request is."""

    SENT = "sent"
    RESENT = "resent"
    ANSWERED = "answered"
    DIED = "died"
    DECLINED = "declined"
    EXPIRED = "expired"
    SHED = "shed"


START = frozenset({Phase.SENT, Phase.SHED})
NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.SENT: frozenset({Phase.RESENT, Phase.ANSWERED, Phase.DIED, Phase.DECLINED, Phase.EXPIRED}),
    Phase.RESENT: frozenset({Phase.ANSWERED, Phase.DIED, Phase.DECLINED, Phase.EXPIRED}),
    Phase.ANSWERED: frozenset(),
    Phase.DIED: frozenset(),
    Phase.DECLINED: frozenset(),
    Phase.EXPIRED: frozenset(),
    Phase.SHED: frozenset(),
}
OPEN = frozenset({Phase.SENT, Phase.RESENT})

Key = tuple[str, str]  # the app, its correlation


class Pending(msgspec.Struct, eq=False):
    """``ask`` is kept only while a second try is possible. ``patience_s``: silence beyond this is a fault.

    ``due``: when it is looked at again, the ``deadline`` at the latest.
    ``candidates``, ``excluded``, ``without_model``: what the choice was made from. ``alone``: nothing else
    was on the node when it was sent. ``first``: the node of the first try, once there was a second.
    """

    key: Key
    model: str
    candidates: tuple[Standing, ...]
    excluded: Mapping[str, int]
    without_model: int
    deadline: float
    due: float = 0.0
    phase: Phase = Phase.SENT
    ask: InferAsk | None = None
    ask_bytes: int = 0
    node: Node | None = None
    epoch: int = 0
    sent_at: float = 0.0
    patience_s: float = 0.0
    alone: bool = False
    first: str = ""

    def enter(self, phase: Phase) -> None:
        """Make a legal move. Raises :class:`InvalidTransition` for any other."""
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"request {self.key}: {self.phase} -> {phase}")
        self.phase = phase

    def explanation(self) -> Explanation:
        """Why it went where it went."""
        excluded = dict(self.excluded)
        if self.without_model:
            excluded["model absent"] = excluded.get("model absent", 0) + self.without_model
        return Explanation(
            request="/".join(self.key),
            model=self.model,
            chosen=self.node.fact.node if self.node is not None else "",
            retried=bool(self.first),
            candidates=tuple(_candidate(standing) for standing in self.candidates),
            excluded=excluded,
        )


def _candidate(standing: Standing) -> CandidateView:
    why = (
        f"{standing.kind.name.lower()}{', suspect' if standing.suspect else ''}: "
        f"service {standing.service_s * 1e3:.3g} ms, round trip {standing.round_trip_s * 1e3:.3g} ms, "
        f"{standing.load} in flight on {standing.slots} slots"
    )
    return CandidateView(node=standing.node, score_s=standing.cost_s, why=why)
