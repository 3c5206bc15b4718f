"""The application: routers, errors, OpenAPI at /docs, metrics at /metrics."""

from importlib.metadata import version

from fastapi import FastAPI

from cloud.api import inference, models, nodes, problems, schema
from cloud.client import Fleet

DESCRIPTION = """Runs a fleet of edge devices over MQTT.

Every call is a request over the broker, so that what this API can do, an MQTT client can do.
Errors are RFC 9457 problem details; `definite: false` means that nobody knows whether it happened.
"""


def create_app(fleet: Fleet, *, upload_bytes_max: int) -> FastAPI:
    """The API of one fleet. ``fleet`` is connected and stays so for the application's life."""
    app = FastAPI(title="Shoal", version=version("shoal"), description=DESCRIPTION)
    app.state.fleet, app.state.upload_bytes_max = fleet, upload_bytes_max
    for router in (nodes.router, models.router, inference.router):
        app.include_router(router)
    problems.install(app)
    schema.install(app)
    return app
