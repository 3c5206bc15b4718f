"""The life of one boot of a device, as the cloud sees it.

    BOOTING ──measured──> SERVING ──stop / drain command──> DRAINING ──idle or deadline──> STOPPED
        └───────────────────── stop ────────────────────────────┘

A boot has an *epoch*, a number that only grows. Presence (also the last will), birth and heartbeat carry
it, so that the will of an old connection can never take down the boot that followed.

The link comes and goes without a change of phase: a device serves local requests with no broker at all.
Each time the link is up, presence, birth and a heartbeat are sent (a broker may have lost what it had
retained), and only then: after the subscriptions stand, so that whoever reads the birth may send at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from shared.core import Chance, Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick, Work
from shared.errors import InvalidTransition
from shared.messages import (
    Birth,
    Capabilities,
    CloudPresence,
    Command,
    CommandVerb,
    Heartbeat,
    NodeState,
    Pong,
    Presence,
    Reply,
    ReplyStatus,
)
from shared.topics import BIRTH, HEARTBEAT, PRESENCE, REPLY
from shared.wire import packed

NEW_CLOUD_S = 1.0  # a fleet spreads its heartbeats for a new cloud over this


class Phase(StrEnum):
    """Where this boot is in its life."""

    BOOTING = "booting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.BOOTING: frozenset({Phase.SERVING, Phase.DRAINING}),
    Phase.SERVING: frozenset({Phase.DRAINING}),
    Phase.DRAINING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Vitals:
    """One reading of the machine. Ratios are 0 to 1."""

    at_unix_s: float
    cpu_ratio: float
    memory_ratio: float
    memory_available_bytes: int
    disk_ratio: float
    agent_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """The device knows what it can do."""

    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class VitalsRead:
    """The reading that a heartbeat carries."""

    vitals: Vitals


@dataclass(frozen=True, slots=True)
class LoadSeen:
    """What inference is doing now."""

    queue_depth: int
    in_flight: int
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommandArrived:
    """The cloud tells us to do something."""

    verb: str
    command: Command


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """What the cloud says of itself."""

    presence: CloudPresence


@dataclass(frozen=True, slots=True)
class TroubleSeen:
    """Something needs a person: the store fell back, the disk is full. Empty: it is over."""

    what: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """SIGTERM, or a drain command."""

    reason: str


@dataclass(frozen=True, slots=True)
class Measure(Work):
    """Find out cores, memory and how fast WebAssembly runs here."""


@dataclass(frozen=True, slots=True)
class ReadVitals(Work):
    """Read the machine for a heartbeat."""


@dataclass(frozen=True, slots=True)
class ReadForPing(Work):
    """Read the machine for the answer to a ping."""

    command: Command


@dataclass(frozen=True, slots=True)
class PingRead:
    """What the answer to a ping says."""

    command: Command
    vitals: Vitals


@dataclass(frozen=True, slots=True)
class StartDraining(Effect):
    """Tell every capability to finish what it has and take nothing new."""


@dataclass(frozen=True, slots=True)
class Exit(Effect):
    """Flush the outbox, say goodbye to the broker, end the process."""

    reason: str


Event = (
    Measured
    | VitalsRead
    | LoadSeen
    | CommandArrived
    | PingRead
    | CloudSeen
    | TroubleSeen
    | StopAsked
    | LinkUp
    | LinkDown
    | Tick
    | Failed
)


@dataclass(slots=True)
class Agent:
    """Presence, birth and heartbeat of one boot."""

    node: str
    epoch: int
    version: str
    chance: Chance
    address: str = ""
    labels: Mapping[str, str] | None = None
    slots: int = 1
    heartbeat_s: float = 10.0
    drain_s: float = 10.0
    phase: Phase = Phase.BOOTING
    capabilities: Capabilities | None = None
    online: bool = False
    measuring: bool = False
    sequence: int = 0
    next_heartbeat: float = 0.0
    drain_deadline: float = 0.0
    load: LoadSeen = LoadSeen(0, 0, ())
    trouble: str = ""
    stop_reason: str = ""
    failures: int = 0
    cloud_term: int = 0

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Tick():
                return self._tick(now)
            case LoadSeen():
                return self._loaded(event, now)
            case VitalsRead(vitals):
                return self._heartbeat(vitals)
            case PingRead(command, vitals):
                return [self._pong(command, vitals)]
            case CommandArrived(verb, command):
                return self._commanded(verb, command, now)
            case Measured(capabilities):
                return self._measured(capabilities)
            case LinkUp():
                self.online = True
                return self._announce(now)
            case StopAsked(reason):
                return self._drain(reason, now)
            case _:
                return self._noted(event, now)

    def _noted(self, event: Event, now: float) -> list[Effect]:
        """What changes only what later heartbeats say."""
        match event:
            case LinkDown():
                self.online = False
            case TroubleSeen(what):
                self.trouble = what
                self.next_heartbeat = now
            case CloudSeen(presence) if presence.online and presence.term > self.cloud_term:
                # A cloud that just started vouches for nobody: show it that we live, but not all at once.
                self.cloud_term = presence.term
                soon = now + self.chance.uniform(0.0, min(NEW_CLOUD_S, self.heartbeat_s))
                self.next_heartbeat = min(self.next_heartbeat, soon)
            case Failed(Measure(), _) if self.phase is Phase.BOOTING:
                self.measuring = False  # asked again at the next tick
                self.failures += 1
            case Failed():
                self.failures += 1
        return []

    def _tick(self, now: float) -> list[Effect]:
        match self.phase:
            case Phase.BOOTING if not self.measuring:
                self.measuring = True
                return [Measure(), *self._due(now)]
            case Phase.DRAINING if now >= self.drain_deadline or self._is_idle():
                return self._stop()
            case Phase.STOPPED:
                return []
        return self._due(now)

    def _due(self, now: float) -> list[Effect]:
        if not self.online or now < self.next_heartbeat:
            return []
        # Jitter keeps a fleet that started together from speaking together.
        self.next_heartbeat = now + self.heartbeat_s * self.chance.uniform(0.9, 1.1)
        return [ReadVitals()]

    def _loaded(self, load: LoadSeen, now: float) -> list[Effect]:
        self.load = load
        if self.phase is Phase.DRAINING and self._is_idle():
            return self._stop()
        return self._due(now) if self.online and self.phase is Phase.SERVING else []

    def _is_idle(self) -> bool:
        return self.load.in_flight == 0 and self.load.queue_depth == 0

    def _measured(self, capabilities: Capabilities) -> list[Effect]:
        self.capabilities = capabilities
        if self.phase is Phase.BOOTING:
            self._enter(Phase.SERVING)
        return self._birth()

    def _announce(self, now: float) -> list[Effect]:
        if self.phase is Phase.STOPPED:
            return []
        self.next_heartbeat = now
        presence = Presence(epoch=self.epoch, online=True, reason="start")
        return [Publish(PRESENCE.at(node=self.node), presence), *self._birth(), *self._due(now)]

    def _birth(self) -> list[Effect]:
        if self.capabilities is None or not self.online:
            return []
        birth = Birth(
            epoch=self.epoch,
            agent_version=self.version,
            address=self.address,
            capabilities=self.capabilities,
            labels=dict(self.labels or {}),
            slots=self.slots,
            heartbeat_s=self.heartbeat_s,
        )
        return [Publish(BIRTH.at(node=self.node), birth)]

    def _heartbeat(self, vitals: Vitals) -> list[Effect]:
        self.sequence += 1
        heartbeat = Heartbeat(
            epoch=self.epoch,
            sequence=self.sequence,
            state=self._state(),
            queue_depth=self.load.queue_depth,
            in_flight=self.load.in_flight,
            tasks=self.load.tasks,
            cpu_ratio=vitals.cpu_ratio,
            memory_ratio=vitals.memory_ratio,
            memory_available_bytes=vitals.memory_available_bytes,
            disk_ratio=vitals.disk_ratio,
            agent_rss_bytes=vitals.agent_rss_bytes,
            at_unix_s=vitals.at_unix_s,
        )
        return [Publish(HEARTBEAT.at(node=self.node), heartbeat)]

    def _state(self) -> NodeState:
        if self.phase in (Phase.DRAINING, Phase.STOPPED):
            return NodeState.DRAINING
        if self.trouble:
            return NodeState.ERROR
        return NodeState.IDLE if self._is_idle() else NodeState.BUSY

    def _commanded(self, verb: str, command: Command, now: float) -> list[Effect]:
        if command.epoch not in (0, self.epoch):
            detail = f"meant for boot {command.epoch}; this is {self.epoch}"
            return [self._reply(command, ReplyStatus.REFUSED, "stale-epoch", detail)]
        done = self._reply(command, ReplyStatus.OK)
        match verb:
            case CommandVerb.PING:
                return [ReadForPing(command)]
            case CommandVerb.ANNOUNCE:
                return [*self._announce(now), done]
            case CommandVerb.DRAIN:
                return [done, *self._drain(f"drain command from {command.caller}", now)]
            case _:
                return [
                    self._reply(
                        command, ReplyStatus.REFUSED, "no-such-command", f"{verb!r} is not known here"
                    )
                ]

    def _pong(self, command: Command, vitals: Vitals) -> Effect:
        pong = Pong(
            epoch=self.epoch,
            agent_version=self.version,
            at_unix_s=vitals.at_unix_s,
            disk_ratio=vitals.disk_ratio,
            trouble=self.trouble,
        )
        reply = Reply(correlation=command.correlation, body=packed(pong), node=self.node)
        return Publish(REPLY.at(node=self.node, caller=command.caller), reply)

    def _reply(self, command: Command, status: ReplyStatus, code: str = "", detail: str = "") -> Effect:
        reply = Reply(
            correlation=command.correlation, status=status, code=code, detail=detail, node=self.node
        )
        return Publish(REPLY.at(node=self.node, caller=command.caller), reply)

    def _drain(self, reason: str, now: float) -> list[Effect]:
        if self.phase in (Phase.DRAINING, Phase.STOPPED):
            return [Ignore(f"already {self.phase}")]
        self._enter(Phase.DRAINING)
        self.stop_reason, self.drain_deadline = reason, now + self.drain_s
        if self._is_idle():
            return [StartDraining(), *self._stop()]
        # The cloud must hear at once that nothing new should come here.
        return [StartDraining(), *([ReadVitals()] if self.online else [])]

    def _stop(self) -> list[Effect]:
        self._enter(Phase.STOPPED)
        gone = Presence(epoch=self.epoch, online=False, reason=self.stop_reason)
        return [Publish(PRESENCE.at(node=self.node), gone), Exit(self.stop_reason)]

    def _enter(self, phase: Phase) -> None:
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"{self.phase} -> {phase}")
        self.phase = phase

    def check(self) -> None:
        """Invariants."""
        assert self.phase is Phase.BOOTING or self.capabilities is not None or self.stop_reason
        assert self.phase is not Phase.STOPPED or self.stop_reason
        assert self.load.in_flight >= 0
