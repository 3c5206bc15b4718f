"""Artifacts that another capability of this device needs: what training starts from, for one.

    --required--> CHECKING (the blob lies here) --whole--> LENT --released--> gone, if no model needs it
        \\--------> SEEKING --landed--------------------/
                       \\--the fetch failed--> refused: the borrower asks again when it likes

A loan is fetched, verified and kept just as a model is, but nothing is loaded, and nothing waits for the disk
to make it last: it is checked before it is lent again, and fetched anew when a power cut has spoiled it. What
is released goes at once, without the grace of a model: a version of a model that is being learned is not gone
back to.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from edge.artifacts.events import Lend, Refuse, Released, Required, Verified, VerifyBlob
from edge.artifacts.fetches import Ended, Fetches
from edge.artifacts.shelf import Shelf
from shared.artifacts import is_digest
from shared.core import Effect, Failed, Ignore

LOANS_MAX = 256


class Stage(StrEnum):
    """How far a loan is. A fetch keeps its own deadlines; a check is bounded by the disk."""

    CHECKING = "checking"
    SEEKING = "seeking"
    LENT = "lent"


@dataclass(slots=True)
class Loans:
    """Who needs what is the borrower's business: here a digest is required or not."""

    fetches: Fetches
    shelf: Shelf
    stages: dict[str, Stage] = field(default_factory=dict)

    def step(self, event: Required | Released | Verified, now: float) -> list[Effect]:
        """What is to be done now."""
        match event:
            case Required(digest):
                return self._required(digest, now)
            case Released(digest):
                known = self.stages.pop(digest, None) is not None
                return [] if known else [Ignore(f"{digest[:8]} was not lent")]
            case Verified(digest, whole):
                return self._verified(digest, whole, now)

    def ended(self, end: Ended) -> list[Effect]:
        """A fetch is over."""
        if self.stages.get(end.digest) is not Stage.SEEKING:
            return []
        return self._refuse(end.digest, end.reason) if end.reason else self._lend(end.digest)

    def failed(self, event: Failed, digest: str) -> list[Effect]:
        """The disk did not let us look."""
        known = self.stages.get(digest) is Stage.CHECKING
        return self._refuse(digest, event.reason) if known else [Ignore(f"{digest[:8]} is not checked")]

    def awaited(self) -> set[str]:
        """Digests that a fetch is to bring."""
        return {digest for digest, stage in self.stages.items() if stage is Stage.SEEKING}

    def check(self) -> None:
        """Invariants."""
        assert len(self.stages) <= LOANS_MAX
        lent = {digest for digest, stage in self.stages.items() if stage is Stage.LENT}
        assert lent <= self.shelf.blobs.keys()

    def _required(self, digest: str, now: float) -> list[Effect]:
        if not is_digest(digest):
            return [Refuse(digest, "that is not a digest")]
        if digest in self.stages:
            lent = self.stages[digest] is Stage.LENT
            return [Lend(digest) if lent else Ignore(f"{digest[:8]} is on its way")]
        if len(self.stages) >= LOANS_MAX:
            return [Refuse(digest, f"{LOANS_MAX} artifacts are lent already")]
        if digest in self.shelf.blobs:
            self.stages[digest] = Stage.CHECKING
            return [VerifyBlob(digest)]
        return self._seek(digest, now)

    def _verified(self, digest: str, whole: bool, now: float) -> list[Effect]:
        if self.stages.get(digest) is not Stage.CHECKING:
            return [Ignore(f"{digest[:8]} is not checked")]
        if whole:
            return self._lend(digest)
        self.shelf.forget(digest)
        return self._seek(digest, now)

    def _seek(self, digest: str, now: float) -> list[Effect]:
        self.stages[digest] = Stage.SEEKING
        return self.fetches.seek(digest, now, durable=False)

    def _lend(self, digest: str) -> list[Effect]:
        self.stages[digest] = Stage.LENT
        return [Lend(digest)]

    def _refuse(self, digest: str, reason: str) -> list[Effect]:
        del self.stages[digest]
        return [Refuse(digest, reason)]
