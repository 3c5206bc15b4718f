"""One artifact on its way to the disk.

    SEEKING --manifest--> OPENING --part--> FETCHING --all chunks--> LANDING --> (the models core ends it)
        \\___________________\\__________________\\_______________________/
                         deadline, refusal or a full disk --> FAILED

The device pulls. A Want asks for as many chunks as the window has room for and is sent again whenever a
quarter of the window has arrived, so at most one window waits in the broker for a slow device. The window
starts small, grows by one with each chunk, and falls back when nothing comes. Chunks that other devices
asked for are heard too: whatever is missing is taken.

Loss is noticed by silence only. A chunk that was asked for is not asked for again while others keep
coming: on a slow link it is simply still in the queue, and asking twice would fill the link with
duplicates. How long silence may last (``patience_s``) follows the link: four times the longest recent gap
between chunks, as TCP's retransmission timer follows the round trip (RFC 6298), doubled at each silence.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edge.artifacts.events import ChunkArrived, Land, ManifestArrived, OpenPart, PartOpened, WriteChunk
from shared.artifacts import check_manifest, chunk_count, chunk_digest, ranges_of, runs_on
from shared.core import Effect, Ignore, Publish
from shared.errors import InvalidTransition, Unreadable
from shared.messages import Manifest, Want
from shared.package import ModuleKind
from shared.topics import MIB, WANT


class Stage(StrEnum):
    """How far a fetch is."""

    SEEKING = "seeking"
    OPENING = "opening"
    FETCHING = "fetching"
    LANDING = "landing"
    FAILED = "failed"


NEXT: Mapping[Stage, frozenset[Stage]] = {
    Stage.SEEKING: frozenset({Stage.OPENING, Stage.FAILED}),
    Stage.OPENING: frozenset({Stage.FETCHING, Stage.LANDING, Stage.FAILED}),
    Stage.FETCHING: frozenset({Stage.LANDING, Stage.FAILED}),
    Stage.LANDING: frozenset({Stage.FAILED}),
    Stage.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How a device fetches. ``window_min``, ``window_max``: chunks asked for and not here yet."""

    size_bytes_max: int = 512 * MIB
    kinds: frozenset[ModuleKind] = frozenset(ModuleKind)
    agent_version: str = "0.1.0"
    window_min: int = 4
    window_max: int = 32
    patience_min_s: float = 5.0
    patience_max_s: float = 60.0
    manifest_deadline_s: float = 30.0
    progress_deadline_s: float = 300.0


