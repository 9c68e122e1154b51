"""How the API says that a request failed: one shape, a closed set of reasons.

``app`` installs the handlers; routes raise ``ApiError``. Everything unexpected is logged and
answered with 500, without its text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tidegate.console.models.common import ErrorBody
from tidegate.store.api import StoreUnavailable
from tidegate.store.client.failures import StoreRefused

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a request failed."""

    INVALID = "invalid"
    NOT_AUTHENTICATED = "not_authenticated"
    WRONG_CREDENTIALS = "wrong_credentials"
    NOT_PERMITTED = "not_permitted"
    CSRF = "csrf"
    WRONG_HOST = "wrong_host"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    AMBIGUOUS = "ambiguous"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    STORE_UNAVAILABLE = "store_unavailable"
    NODE_UNAVAILABLE = "node_unavailable"
    INTERNAL = "internal"


class ApiError(Exception):
    """Ends a request with a status, a reason and a sentence."""

    def __init__(
        self,
        status: HTTPStatus,
        reason: Reason,
        sentence: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason
        self.sentence = sentence
        self.headers = dict(headers or {})


def not_found(sentence: str) -> ApiError:
    """Return the error for a thing that does not exist."""
    return ApiError(HTTPStatus.NOT_FOUND, Reason.NOT_FOUND, sentence)


def conflict(sentence: str) -> ApiError:
    """Return the error for a state that does not allow it."""
    return ApiError(HTTPStatus.CONFLICT, Reason.CONFLICT, sentence)


def invalid(sentence: str) -> ApiError:
    """Return the error for arguments that make no sense."""
    return ApiError(HTTPStatus.BAD_REQUEST, Reason.INVALID, sentence)


#: For the OpenAPI document: what any route may answer.
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": ErrorBody, "description": HTTPStatus(code).phrase}
    for code in (400, 401, 403, 404, 405, 409, 413, 429, 503)
}

_OF_STATUS: Final = {
    HTTPStatus.NOT_FOUND: Reason.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Reason.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Reason.TOO_LARGE,
}


def install(app: FastAPI) -> None:
    """Have ``app`` answer every failure in the shape of ``ErrorBody``."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(StoreUnavailable, _store)
    app.add_exception_handler(StoreRefused, _store)
    app.add_exception_handler(Exception, _unexpected)


def answer(
    status: int, reason: Reason, sentence: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the answer to a request that failed."""
    body = ErrorBody(error=sentence, reason=reason.value)
    return JSONResponse(body.model_dump(), status, headers=dict(headers or {}))


async def _api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return answer(error.status, error.reason, error.sentence, error.headers)


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    reason = _OF_STATUS.get(HTTPStatus(error.status_code), Reason.INVALID)
    sentence = {
        Reason.NOT_FOUND: f"{request.url.path} does not exist here",
        Reason.METHOD_NOT_ALLOWED: f"{request.url.path} does not support {request.method}",
    }.get(reason, str(error.detail))
    return answer(error.status_code, reason, sentence, error.headers)


async def _validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'][1:]) or problem['loc'][0]}: "
        f"{problem['msg']}"
        for problem in error.errors()[:10]
    ]
    return answer(HTTPStatus.BAD_REQUEST, Reason.INVALID, "; ".join(problems))


async def _store(_: Request, error: Exception) -> JSONResponse:
    sentence = f"the store is not available: {error}"
    return answer(HTTPStatus.SERVICE_UNAVAILABLE, Reason.STORE_UNAVAILABLE, sentence)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return answer(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        Reason.INTERNAL,
        "an error of the console; its log has the details",
    )
