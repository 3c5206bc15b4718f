"""One pass of one round: a cohort is asked, its answers are judged, and at some point it is enough.

    OPEN ──K accepted, or everybody answered, or the deadline──> CLOSED ──> aggregate
      │                              └─ something is still with the judge ─> CLOSING ─┘
      └──the deadline without a quorum──> FAILED          (FAILED also when the judge never answers)

A round never waits for everybody: a fleet always has a sleeping device in it. It asks more than it needs and
takes the first K.

No more updates are with the judge than may still count. So whatever became durable is in the sum, and the sum
needs no list of who is in it: after a crash the log of the pass is the list. Updates that wait for a place
when the round closes are told that they were late.

An update that was accepted is never looked at again: the same one is a duplicate, another one of the same
client is refused.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

import msgspec

from cloud.federated.events import Heard, Judge, Judged, Pass, RoundEvent, Verdict, Whole
from cloud.federated.gate import Expected, Rejection, check_client, check_header
from cloud.federated.records import Answer
from shared.codecs import SUM
from shared.core import Effect, Failed, Ignore
from shared.errors import InvalidTransition
from shared.learning import ClientRow, Receipt, ReceiptStatus, Reject, UpdateHeader

JUDGE_S_MAX = 120.0
QUEUE_BYTES_MAX = 256 << 20

ASKED = "asked"
DIGEST_CHARS = 16  # of an update's digest, kept in the report: enough to know it again
Key = tuple[str, int]  # client, and the round that it answers


class Stage(StrEnum):
    """How far the pass is."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


NEXT: Mapping[Stage, frozenset[Stage]] = {
    Stage.OPEN: frozenset({Stage.CLOSING, Stage.CLOSED, Stage.FAILED}),
    Stage.CLOSING: frozenset({Stage.CLOSED, Stage.FAILED}),
    Stage.CLOSED: frozenset(),
    Stage.FAILED: frozenset(),
}


