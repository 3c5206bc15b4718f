"""How well a job does: metrics of many devices as one, when it is enough, how long the next pass may take."""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite
from statistics import median

from cloud.federated.records import JobState
from shared.learning import ClientRow, JobSpec, ReceiptStatus, Stop

SECONDS_KEPT = 64
PATIENT_FACTOR = 1.5  # of the median duration: who takes longer is not waited for
LOSS = "loss"


def combined(rows: Iterable[ClientRow]) -> dict[str, float]:
    """One evaluation from those of many clients: each example counts once, whoever holds it.

    Clients send sums over their held-out examples (``hits``, ``loss``, ...) and their number ``count``; the
    result has the means, hits as ``accuracy``, and the whole count. Exact sums: the same in any order.
    """
    told = [row.metrics for row in rows if row.status == ReceiptStatus.ACCEPTED and row.metrics.get("count")]
    count = fsum(one["count"] for one in told)
    if not count:
        return {}
    names = sorted({name for one in told for name in one} - {"count"})
    means = {name: fsum(one.get(name, 0.0) for one in told) / count for name in names}
    if "hits" in means:
        means["accuracy"] = means.pop("hits")
    return {**means, "count": count}


def better(stop: Stop, value: float, best: float | None) -> bool:
    """Of a loss less is better, of everything else more."""
    if best is None:
        return isfinite(value)
    return value < best if stop.metric == LOSS else value > best


def why_enough(state: JobState) -> str:
    """Why no round follows the one that just ended; empty: one does."""
    spec, stop = state.spec, state.spec.stop
    value = state.metrics.get(stop.metric)
    if state.stopping:
        return "stopped on request"
    if value is not None and stop.target and state.best_round == state.round:
        reached = value <= stop.target if stop.metric == LOSS else value >= stop.target
        if reached:
            return f"{stop.metric} {value:.4g} reached the target of {stop.target:g}"
    if stop.patience and state.best is not None and state.round - state.best_round >= stop.patience:
        return f"no better {stop.metric} than {state.best:.4g} for {stop.patience} rounds"
    return f"all {spec.rounds} rounds are done" if state.round >= spec.rounds else ""


def evaluation_due(spec: JobSpec, round: int) -> bool:
    """Whether the version of this round is evaluated; the last one always is, where any is."""
    every = spec.evaluate_every
    return every > 0 and (round % every == 0 or round >= spec.rounds)


def budget_s(spec: JobSpec, seconds: Sequence[float]) -> float:
    """The deadline of a pass, from how long answers took before; the longest while nothing is known."""
    if not seconds:
        return spec.deadline_s_max
    return min(max(PATIENT_FACTOR * median(seconds), spec.deadline_s_min), spec.deadline_s_max)


def newest(before: tuple[float, ...], rows: Mapping[str, ClientRow]) -> tuple[float, ...]:
    """The durations of the newest accepted answers."""
    taken = [round(row.seconds, 6) for row in rows.values() if row.status == ReceiptStatus.ACCEPTED]
    return (*before, *taken)[-SECONDS_KEPT:]
