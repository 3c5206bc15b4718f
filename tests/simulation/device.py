"""A whole device without its machine: the real agent and inference cores of one boot after the other."""

from edge.agent.core import Agent, CommandArrived, LoadSeen, Measure, Measured, ReadVitals, Vitals, VitalsRead
from edge.inference.core import InferArrived, Inference, LoadChanged, ModelsChanged, Ran, RunModule
from shared.core import Effect, Publish, Tick
from shared.messages import Capabilities, ModelState, Presence, ReportedModel, ReportedModels
from shared.topics import COMMAND, INFER, PRESENCE, REPORTED
from shared.wire import packed
from simulation.network import Member, Network

VITALS = Vitals(
    at_unix_s=0.0,
    cpu_ratio=0.25,
    memory_ratio=0.5,
    memory_available_bytes=1 << 29,
    disk_ratio=0.1,
    agent_rss_bytes=1 << 25,
)
WILL_DELAY_S = (5.0, 10.0)


class Device:
    """Boots, crashes and boots again with a newer epoch. ``service_s``: how long its module takes."""

    def __init__(
        self, net: Network, node: str, *, model: str = "", service_s: float = 0.01, slots: int = 1
    ) -> None:
        self.net, self.clock, self.node = net, net.clock, node
        self.model, self.service_s, self.slots = model, service_s, slots
        self.epoch, self.up = 0, False
        self._members: list[Member] = []

    def boot(self) -> None:
        """Start a new boot: programs come up, the link comes up, the machine is measured."""
        self.epoch, self.up = self.epoch + 1, True
        agent = Agent(self.node, self.epoch, "0.1", self.clock.random, slots=self.slots)
        self._agent = Member(self.net, self.node, agent, self._perform)
        self._agent.hears(COMMAND, lambda ids, got: CommandArrived(ids["verb"], got), node=self.node)
        self._members = [self._agent]
        if self.model:
            inference = Inference(self.node, self.epoch, self.slots)
            self._inference = Member(self.net, self.node, inference, self._perform)
            self._inference.hears(INFER, lambda ids, got: InferArrived(ids["model"], got), node=self.node)
            self._members.append(self._inference)
        for member in self._members:
            member.connect()
        self._wake(self.epoch)
        if self.model:
            self._load_model()

    def crash(self) -> None:
        """Die without a word. The broker speaks the last will of this boot some seconds later, even where
        the device is back by then: a receiver must cope with the will of an old epoch."""
        self.up = False
        for member in self._members:
            member.kill()
        will = Presence(epoch=self.epoch, online=False, reason="will")
        self.clock.after(
            self.clock.random.uniform(*WILL_DELAY_S), self.net.publish, PRESENCE.at(node=self.node), will
        )

    def _wake(self, epoch: int) -> None:
        """Tick the agent when its next heartbeat is due, instead of ever so often."""
        if self.up and epoch == self.epoch:
            self._agent.feed(Tick())
            wait_s = self._agent.core.next_heartbeat - self.clock.now
            self.clock.after(max(wait_s, 0.1), self._wake, epoch)

    def _load_model(self) -> None:
        self._inference.feed(ModelsChanged(frozenset({self.model})))
        held = {self.model: ReportedModel(digest="d1", state=ModelState.READY)}
        report = ReportedModels(epoch=self.epoch, version=1, models=held)
        self.net.publish(REPORTED.at(node=self.node), report)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Measure():
                able = Capabilities(cores=4, memory_bytes=1 << 30, wasm_gflops=0.02 / self.service_s)
                self.clock.after(0.5, self._agent.feed, Measured(able))
            case ReadVitals():
                self._agent.feed(VitalsRead(VITALS))
            case LoadChanged(queue_depth, in_flight, models):
                self._agent.feed(LoadSeen(queue_depth, in_flight, models))
            case RunModule(key):
                took_s = self.service_s * self.clock.random.uniform(0.8, 1.2)
                self.clock.after(took_s, self._inference.feed, Ran(key, packed([1.0]), took_s))
            case Publish():
                raise AssertionError("the network publishes")
