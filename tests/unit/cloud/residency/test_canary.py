"""No byte of tagged data reaches a node that may not have it, whatever the services do."""

import pytest

from broker.guard import PASS, GuardedBus
from cloud.residency.gate import Gate
from shared.carried import Cargo, Item
from shared.judged import Judged
from shared.residency import Place
from tests.support.canary import Case

QUICK_CASES, ALL_CASES, STEPS = 400, 100_000, 25


def heard(cases: range, gate: type[Gate] = Gate, bus: type[GuardedBus] = GuardedBus) -> tuple[int, int]:
    """Tokens that arrived (all rightly), and messages that were withheld."""
    arrivals = refused = 0
    for seed in cases:
        case = Case(seed, gate, bus)
        case.run(STEPS)
        arrivals, refused = arrivals + case.arrivals, refused + case.refused
    return arrivals, refused


def test_no_canary_is_heard_where_it_must_not_be() -> None:
    arrivals, refused = heard(range(QUICK_CASES))
    assert arrivals > QUICK_CASES / 4
    assert refused > QUICK_CASES


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_canary_is_heard_in_a_hundred_thousand_random_worlds() -> None:
    arrivals, _ = heard(range(QUICK_CASES, QUICK_CASES + ALL_CASES))
    assert arrivals > ALL_CASES / 4


# The listener would hear it -------------------------------------------------------------------------


class LooksAtOneWrite(Gate):
    """Forgets that the loser of a conflict is in the message too."""

    def _look(self, cargo: Cargo, item: Item) -> Judged:
        return super()._look(cargo, Item(item.key, item.kind, item.writes[:1], item.artifact))


class TakesAllForOne(Gate):
    """Thinks that what is said to all is read by one node at home."""

    def _reader(self, node: str) -> Place:
        return super()._reader(node) if node else Place("n1", self._core.regions.get("n1", ""))


class NeverLooksBack(GuardedBus):
    """Leaves what is retained when the policy changes."""

    def judge_again(self) -> None:
        """Nothing."""


class DoesNotWait(GuardedBus):
    """Sends before the decision is written down."""

    def _hold(self, ticket: int, held: object) -> bool:
        super()._hold(ticket, held)  # type: ignore[arg-type]
        self.released([ticket])
        return True


class Trusts(Gate):
    """Is never asked about settings."""

    def judge(self, topic: str, payload: bytes) -> int:
        return PASS if "/desired/" in topic else super().judge(topic, payload)


@pytest.mark.parametrize("gate", [LooksAtOneWrite, TakesAllForOne, Trusts])
def test_a_gate_with_a_hole_is_found(gate: type[Gate]) -> None:
    with pytest.raises(AssertionError, match=r"reached|retains"):
        heard(range(5_000), gate=gate)


@pytest.mark.parametrize("bus", [NeverLooksBack, DoesNotWait])
def test_a_bus_with_a_hole_is_found(bus: type[GuardedBus]) -> None:
    with pytest.raises(AssertionError, match=r"reached|retains"):
        heard(range(5_000), bus=bus)