@dataclass(slots=True)
class Fetch:
    """Pulls one artifact. ``chance`` returns numbers in [0, 1): it spreads the retries of a fleet.

    ``durable``: whether it has to outlast a power cut.
    """

    digest: str
    node: str
    limits: FetchLimits
    chance: Callable[[], float]
    linked: bool
    deadline: float
    durable: bool = True
    stage: Stage = Stage.SEEKING
    reason: str = ""
    manifest: Manifest | None = None
    missing: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    window: int = 0
    patience_s: float = 0.0
    heard_at: float = 0.0
    silent_at: float = 0.0

    def learn(self, event: ManifestArrived, now: float) -> list[Effect]:
        """Take the manifest; nothing is written or asked for before it is proved."""
        if self.stage is not Stage.SEEKING:
            return [Ignore(f"manifest while {self.stage}")]
        refusal = self._refusal(event)
        if refusal:
            return self.fail(refusal)
        self.manifest = event.manifest
        self.deadline = now + self.limits.progress_deadline_s
        return self._enter(Stage.OPENING, OpenPart(self.digest, event.manifest))

    def opened(self, event: PartOpened, now: float) -> list[Effect]:
        """The part file is there: ask for what it lacks."""
        if self.stage is not Stage.OPENING or self.manifest is None:
            return [Ignore(f"part opened while {self.stage}")]
        self.missing = set(range(chunk_count(self.manifest))) - event.have
        self.deadline = now + self.limits.progress_deadline_s
        if not self.missing:
            return self._enter(Stage.LANDING, Land(self.digest, self.durable))
        self.window, self.patience_s = self.limits.window_min, self.limits.patience_min_s
        self.heard_at = now
        self._wait(now)
        return self._enter(Stage.FETCHING, *self._ask())

    def take(self, event: ChunkArrived) -> list[Effect]:
        """Have a missing chunk written when it is what the manifest promised."""
        if self.stage is not Stage.FETCHING or self.manifest is None or event.index not in self.missing:
            return [Ignore(f"chunk {event.index} is not missing")]
        if event.sha256 != chunk_digest(self.manifest, event.index):
            return [Ignore(f"chunk {event.index} is not what was signed")]
        return [WriteChunk(self.digest, event.index, event.index * self.manifest.chunk_bytes)]

    def written(self, index: int, now: float) -> list[Effect]:
        """One chunk less to ask for."""
        if self.stage is not Stage.FETCHING or index not in self.missing:
            return [Ignore(f"chunk {index} was written already")]
        self.missing.remove(index)
        self.asked.discard(index)
        self.window = min(self.window + 1, self.limits.window_max)
        self._pace(now)
        self.deadline = now + self.limits.progress_deadline_s
        if not self.missing:
            return self._enter(Stage.LANDING, self._want(()), Land(self.digest, self.durable))
        return self._ask() if len(self.asked) <= self.window * 3 // 4 else []

    def tick(self, now: float) -> list[Effect]:
        """Give up at the deadline; ask again after silence."""
        if now >= self.deadline:
            return self.fail(self._overdue())
        if self.stage is not Stage.FETCHING or not self.linked or now < self.silent_at:
            return []
        self.patience_s = min(self.patience_s * 2, self.limits.patience_max_s)
        return self._start_over(now)

    def link(self, up: bool, resumed: bool, now: float) -> list[Effect]:
        """A broker that forgot our session also forgot the chunks it held for us."""
        self.linked = up
        if not up or self.stage is not Stage.FETCHING or (resumed and self.asked):
            return []
        return self._start_over(now)

    def fail(self, reason: str) -> list[Effect]:
        """End it here. What lies in the part file stays for the next try."""
        self.reason = reason
        return self._enter(Stage.FAILED)

    def leave(self) -> list[Effect]:
        """Nobody needs the artifact any more: tell the cloud to stop sending."""
        return [self._want(())] if self.stage is Stage.FETCHING and self.asked else []

    @property
    def size_bytes(self) -> int:
        """Of the whole artifact; 0 before the manifest is known."""
        return self.manifest.size_bytes if self.manifest is not None else 0

    @property
    def bytes_have(self) -> int:
        """What lies verified in the part file (the last chunk counted as a full one until it is there)."""
        if self.manifest is None or self.stage is Stage.OPENING:
            return 0
        return max(0, self.manifest.size_bytes - len(self.missing) * self.manifest.chunk_bytes)

    def check(self) -> None:
        """Invariants."""
        assert self.asked <= self.missing
        assert len(self.asked) <= self.limits.window_max
        assert (self.manifest is None) is (self.stage is Stage.SEEKING) or self.stage is Stage.FAILED
        assert self.stage is not Stage.LANDING or not self.missing
        assert self.stage is not Stage.FETCHING or (self.missing and self.patience_s > 0)
        assert (self.stage is Stage.FAILED) is bool(self.reason)

    def _refusal(self, event: ManifestArrived) -> str | None:
        manifest, limits = event.manifest, self.limits
        if not event.genuine:
            return "the manifest's signature does not verify with the cloud's key"
        try:
            check_manifest(manifest, size_bytes_max=limits.size_bytes_max)
            new_enough = runs_on(limits.agent_version, manifest.agent_version_min)
        except Unreadable as error:
            return str(error)
        if manifest.digest != self.digest:
            return "the manifest describes another artifact"
        if manifest.kind not in limits.kinds:
            return f"this device does not run {manifest.kind} modules"
        if not new_enough:
            return f"needs agent {manifest.agent_version_min}; this is {limits.agent_version}"
        return None

    def _overdue(self) -> str:
        link = "" if self.linked else "; the link is down"
        if self.stage is Stage.SEEKING:
            return f"no manifest within {self.limits.manifest_deadline_s:g} s{link}"
        return f"no progress while {self.stage} for {self.limits.progress_deadline_s:g} s{link}"

    def _start_over(self, now: float) -> list[Effect]:
        self.asked.clear()
        self.window = self.limits.window_min
        self._wait(now)
        return self._ask()

    def _ask(self) -> list[Effect]:
        """Ask for the lowest missing chunks: devices that start together then ask for the same ones."""
        if not self.linked:
            return []
        room = self.window - len(self.asked)
        fresh = heapq.nsmallest(room, (index for index in self.missing if index not in self.asked))
        self.asked.update(fresh)
        return [self._want(ranges_of(fresh))] if fresh else []

    def _want(self, ranges: tuple[tuple[int, int], ...]) -> Publish[Want]:
        return Publish(WANT.at(node=self.node), Want(digest=self.digest, ranges=ranges))

    def _pace(self, now: float) -> None:
        """A gap counts at once; the memory of it fades by a tenth with each chunk."""
        gap_s = now - self.heard_at
        patience_s = max(4 * gap_s, 0.9 * self.patience_s, self.limits.patience_min_s)
        self.patience_s = min(patience_s, self.limits.patience_max_s)
        self.heard_at = now
        self._wait(now)

    def _wait(self, now: float) -> None:
        self.silent_at = now + self.patience_s * (1 + 0.5 * self.chance())

    def _enter(self, stage: Stage, *effects: Effect) -> list[Effect]:
        if stage not in NEXT[self.stage]:
            raise InvalidTransition(f"fetch {self.digest[:8]}: {self.stage} -> {stage}")
        self.stage = stage
        return list(effects)
