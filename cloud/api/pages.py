"""The OpenAPI page at /docs (Swagger UI) and /redoc. Their scripts come from this machine: no internet."""

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_FILES = "/docs/static"


def install(app: FastAPI) -> None:
    """Add the pages. ``app`` must have been made without FastAPI's own, which load from a CDN."""
    title = f"{app.title} API"

    async def swagger() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",  # relative: a proxy may put the API under a path of its own
            title=title,
            swagger_js_url="docs/static/swagger-ui-bundle.js",
            swagger_css_url="docs/static/swagger-ui.css",
            swagger_favicon_url="docs/static/favicon.png",
            swagger_ui_parameters={"defaultModelsExpandDepth": 1, "tryItOutEnabled": True},
        )

    async def redoc() -> HTMLResponse:
        return get_redoc_html(
            openapi_url="openapi.json",
            title=title,
            redoc_js_url="docs/static/redoc.standalone.js",
            redoc_favicon_url="docs/static/favicon.png",
            with_google_fonts=False,
        )

    folder = Path(fastapi_offline.__file__).parent / "static"
    app.mount(_FILES, StaticFiles(directory=folder), name="docs-static")
    app.add_api_route("/docs", swagger, include_in_schema=False)
    app.add_api_route("/redoc", redoc, include_in_schema=False)
