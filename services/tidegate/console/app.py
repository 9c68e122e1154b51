"""The application: all routes under ``/api/v1``, the probes, and the page.

Made by ``roles.console`` from its parts.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from tidegate import __version__
from tidegate.console import errors, page
from tidegate.console.guard import Guard
from tidegate.console.parts import Parts
from tidegate.console.routes import (
    auth,
    bans,
    clients,
    events,
    figures,
    messages,
    nodes,
    overview,
    probes,
    retained,
    store,
    topics,
)
from tidegate.console.segments import WholeSegments

PREFIX: Final = "/api/v1"

#: The routes of every trade.
ROUTERS: Final[tuple[APIRouter, ...]] = (
    auth.router,
    overview.router,
    figures.router,
    nodes.router,
    store.router,
    events.router,
    clients.router,
    topics.router,
    retained.router,
    messages.router,
    bans.router,
)


def make_app(parts: Parts) -> FastAPI:
    """Put the application together."""
    app = FastAPI(
        title="Tidegate",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.parts = parts
    errors.install(app)
    api = APIRouter(prefix=PREFIX, responses=errors.RESPONSES)
    for router in ROUTERS:
        api.include_router(router)
    api.add_api_route(
        "/openapi.json", lambda: document(app), include_in_schema=False, response_model=None
    )
    app.include_router(api)
    app.include_router(probes.router)
    app.include_router(page.make_router())
    app.add_middleware(WholeSegments)
    app.add_middleware(Guard, allowed_hosts=lambda: parts.config().console.allowed_hosts)
    return app


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    if app.openapi_schema is None:
        found = get_openapi(
            title="Tidegate",
            version=__version__,
            description="Clients, sessions, messages and nodes of one broker.",
            routes=app.routes,
        )
        for path in found["paths"].values():
            for operation in path.values():
                # Arguments that are wrong are answered with 400; see ``errors``.
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            found.get("components", {}).get("schemas", {}).pop(name, None)
        app.openapi_schema = found
    return app.openapi_schema


def _operation_id(route: APIRoute) -> str:
    return route.name