@dataclass(slots=True)
class Round:
    """``wanted``: updates that close it (K); ``quorum``: enough at the deadline. ``earlier``: clients of an
    asynchronous job that were asked before -> the newest round in which they were."""

    at: Pass
    expected: Expected
    wanted: int
    quorum: int
    gateways: Collection[str] = ()
    earlier: Mapping[str, int] = field(default_factory=dict)
    stage: Stage = Stage.OPEN
    opened_at: float = inf  # until devices were told
    deadline: float = inf
    rows: dict[str, ClientRow] = field(default_factory=dict)
    done: dict[Key, str] = field(default_factory=dict)  # accepted -> digest
    judging: dict[Key, Whole] = field(default_factory=dict)
    queue: dict[Key, Whole] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    covered: dict[str, str] = field(default_factory=dict)  # client -> the gateway that answered for it
    rejected: int = 0
    late: int = 0
    norms: list[float] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        self.rows = {client: ClientRow(client=client, status=ASKED) for client in self.at.opening.cohort}

    def restore(self, answers: Iterable[Answer]) -> None:
        """What the log of the pass holds counts already."""
        for one in answers:
            self._accept(Whole(one.client, one.asked, one.header), one.norm, one.seconds)

    def start(self, now: float) -> None:
        """The cohort has been told."""
        self.opened_at, self.deadline = now, now + self.at.opening.budget_s

    def step(self, event: RoundEvent, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Heard():
                return self._heard(event)
            case Whole():
                effects = self._whole(event, now)
            case Judged():
                effects = self._judged(event)
            case Failed(Judge(whole=whole), reason):
                self.judging.pop((whole.client, whole.asked), None)
                effects = [Ignore(f"the update of {whole.client} could not be judged: {reason}")]
            case _:
                effects = []
        return [*effects, *self._pump(now), *self._settle(now)]

    @property
    def over(self) -> bool:
        """Whether nothing more is taken."""
        return self.stage in (Stage.CLOSED, Stage.FAILED)

    def check(self) -> None:
        """Invariants."""
        assert not self.queue.keys() & self.judging.keys()
        assert not self.covered.keys() & {client for client, _ in self.done}
        assert not self.done.keys() & (self.queue.keys() | self.judging.keys())
        assert not self.over or not (self.judging or self.queue)
        assert self.stage is not Stage.CLOSED or self.accepted >= self.quorum
        counted = [client for client, row in self.rows.items() if row.status == ReceiptStatus.ACCEPTED]
        if not self.earlier:
            assert len([client for client in counted if client not in self.gateways]) == self.accepted
        if not self.gateways:
            assert self.accepted + len(self.judging) <= self.wanted
            assert self.accepted == len(self.done)

    # Updates ------------------------------------------------------------------------------------------------

    def _heard(self, event: Heard) -> list[Effect]:
        """The cheap rules, before anything is kept of the update."""
        client, header, key = event.client, event.header, (event.client, event.asked)
        if key in self.done:
            return [self._again(event)]
        if key in self.queue or key in self.judging:
            return [Ignore(f"{client} sends what is being judged")]
        if self.stage is not Stage.OPEN:
            return [self._say(event, ReceiptStatus.LATE)]
        problem = self._problem(client, event.asked, header)
        if problem is None:
            return []
        if client in self.rows:
            self.tries[client] += 1
        return [self._reject(event, problem)]

    def _problem(self, client: str, asked: int, header: UpdateHeader) -> Rejection | None:
        problem = check_client(client, self._allowed(client, asked, header), self.tries[client])
        if problem is None:
            problem = check_header(header, self.expected)
        if problem is not None:
            return problem
        return self._members(client, header) if header.codec == SUM else self._covered(client)

    def _covered(self, client: str) -> Rejection | None:
        """Nobody counts both by itself and in a sum."""
        waiting = (*self.judging.values(), *self.queue.values())
        by = [one.client for one in waiting if client in one.header.members] or self.covered.get(client)
        return Rejection(Reject.TOO_MANY, "its gateway has answered for it") if by else None

    def _allowed(self, client: str, asked: int, header: UpdateHeader) -> Collection[str]:
        """Who may answer: the cohort, gateways with sums, in an asynchronous job who was asked before."""
        gateway = client in self.gateways and header.codec == SUM
        if gateway or asked <= self.earlier.get(client, 0):
            return (client,)
        return self.at.opening.cohort

    def _members(self, client: str, header: UpdateHeader) -> Rejection | None:
        if client not in self.gateways:
            return Rejection(Reject.NOT_ASKED, "this job names other gateways, or none")
        for member in header.members:
            row = self.rows.get(member)
            if row is None or member in self.gateways:
                return Rejection(Reject.NOT_ASKED, f"{member[:64]} was not asked in this round")
            if row.status == ReceiptStatus.ACCEPTED or self._with_judge(member):
                return Rejection(Reject.TOO_MANY, f"{member} has answered")
        return None

    def _with_judge(self, client: str) -> bool:
        waiting = (*self.judging.values(), *self.queue.values())
        return any(client == one.client or client in one.header.members for one in waiting)

    def _again(self, event: Heard | Whole) -> Effect:
        if self.done[event.client, event.asked] == event.header.digest:
            return self._say(event, ReceiptStatus.DUPLICATE)
        return self._reject(event, Rejection(Reject.TOO_MANY, "another update of this client was accepted"))

    def _whole(self, event: Whole, now: float) -> list[Effect]:
        """All of it is here; the rules of :meth:`_heard` hold still, and may now say something else."""
        client, key = event.client, (event.client, event.asked)
        said = self._heard(Heard(client, event.asked, event.header))
        if said:
            return said
        queued = sum(len(one.data) for one in self.queue.values())
        if self.queue and queued + len(event.data) > QUEUE_BYTES_MAX:
            return [Ignore(f"no room for the update of {client}; it will send it again")]
        self.tries[client] += 1
        row = self.rows.get(client) or ClientRow(client=client, status=ASKED)
        if client in self.gateways or client in self.rows or client in self.earlier:
            self.rows[client] = msgspec.structs.replace(row, seconds=max(0.0, now - self.opened_at))
        self.queue[key] = event
        return []

    def _pump(self, now: float) -> list[Effect]:
        """Hand to the judge what may still count, the first that came first."""
        effects: list[Effect] = []
        while self.stage is Stage.OPEN and self.queue and self._room():
            key = next(iter(self.queue))
            whole = self.judging[key] = self.queue.pop(key)
            effects.append(Judge(self.at, whole, max(0.0, now - self.opened_at)))
        return effects

    def _room(self) -> bool:
        return self.accepted + sum(one.header.clients for one in self.judging.values()) < self.wanted

    def _judged(self, event: Judged) -> list[Effect]:
        whole = self.judging.pop((event.client, event.asked), None)
        if whole is None or event.at != self.at.id:
            return [Ignore(f"an update of {event.client} was judged that nobody waits for")]
        if event.rejection is not None:
            return [self._reject(whole, event.rejection)]
        seconds = self.rows[whole.client].seconds if whole.client in self.rows else 0.0
        self._accept(whole, event.norm, seconds)
        if event.digest != whole.header.digest:  # the log held another one of this client, from before
            self.done[event.client, event.asked] = event.digest
            return [self._again(whole)]
        return [self._say(whole, ReceiptStatus.ACCEPTED)]

    def _accept(self, whole: Whole, norm: float, seconds: float) -> None:
        header = whole.header
        self.done[whole.client, whole.asked] = header.digest
        self.accepted += header.clients
        if norm > 0:
            self.norms.append(norm)
        for member in header.members:
            self.covered[member] = whole.client
            self.rows[member] = ClientRow(client=member, status=ReceiptStatus.ACCEPTED, reason=whole.client)
        self.rows[whole.client] = ClientRow(
            client=whole.client,
            status=ReceiptStatus.ACCEPTED,
            weight=header.weight,
            steps=header.steps,
            bytes_up=header.size_bytes,
            seconds=seconds,
            train_s=header.train_s,
            metrics=header.metrics,
            digest=header.digest[:DIGEST_CHARS],
        )

    # Receipts -----------------------------------------------------------------------------------------------

    def _reject(self, event: Heard | Whole, problem: Rejection) -> Effect:
        self.rejected += 1
        row = self.rows.get(event.client)
        if row is not None and row.status != ReceiptStatus.ACCEPTED:
            self.rows[event.client] = msgspec.structs.replace(
                row, status=ReceiptStatus.REJECTED, reason=problem.reason, bytes_up=event.header.size_bytes
            )
        return self._say(event, ReceiptStatus.REJECTED, problem)

    def _say(self, event: Heard | Whole, status: ReceiptStatus, problem: Rejection | None = None) -> Effect:
        if status is ReceiptStatus.LATE:
            self._mark_late(event.client)
        reason, detail = problem if problem is not None else ("", "")
        receipt = Receipt(
            round=event.asked, digest=event.header.digest, status=status, reason=reason, detail=detail
        )
        return Verdict(event.client, event.asked, receipt)

    def _mark_late(self, client: str) -> None:
        row = self.rows.get(client)
        if row is not None and row.status == ASKED:
            self.rows[client] = msgspec.structs.replace(row, status=ReceiptStatus.LATE)
            self.late += 1

    # The end ------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> list[Effect]:
        """Close when it is enough, or when there is nothing more to wait for."""
        if self.stage is Stage.OPEN and self._enough(now):
            if self.judging:
                self._enter(Stage.CLOSING)
                self.deadline = now + JUDGE_S_MAX
            else:
                return self._close()
        elif self.stage is Stage.CLOSING and not self.judging:
            return self._close()
        elif self.stage is Stage.CLOSING and now >= self.deadline:
            self.judging.clear()
            return self._close(f"the disk did not answer within {JUDGE_S_MAX:g} s")
        return []

    def _enough(self, now: float) -> bool:
        if self.accepted >= self.wanted or now >= self.deadline:
            return True
        waiting = any(self.rows[client].status == ASKED for client in self.at.opening.cohort)
        return not (waiting or self.judging or self.queue)

    def _close(self, reason: str = "") -> list[Effect]:
        late, self.queue = list(self.queue.values()), {}
        self.reason = reason
        if not reason and self.accepted < self.quorum:
            self.reason = (
                f"{self.accepted} of {len(self.at.opening.cohort)} updates were accepted "
                f"by the deadline; the quorum is {self.quorum}"
            )
        self._enter(Stage.FAILED if self.reason else Stage.CLOSED)
        return [self._say(one, ReceiptStatus.LATE) for one in late]

    def _enter(self, stage: Stage) -> None:
        if stage not in NEXT[self.stage]:
            raise InvalidTransition(f"round {self.at.opening.round}: {self.stage} -> {stage}")
        self.stage = stage
