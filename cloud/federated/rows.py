"""A round as the report shows it: who was asked, who answered, what it cost."""

from math import inf

import msgspec

from cloud.federated.records import JobState
from cloud.federated.round import ASKED, DIGEST_CHARS, Round
from shared.learning import JobView, Phase, ReceiptStatus, RoundRow, RoundView, Task, UpdateHeader


def row_of(state: JobState, one: Round | None, phase: Phase, now: float) -> RoundRow:
    """The pass that is open, or nothing but the round's number."""
    number, version = state.round, state.version.ref.version
    if one is None:
        return RoundRow(
            round=number,
            phase=phase,
            version=version,
            asked=0,
            accepted=0,
            rejected=0,
            late=0,
            bytes_up=0,
            bytes_down=0,
            wall_s=0.0,
            aggregate_s=0.0,
            detail=state.detail,
        )
    return RoundRow(
        round=number,
        phase=phase,
        version=version,
        asked=len(one.at.opening.cohort),
        accepted=one.accepted,
        rejected=one.rejected,
        late=one.late,
        bytes_up=sum(row.bytes_up for row in one.rows.values()),
        bytes_down=_down(state, one),
        wall_s=_wall_s(one, now),
        aggregate_s=0.0,
        detail=f"attempt {state.attempt + 1}" if state.attempt else "",
    )


def _wall_s(one: Round, now: float) -> float:
    """Since devices were told; of a pass that a restart found closed, as far as its log says."""
    if one.opened_at < inf:
        return max(0.0, now - one.opened_at)
    return max((row.seconds for row in one.rows.values()), default=0.0)


def _down(state: JobState, one: Round) -> int:
    """Bytes of the model, once for all who listen: who holds the version before takes the delta. An
    evaluation's is the one that the next training starts from."""
    return state.version.bytes_down if one.at.opening.task is Task.TRAIN else 0


def view_of(state: JobState, one: Round | None, phase: Phase, now: float) -> RoundView:
    """The same with everybody in it."""
    clients = tuple(one.rows.values()) if one is not None else ()
    return RoundView(row=row_of(state, one, phase, now), clients=clients)


def counts(view: RoundView, client: str, header: UpdateHeader) -> bool:
    """Whether the round has this update of the client."""
    digest = header.digest[:DIGEST_CHARS]
    return bool(digest) and any(row.client == client and row.digest == digest for row in view.clients)


def with_late(view: RoundView, client: str) -> RoundView:
    """In which this client's answer came too late."""
    rows = tuple(
        msgspec.structs.replace(row, status=ReceiptStatus.LATE)
        if row.client == client and row.status == ASKED
        else row
        for row in view.clients
    )
    late = sum(row.status == ReceiptStatus.LATE for row in rows)
    return RoundView(row=msgspec.structs.replace(view.row, late=late), clients=rows)


def accepted_in(view: RoundView | None) -> list[str]:
    """Who counted in a round."""
    return [row.client for row in view.clients if row.status == ReceiptStatus.ACCEPTED] if view else []


def job_view(state: JobState) -> JobView:
    """The whole job."""
    return JobView(
        spec=state.spec,
        phase=state.phase,
        round=state.round,
        version=state.version.ref.version,
        created_at_unix_s=state.created_at_unix_s,
        detail=state.detail,
        best=state.best,
        metrics=state.metrics,
        model=state.model,
        model_version=state.model_version,
    )
