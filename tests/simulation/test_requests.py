"""Requests through the balancer while devices are killed under them."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest

from cloud.balancer.core import Balancer, DeclineHeard, InferAsked, ReplyHeard
from cloud.facts import NodeChanged
from cloud.registry.core import Registry
from cloud.registry.events import BirthSeen, HeartbeatSeen, PresenceSeen, ReportedSeen
from shared.config import BalancerSection
from shared.core import Effect, LinkDown, LinkUp, Tick
from shared.messages import InferAsk, Reply, ReplyStatus
from shared.topics import APP_INFER, APP_REPLY, BIRTH, DECLINED, HEARTBEAT, PRESENCE, REPLY, REPORTED
from shared.wire import packed
from simulation.network import Clock, Member, Network
from tests.simulation.device import Device

APP = "app"
MODEL = "digits"


@dataclass
class App:
    """Asks, and keeps every answer."""

    answers: dict[str, list[Reply]] = field(default_factory=lambda: defaultdict(list))

    def step(self, event: Reply | LinkUp | LinkDown, now: float) -> list[Effect]:
        if isinstance(event, Reply):
            self.answers[event.correlation].append(event)
        return []

    def check(self) -> None:
        """Nothing to check."""


class World:
    """Registry and balancer as the cloud wires them, an app, and devices that hold one model."""

    def _told(self, effect: Effect) -> None:
        if isinstance(effect, NodeChanged):  # the store, to which the rest goes, is not part of this story
            self._balance.feed(effect)

    def __init__(self, seed: int, devices: int, *, loss: float = 0.0, budget_s: float = 5.0) -> None:
        self.clock, self.budget_s = Clock(seed), budget_s
        self.net = Network(self.clock, loss=loss, delay_s=(0.001, 0.02))
        self.balancer, self.app = Balancer(BalancerSection()), App()
        self.asked = 0
        self._balance = Member(self.net, "balancer", self.balancer, self._nothing)
        self._balance.hears(APP_INFER, lambda ids, got: InferAsked(ids["app"], got))
        self._balance.hears(REPLY, lambda ids, got: ReplyHeard(ids["node"], ids["caller"], got))
        self._balance.hears(DECLINED, lambda ids, got: DeclineHeard(ids["node"], got))
        self._register = Member(self.net, "registry", Registry(), self._told)
        self._register.hears(HEARTBEAT, lambda ids, got: HeartbeatSeen(ids["node"], got))
        self._register.hears(PRESENCE, lambda ids, got: PresenceSeen(ids["node"], got))
        self._register.hears(BIRTH, lambda ids, got: BirthSeen(ids["node"], got))
        self._register.hears(REPORTED, lambda ids, got: ReportedSeen(ids["node"], got))
        self._caller = Member(self.net, APP, self.app, self._nothing)
        self._caller.hears(REPLY, lambda ids, got: got, caller=APP)
        self._caller.hears(APP_REPLY, lambda ids, got: got, app=APP)
        for member in (self._register, self._balance, self._caller):
            member.connect()
        self.devices = [
            Device(
                self.net, f"n{number}", model=MODEL, service_s=0.01 * (1 + number % 3), slots=1 + number % 2
            )
            for number in range(devices)
        ]
        for device in self.devices:
            device.boot()
        self.clock.every(1.0, lambda: self._register.feed(Tick()))
        self.clock.every(0.1, self._tick)

    def _tick(self) -> None:
        self._balance.feed(Tick())
        self.balancer.check()

    def _nothing(self, effect: Effect) -> None:
        raise AssertionError(f"nothing performs {effect}")

    def ask(self) -> None:
        self.asked += 1
        request = InferAsk(
            correlation=f"c{self.asked}", budget_s=self.budget_s, model=MODEL, inputs=packed([1.0])
        )
        self.net.publish(APP_INFER.at(app=APP), request)

    def outcomes(self) -> Counter[str]:
        """How the requests ended for the app: the first answer counts, none is a timeout."""
        firsts = (self.app.answers.get(f"c{number + 1}") for number in range(self.asked))
        return Counter(
            f"{found[0].status} {found[0].code}".strip() if found else "timeout" for found in firsts
        )


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_device_costs_no_repeatable_request_its_answer(seed: int) -> None:
    world = World(seed, devices=6)
    world.clock.run(12.0)
    for number in range(8):
        victim = world.devices[number % 6]
        world.clock.after(3.0 + 15.0 * number, victim.crash)
        world.clock.after(13.0 + 15.0 * number, victim.boot)
    while world.clock.now < 135.0:
        world.ask()
        world.clock.run(world.clock.now + 0.02)
    world.clock.run(world.clock.now + 6.0)
    assert world.outcomes() == {ReplyStatus.OK: world.asked}
    assert world.balancer.waiting == 0
    assert world.balancer.counts["rescued from silence"] >= 4
    shares = Counter(answers[0].node for answers in world.app.answers.values())
    assert len(shares) == 6


def test_lost_messages_are_made_good_where_the_balancer_can_know_of_them() -> None:
    """What is lost between app and cloud is a timeout for the app, and nothing waits for ever."""
    world = World(seed=5, devices=6, loss=0.05)
    world.clock.run(30.0)
    while world.clock.now < 60.0:
        world.ask()
        world.clock.run(world.clock.now + 0.02)
    world.clock.run(world.clock.now + 6.0)
    outcomes = world.outcomes()
    assert outcomes.keys() <= {"ok", "timeout"}
    assert 0.9 < outcomes["ok"] / world.asked < 0.99
    assert world.balancer.waiting == 0
