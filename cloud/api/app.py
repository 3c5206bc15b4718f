"""The application: routers, errors, OpenAPI at /docs, metrics at /metrics."""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI

from broker.service import Service
from cloud.api import (
    federated,
    health,
    inference,
    learners,
    models,
    nodes,
    pages,
    problems,
    residency,
    schema,
    sync,
    tasks,
    telemetry,
)
from cloud.client import Fleet
from cloud.tasks.core import Event

DESCRIPTION = """Runs a fleet of edge devices over MQTT.

Every call is a request over the broker, so that what this API can do, an MQTT client can do.
Errors are RFC 9457 problem details; `definite: false` means that nobody knows whether it happened.

The API has no login of its own yet: it listens on 127.0.0.1, and wherever others can reach it, a proxy
with a login belongs in front of it.
"""


def create_app(
    fleet: Fleet,
    service: Service[Event],
    waiters: tasks.TaskWaiters,
    *,
    upload_bytes_max: int,
    artifacts: Sequence[Path] = (),
) -> FastAPI:
    """The API of one fleet. ``fleet`` is connected and stays so for the application's life.

    ``service`` runs the tasks, and tells ``waiters`` about them. ``artifacts``: folders from which clients
    that cannot speak MQTT may fetch.
    """
    app = FastAPI(
        title="Shoal", version=version("shoal"), description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    app.state.fleet, app.state.upload_bytes_max = fleet, upload_bytes_max
    app.state.tasks, app.state.waiters = service, waiters
    app.state.artifacts = tuple(artifacts)
    app.state.streams = asyncio.Semaphore(federated.STREAMS_MAX)
    routers = (
        nodes.router,
        models.router,
        inference.router,
        tasks.router,
        telemetry.router,
        sync.router,
        federated.router,
        learners.router,
        residency.router,
        health.router,
    )
    for router in routers:
        app.include_router(router)
    problems.install(app)
    schema.install(app, routers)
    pages.install(app)
    return app
