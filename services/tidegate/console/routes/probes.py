"""Health and metrics of the console itself, as every process has them; open."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from tidegate.console.parts import PartsOf
from tidegate.runtime.telemetry.metrics import CONTENT_TYPE

router = APIRouter(include_in_schema=False)


@router.get("/livez")
@router.get("/healthz")
async def live() -> PlainTextResponse:
    """Say that the process answers."""
    return PlainTextResponse("alive\n")


@router.get("/readyz")
async def ready(parts: PartsOf) -> PlainTextResponse:
    """Say whether it can serve, and why not."""
    is_ready, reason = parts.readiness()
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return PlainTextResponse(f"{reason}\n", status)


@router.get("/metrics")
async def metrics(parts: PartsOf) -> Response:
    """Return the metrics of the console."""
    return Response(parts.metrics(), media_type=CONTENT_TYPE)
