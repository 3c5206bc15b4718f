"""What a job did, in numbers: one value that the picture, the page, the command and the API show.

    JobView + RoundRow ... + RoundView ... ──tally──> Report ──> JSON | PNG | HTML

Pure but for :func:`report_of`, which asks the cloud for the three.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from cloud.learning.client import LearningClient
from shared.learning import ClientRow, JobView, ReceiptStatus, RoundRow, RoundView

ROUNDS_MAX = 2000  # of which each client is asked for; the newest
ASKED_AT_ONCE = 8
ASKED = "asked"  # a client's status until it answers


class Participation(msgspec.Struct, frozen=True, kw_only=True):
    """One client over all rounds. ``silent``: asked, and nothing came. Seconds are medians."""

    client: str
    asked: int
    accepted: int
    late: int
    refused: int
    silent: int
    examples: int  # of its newest accepted update
    bytes_up: int
    answer_s: float
    train_s: float


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Updates that did not count, for one reason. ``status``: rejected, late, stale or duplicate."""

    status: str
    reason: str
    count: int
    clients: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. ``rounds``: in their order. ``central_accuracy``: of the same training with all data in one
    place, where somebody computed it; ``test_accuracy``: of the final model on the same examples.
    """

    job: JobView
    rounds: tuple[RoundRow, ...]
    clients: tuple[Participation, ...]
    refusals: tuple[Refusal, ...]
    bytes_up: int
    bytes_down: int
    wall_s: float
    test_accuracy: float | None = None
    central_accuracy: float | None = None


async def report_of(learning: LearningClient, job: str) -> Report:
    """Ask for all of it. Raises ``Refused`` when there is no such job."""
    view, rows = await asyncio.gather(learning.job(job), learning.rounds(job))
    gate = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(number: int) -> RoundView:
        async with gate:
            return await learning.round(job, number)

    rounds = await asyncio.gather(*(one(row.round) for row in rows[-ROUNDS_MAX:]))
    return tally(view, rows, rounds)


def tally(job: JobView, rows: Sequence[RoundRow], rounds: Iterable[RoundView]) -> Report:
    """The report of these rounds."""
    by_client: dict[str, list[ClientRow]] = defaultdict(list)
    for one in rounds:
        for client in one.clients:
            by_client[client.client].append(client)
    everything = [row for found in by_client.values() for row in found]
    return Report(
        job=job,
        rounds=tuple(rows),
        clients=tuple(_participation(name, found) for name, found in sorted(by_client.items())),
        refusals=_refusals(everything),
        bytes_up=sum(row.bytes_up for row in rows),
        bytes_down=sum(row.bytes_down for row in rows),
        wall_s=sum(row.wall_s for row in rows),
    )


def _participation(name: str, rows: Sequence[ClientRow]) -> Participation:
    statuses = Counter(row.status for row in rows)
    accepted = [row for row in rows if row.status == ReceiptStatus.ACCEPTED]
    late, silent = statuses[ReceiptStatus.LATE], statuses[ASKED]
    return Participation(
        client=name,
        asked=len(rows),
        accepted=len(accepted),
        late=late,
        refused=len(rows) - len(accepted) - late - silent,
        silent=silent,
        examples=accepted[-1].weight if accepted else 0,
        bytes_up=sum(row.bytes_up for row in rows),
        answer_s=median([row.seconds for row in accepted]) if accepted else 0.0,
        train_s=median([row.train_s for row in accepted]) if accepted else 0.0,
    )


def _refusals(rows: Iterable[ClientRow]) -> tuple[Refusal, ...]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row.status not in (ASKED, ReceiptStatus.ACCEPTED):
            found[row.status, row.reason].append(row.client)
    return tuple(
        Refusal(status=status, reason=reason, count=len(clients), clients=tuple(sorted(set(clients))))
        for (status, reason), clients in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    )
