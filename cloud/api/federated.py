"""Federated learning: jobs, their rounds, their report, and what becomes of them as it happens."""

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from cloud.api.nodes import fleet_of
from cloud.api.schema import answer, body, returns, takes
from cloud.learning.client import JobNews, LearningClient
from cloud.learning.report import Report, report_of
from shared.errors import Unavailable
from shared.learning import JobFact, JobSpec, JobView, RoundRow, RoundView

router = APIRouter(prefix="/federated", tags=["federated"])

STREAMS_MAX = 32
STILL_HERE_S = 15.0
EVENT_STREAM = "text/event-stream"
_EVENTS = returns(JobFact, description="Server-sent events with such data", also=[EVENT_STREAM])

Format = Literal["json", "html", "png"]


def learning_of(request: Request) -> LearningClient:
    """The application's client, the part that is about learning."""
    return fleet_of(request).learning


@router.post(
    "/jobs",
    status_code=201,
    responses=returns(JobView, 201),
    openapi_extra=takes(JobSpec),
    summary="Begin a job",
)
async def create(request: Request) -> Response:
    """Its packages are in the catalog: upload them before, with ``POST /models``."""
    view = await learning_of(request).create(await body(request, JobSpec))
    return answer(view, 201, Location=f"/federated/jobs/{view.spec.job}")


@router.get("/jobs", responses=returns(list[JobView]), summary="List the jobs")
async def jobs(request: Request) -> Response:
    """All of them, with how far each is."""
    return answer(await learning_of(request).jobs())


@router.get("/jobs/{job}", responses=returns(JobView), summary="Show one job")
async def job(request: Request, job: str) -> Response:
    """Its specification, its phase, its newest metrics."""
    return answer(await learning_of(request).job(job))


@router.delete("/jobs/{job}", responses=returns(JobView), summary="Delete a job")
async def delete(request: Request, job: str) -> Response:
    """Forget it and its rounds. A model that it made stays in the catalog. Answers with the job as it was."""
    learning = learning_of(request)
    view = await learning.job(job)
    await learning.delete(job)
    return answer(view)


@router.post("/jobs/{job}/stop", status_code=202, responses=returns(JobView, 202), summary="Stop a job")
async def stop(request: Request, job: str) -> Response:
    """End it with the model that it has now."""
    return answer(await learning_of(request).stop(job), 202)


@router.post("/jobs/{job}/reset", status_code=202, responses=returns(JobView, 202), summary="Reset a job")
async def reset(request: Request, job: str) -> Response:
    """From ERROR back to INITIALIZING, with the version that it had."""
    return answer(await learning_of(request).reset(job), 202)


@router.get("/jobs/{job}/rounds", responses=returns(list[RoundRow]), summary="List the rounds of a job")
async def rounds(request: Request, job: str, after: int = -1) -> Response:
    """In their order, those after ``after``."""
    return answer(await learning_of(request).rounds(job, after))


@router.get("/jobs/{job}/rounds/{number}", responses=returns(RoundView), summary="Show one round")
async def round_(request: Request, job: str, number: int) -> Response:
    """Who was asked, who answered, what was refused and why."""
    return answer(await learning_of(request).round(job, number))


@router.get(
    "/jobs/{job}/report",
    responses=returns(Report, also=["text/html", "image/png"]),
    summary="Report on a job",
)
async def report(request: Request, job: str, format: Format = "json") -> Response:
    """Accuracy, bytes, durations, participation, refusals: as numbers, as a page, or as a picture."""
    found = await report_of(learning_of(request), job)
    if format == "json":
        return answer(found)
    if format == "png":
        return Response(await asyncio.to_thread(_png, found), media_type="image/png")
    return Response(await asyncio.to_thread(_page, found), media_type="text/html; charset=utf-8")


def _png(report: Report) -> bytes:
    from cloud.learning.picture import png  # matplotlib loads when somebody wants a picture

    return png(report)


def _page(report: Report) -> str:
    from cloud.learning.page import page

    return page(report)


@router.get("/jobs/{job}/events", responses=_EVENTS, summary="Follow a job")
async def job_events(request: Request, job: str) -> Response:
    """What becomes of it, as server-sent events ``job`` (a ``JobFact``) and ``deleted``, from now on."""
    await learning_of(request).job(job)  # no stream that would stay empty for ever
    return _stream(request, job)


@router.get("/events", responses=_EVENTS, summary="Follow every job")
async def events(request: Request) -> Response:
    """As for one job."""
    return _stream(request, "")


def _stream(request: Request, job: str) -> Response:
    """Raises :class:`Unavailable` when as many watch as may."""
    seats: asyncio.Semaphore = request.app.state.streams
    if seats.locked():
        raise Unavailable(f"{STREAMS_MAX} streams of events are open; close one, or try later")
    told = _told(learning_of(request), job, seats)
    return StreamingResponse(told, media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})


async def _told(learning: LearningClient, job: str, seats: asyncio.Semaphore) -> AsyncIterator[bytes]:
    """Events, and a comment now and then: a proxy closes what is silent, and we notice who has gone."""
    async with seats:
        with learning.watch(job) as queue:
            yield b": events of shoal\n\n"
            while True:
                try:
                    async with asyncio.timeout(STILL_HERE_S):
                        news = await queue.get()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                yield _event(news)
                if job and news.fact is None:
                    return


def _event(news: JobNews) -> bytes:
    """One event. JSON holds no line break, so that one data line is enough."""
    if news.fact is None:
        return b"event: deleted\ndata: " + msgspec.json.encode({"job": news.job}) + b"\n\n"
    return b"event: job\ndata: " + msgspec.json.encode(news.fact) + b"\n\n"
