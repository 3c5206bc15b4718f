"""All artifacts on their way to this device, and the room they need on its disk."""

from collections.abc import Callable, Set
from dataclasses import dataclass, field

from edge.artifacts.events import (
    ChunkArrived,
    ChunkWritten,
    DeleteBlob,
    Event,
    Land,
    Landed,
    Listen,
    ManifestArrived,
    OpenPart,
    PartOpened,
    Unlisten,
    WriteChunk,
)
from edge.artifacts.fetch import Fetch, FetchLimits, Stage
from edge.artifacts.shelf import Shelf
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick


@dataclass(frozen=True, slots=True)
class Ended:
    """A fetch is over: the blob is in its place, or ``reason`` says why not."""

    digest: str
    reason: str = ""


@dataclass(slots=True)
class Fetches:
    """Runs one :class:`Fetch` per artifact that somebody waits for; the models core says which."""

    node: str
    limits: FetchLimits
    shelf: Shelf
    chance: Callable[[], float]
    linked: bool = False
    going: dict[str, Fetch] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)

    def seek(self, digest: str, now: float, *, durable: bool = True) -> list[Effect]:
        """Begin to fetch, unless that is going on already."""
        if digest in self.going:
            self.going[digest].durable |= durable
            return []
        deadline = now + self.limits.manifest_deadline_s
        fetch = Fetch(digest, self.node, self.limits, self.chance, self.linked, deadline, durable)
        self.going[digest] = fetch
        return [Listen(digest)]

    def keep_only(self, awaited: Set[str]) -> list[Effect]:
        """End the fetches that nobody waits for any more."""
        effects: list[Effect] = []
        for digest in sorted(self.going.keys() - awaited):
            effects += [*self.going.pop(digest).leave(), Unlisten(digest)]
        return effects

    def step(self, event: Event, now: float) -> tuple[list[Effect], list[Ended]]:
        """What is to be done, and which fetches are over."""
        effects = (
            self._all(event, now) if isinstance(event, Tick | LinkUp | LinkDown) else self._one(event, now)
        )
        ended, self.ended = self.ended, []
        return effects, ended

    def delete(self, digests: list[str]) -> list[Effect]:
        """Let go of what lies on the disk."""
        for digest in digests:
            self.shelf.forget(digest)
        return [DeleteBlob(digest) for digest in digests]

    def progress(self, digests: Set[str]) -> tuple[int, tuple[int, ...]]:
        """Of these: bytes here in all, and how far each fetch is, in tenths."""
        going = [one for digest, one in self.going.items() if digest in digests]
        tenths = tuple(10 * one.bytes_have // max(1, one.size_bytes) for one in going)
        return sum(one.bytes_have for one in going), tenths

    def check(self) -> None:
        """Invariants."""
        assert not self.ended
        for digest, fetch in self.going.items():
            assert fetch.digest == digest
            assert fetch.stage is not Stage.FAILED
            fetch.check()

    def _all(self, event: Tick | LinkUp | LinkDown, now: float) -> list[Effect]:
        if not isinstance(event, Tick):
            self.linked = isinstance(event, LinkUp)
        effects: list[Effect] = []
        for fetch in tuple(self.going.values()):
            match event:
                case Tick():
                    said = fetch.tick(now)
                case LinkUp(resumed):
                    said = fetch.link(True, resumed, now)
                case LinkDown():
                    said = fetch.link(False, False, now)
            effects += self._after(fetch, said)
        return effects

    def _one(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Landed(digest, size_bytes):
                return self._landed(digest, size_bytes)
            case Failed(OpenPart(digest) | WriteChunk(digest) | Land(digest), reason):
                return self._failed(digest, reason)
            case ManifestArrived(digest) | ChunkArrived(digest) | PartOpened(digest) | ChunkWritten(digest):
                fetch = self.going.get(digest)
                if fetch is not None:
                    return self._after(fetch, self._told(fetch, event, now))
                return [Ignore(f"nobody waits for {digest[:8]}")]
            case _:
                return [Ignore(f"{type(event).__name__} is not about an artifact")]

    def _told(
        self, fetch: Fetch, event: ManifestArrived | ChunkArrived | PartOpened | ChunkWritten, now: float
    ) -> list[Effect]:
        match event:
            case ManifestArrived():
                return self._with_room(fetch, fetch.learn(event, now))
            case ChunkArrived():
                return fetch.take(event)
            case PartOpened():
                return fetch.opened(event, now)
            case ChunkWritten():
                return fetch.written(event.index, now)

    def _with_room(self, fetch: Fetch, said: list[Effect]) -> list[Effect]:
        """Before a part is opened, garbage makes room for it."""
        if not any(isinstance(effect, OpenPart) for effect in said):
            return said
        victims = self.shelf.victims(fetch.digest, fetch.size_bytes)
        if victims is None:
            have = max(0, self.shelf.bytes_max - self.shelf.bytes_held(without=fetch.digest))
            return fetch.fail(f"no room: need {fetch.size_bytes} bytes, have {have} of this device's share")
        self.shelf.begin(fetch.digest, fetch.size_bytes)
        return [*self.delete(victims), *said]

    def _landed(self, digest: str, size_bytes: int) -> list[Effect]:
        """Good news is taken whatever the fetch was doing: the blob is in its place."""
        self.shelf.landed(digest, size_bytes)
        if self.going.pop(digest, None) is None:
            return [Ignore(f"{digest[:8]} landed; nobody waits for it")]
        self.ended.append(Ended(digest))
        return [Unlisten(digest)]

    def _failed(self, digest: str, reason: str) -> list[Effect]:
        """The disk may be full: what is garbage anyway goes before the next try."""
        freed = self.delete(list(self.shelf.garbage))
        fetch = self.going.get(digest)
        if fetch is None:
            return [*freed, Ignore(f"nobody waits for {digest[:8]}")]
        return [*freed, *self._after(fetch, fetch.fail(reason))]

    def _after(self, fetch: Fetch, said: list[Effect]) -> list[Effect]:
        if fetch.stage is not Stage.FAILED:
            return said
        del self.going[fetch.digest]
        self.ended.append(Ended(fetch.digest, fetch.reason))
        return [*said, Unlisten(fetch.digest)]
