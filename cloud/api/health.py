"""For machines that watch: /healthz and Prometheus' /metrics. Both ask the fleet; nothing is kept here."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import nlargest

import msgspec
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from cloud.api.nodes import fleet_of
from cloud.api.schema import answer, returns
from cloud.api.tasks import core_of
from cloud.tasks.core import TaskState
from shared.errors import Unavailable
from shared.views import Overview

router = APIRouter(tags=["health"])

HEALTH_S_MAX = 2.0
OUTCOMES_MAX = 64  # outcome names come from devices: a hostile one must not grow the page


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The broker and the cloud answer. ``term`` grows with every start of the cloud."""

    ok: bool
    term: int
    version: str


@router.get("/healthz", responses=returns(Health), summary="Is it well?")
async def healthz(request: Request) -> Response:
    """200 when a question went over the broker to the cloud and back within two seconds, else 503."""
    try:
        async with asyncio.timeout(HEALTH_S_MAX):
            status = await fleet_of(request).status()
    except TimeoutError:
        raise Unavailable(f"no answer over the broker within {HEALTH_S_MAX:g} s") from None
    return answer(Health(ok=True, term=status["term"], version=status["version"]))


@router.get(
    "/metrics",
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {}}}},
    summary="Metrics",
)
async def metrics(request: Request) -> Response:
    """The fleet in numbers, for Prometheus."""
    overview, status = await asyncio.gather(fleet_of(request).overview(), fleet_of(request).status())
    states = Counter({state.value: 0 for state in TaskState})
    states.update(task.state.value for task in core_of(request).visible.values())
    tasks = _by("shoal_tasks", "Tasks by state.", "state", states)
    page = exposition([*_of_fleet(overview), _of_parts(status["counters"]), tasks])
    return Response(page, media_type=CONTENT_TYPE_LATEST)


class _Once(Collector):
    """What was just read, for one page."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(metrics: Iterable[Metric]) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metrics))
    return generate_latest(registry)


def _of_fleet(overview: Overview) -> Iterator[Metric]:
    outcomes = dict(overview.requests)
    waiting = outcomes.pop("waiting", 0)
    most = dict(nlargest(OUTCOMES_MAX, outcomes.items(), key=lambda item: item[1]))
    yield _by("shoal_nodes", "Nodes by status.", "status", overview.nodes)
    yield _by("shoal_model_ready_nodes", "Nodes on which a model is ready.", "model", overview.models)
    yield GaugeMetricFamily("shoal_slots", "Requests that the fleet can work on at once.", overview.slots)
    yield GaugeMetricFamily("shoal_in_flight", "Requests that devices work on now.", overview.in_flight)
    yield GaugeMetricFamily("shoal_waiting", "Requests that wait for a node.", waiting)
    yield GaugeMetricFamily("shoal_cpu_ratio", "Mean processor use of the nodes.", overview.cpu_ratio_mean)
    yield GaugeMetricFamily("shoal_term", "Number of this start of the cloud.", overview.term)
    counter = CounterMetricFamily("shoal_requests", "Requests by how they went.", labels=["outcome"])
    for outcome, count in sorted(most.items()):
        counter.add_metric([outcome], count)
    yield counter


def _of_parts(counters: Mapping[str, Mapping[str, int]]) -> Metric:
    """Messages in and out, what could not be read, samples stored: as each part of the cloud counts them."""
    counter = CounterMetricFamily(
        "shoal_events", "What the parts of the cloud did since its start.", labels=["part", "what"]
    )
    for part, counts in sorted(counters.items()):
        for what, count in sorted(counts.items()):
            counter.add_metric([part, what], count)
    return counter


def _by(name: str, help: str, label: str, values: Mapping[str, int]) -> Metric:
    gauge = GaugeMetricFamily(name, help, labels=[label])
    for value, count in sorted(values.items()):
        gauge.add_metric([value], count)
    return gauge
