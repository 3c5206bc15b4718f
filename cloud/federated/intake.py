"""The way of an update through the coordinator: from its first part to its receipt.

    part 0, with the header ──untimely? ──> late, stale, duplicate
                            ──the round's cheap rules──> rejected
                            ──> assembly ──whole──> the round ──Judge ... Judged──> accepted, rejected

Whatever the answer, it is one receipt. A device hears it on its own topic; for a client without MQTT it is
the reply to the part that was sent last. What is ignored here (a job between two states, no room) gets no
receipt: its sender asks again by itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from cloud.federated.asks import refused, reply
from cloud.federated.assembly import Assembly
from cloud.federated.events import Asker, Heard, PartArrived, RoundEvent, Verdict
from cloud.federated.fleet import Fleet
from cloud.federated.job import Job
from shared.core import Effect, Ignore, Publish
from shared.learning import Phase, Receipt, ReceiptStatus, Reject, Task
from shared.topics import RECEIPT

ASKING_MAX = 16_384


@dataclass(slots=True)
class Intake:
    """``asking``: (job, client) -> the application whose request waits for a receipt."""

    fleet: Fleet
    assembly: Assembly = field(default_factory=Assembly)
    asking: dict[tuple[str, str], Asker] = field(default_factory=dict)

    def part(self, event: PartArrived, job: Job | None, now: float) -> list[Effect]:
        """One part of an update to this job; None: there is no such job."""
        if event.asker is not None:
            if self.fleet.apps.get(event.client) != event.asker.app:
                detail = f"{event.client[:64]} is not a client that this application registered"
                return [refused(event.asker, "not-registered", detail)]
            if (event.job, event.client) not in self.asking and len(self.asking) >= ASKING_MAX:
                return [refused(event.asker, "overloaded", "too many updates wait for their receipts")]
        if event.part.index == 0:
            said = self._first(event, job, now)
            if said:
                return said
        return self._add(event, job, now)

    def _first(self, event: PartArrived, job: Job | None, now: float) -> list[Effect]:
        """Why no further part is wanted; empty: go on."""
        header = event.part.header
        if header is None:
            return self._ignore(event, "the first part carries no header")
        heard = Heard(event.client, event.asked, header)
        if job is None:
            return self._said(event, [_rejected(heard, Reject.UNKNOWN_JOB, "there is no such job")])
        untimely = _untimely(job, heard)
        if isinstance(untimely, str):
            return self._ignore(event, untimely)
        if untimely is not None:
            return self._said(event, [untimely])
        assert job.round is not None
        said = job.round.step(heard, now)
        if said:
            return self._said(event, said)
        complaint = self.assembly.begin((job.name, event.client), event.asked, event.part, now)
        return self._ignore(event, complaint) if complaint else []

    def _add(self, event: PartArrived, job: Job | None, now: float) -> list[Effect]:
        place = (event.job, event.client)
        whole = self.assembly.add(place, event.asked, event.part, now)
        if isinstance(whole, str):
            if whole:
                return self._ignore(event, whole)
            return [] if event.asker is None else [reply(event.asker, None)]
        if job is None or job.round is None or not job.durable:
            return self._ignore(event, "the round was closed meanwhile")
        return self._said(event, job.round.step(whole, now))

    def _said(self, event: PartArrived, effects: Iterable[Effect]) -> list[Effect]:
        if event.asker is not None:
            self.asking[event.job, event.client] = event.asker
        return self.translated(event.job, effects)

    def _ignore(self, event: PartArrived, why: str) -> list[Effect]:
        """An application hears of it; a device sends again when it has waited long enough."""
        if event.asker is not None:
            return [refused(event.asker, "not-now", why)]
        return [Ignore(f"{event.client}, {event.job}: {why}")]

    def round(self, job: Job, event: RoundEvent, now: float) -> list[Effect]:
        """Something that the open round of the job has to hear."""
        if job.round is None:
            return [Ignore(f"{type(event).__name__}: {job.name} has no open round")]
        return self.translated(job.name, job.round.step(event, now))

    def translated(self, job: str, effects: Iterable[Effect]) -> list[Effect]:
        """Verdicts as receipts on their way."""
        return [self._sent(job, one) if isinstance(one, Verdict) else one for one in effects]

    def _sent(self, job: str, verdict: Verdict) -> Effect:
        client, status = verdict.client, verdict.receipt.status
        if status is ReceiptStatus.ACCEPTED:
            self.fleet.accepted[client] = self.fleet.accepted.get(client, 0) + 1
        elif status is ReceiptStatus.REJECTED and client in self.fleet.learners:
            self.fleet.rejected[client] = self.fleet.rejected.get(client, 0) + 1
        asker = self.asking.pop((job, client), None)
        if asker is not None:
            return reply(asker, verdict.receipt)
        if client in self.fleet.apps:
            return Ignore(f"the receipt of {client} is no longer waited for")
        return Publish(RECEIPT.at(node=client, job=job), verdict.receipt)


def _untimely(job: Job, heard: Heard) -> Verdict | str | None:
    """The receipt of an update that no open round can take; or why there is none yet; None: it is timely."""
    header, current, one = heard.header, job.state.round, job.round
    if heard.asked > current or heard.asked < 1:
        return _rejected(heard, Reject.NOT_ASKED, f"the newest round is {current}")
    asked, digest = job.answered.get((heard.client, header.task), (0, ""))
    fresh = job.overlap and _fresh(job, heard, asked)
    if job.durable and job.state.phase is Phase.TRAINING and one is not None and not one.over:
        evaluated = one.at.opening.task is Task.EVALUATE and header.task is Task.TRAIN
        if not evaluated and (heard.asked == current or fresh):
            return None
    if fresh and not job.state.closed:
        return "it counts in the next round"
    if (asked, digest) == (heard.asked, header.digest) or job.counted(heard):
        return _verdict(heard, ReceiptStatus.DUPLICATE)
    if heard.asked == current and (not job.durable or (job.opens_again and header.task is Task.TRAIN)):
        return "the job is between two states"
    job.late(heard)
    return _verdict(heard, ReceiptStatus.STALE if job.overlap else ReceiptStatus.LATE)


def _fresh(job: Job, heard: Heard, answered: int) -> bool:
    """Whether an update of an asynchronous job is not too far behind, and newer than what its client sent."""
    behind = job.state.version.ref.version - heard.header.version
    new = heard.header.task is Task.TRAIN and answered < heard.asked
    return new and 0 <= behind <= job.strategy.staleness_max


def _verdict(heard: Heard, status: ReceiptStatus) -> Verdict:
    receipt = Receipt(round=heard.asked, digest=heard.header.digest, status=status)
    return Verdict(heard.client, heard.asked, receipt)


def _rejected(heard: Heard, reason: Reject, detail: str) -> Verdict:
    verdict = _verdict(heard, ReceiptStatus.REJECTED)
    receipt = msgspec.structs.replace(verdict.receipt, reason=reason, detail=detail)
    return Verdict(heard.client, heard.asked, receipt)
