"""Errors as RFC 9457 problem details: what is wrong, with which value, and what to do; never a traceback."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import msgspec
import redis
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from crowdperf.messaging.redis.client import NOT_WRITABLE_ERRORS, RedisPermissionError

NOT_FOUND_DETAIL = "there is nothing at this address. Remedy: see /docs for the addresses there are."
NO_WRITES_DETAIL = "Redis answers, but takes no writes"
FORBIDDEN_DETAIL = "Redis refuses"
MEDIA_TYPE = "application/problem+json"

log = logging.getLogger(__name__)


class ProblemDetails(Struct, kw_only=True, omit_defaults=True):
    """The body of every error."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    reasons: list[str] = []


class ApiProblem(Exception):
    """An answer other than success; the message is its `detail`."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        reasons: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reasons = reasons or []
        self.headers = headers


def bad_parameter(name: str, value: str, remedy: str) -> ApiProblem:
    """400 for a parameter's value."""
    return ApiProblem(
        HTTPStatus.BAD_REQUEST, f"parameter {name!r} has the value {_quote_value(value)}. Remedy: {remedy}"
    )


def unknown_camera(camera_id: str) -> ApiProblem:
    """404 for a camera that the configuration does not have."""
    return ApiProblem(
        HTTPStatus.NOT_FOUND, f"there is no camera {_quote_value(camera_id)}. Remedy: see /api/v1/cameras for the ids."
    )


def _quote_value(value: str) -> str:
    """The value as a caller may see it again: quoted, and not longer than a line."""
    return repr(value if len(value) <= 80 else value[:77] + "…")


def _respond(status: int, detail: str, reasons: list[str], headers: dict[str, str] | None = None) -> Response[bytes]:
    body = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail, reasons=reasons)
    return Response(msgspec.json.encode(body), status_code=status, media_type=MEDIA_TYPE, headers=headers or {})


def _on_problem(_request: Request[Any, Any, Any], problem: ApiProblem) -> Response[bytes]:
    return _respond(problem.status, str(problem), problem.reasons, problem.headers)


def _on_http(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if error.status_code >= 500:
        return _respond(error.status_code, "the request could not be handled; the web process's log says why", [])
    extra = error.extra if isinstance(error.extra, list) else []
    reasons = [
        f"{row.get('key', 'parameter')}: {row.get('message', 'is not valid')}" for row in extra if isinstance(row, dict)
    ]
    # Litestar puts the whole URL into a validation error's text, and a URL may carry what nobody should see twice.
    detail = "a parameter is not valid" if reasons else error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = NOT_FOUND_DETAIL
    return _respond(error.status_code, detail, reasons, error.headers)


def _on_outage(_request: Request[Any, Any, Any], error: redis.RedisError) -> Response[bytes]:
    log.warning("Redis does not answer: %s", error)
    return _respond(503, "Redis does not answer. Remedy: see that it runs; this page recovers by itself.", [])


def _on_refusal(_request: Request[Any, Any, Any], error: redis.RedisError) -> Response[bytes]:
    log.warning("%s: %s", NO_WRITES_DETAIL, error)
    return _respond(
        503, f"{NO_WRITES_DETAIL}, so nothing was changed. Remedy: see the disk and memory of its machine.", []
    )


def _on_forbidden(_request: Request[Any, Any, Any], error: RedisPermissionError) -> Response[bytes]:
    log.warning("%s: %s", FORBIDDEN_DETAIL, error)
    return _respond(503, f"{FORBIDDEN_DETAIL}: {error}", [])


def _on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error.__cause__, NotADirectoryError):
        # A file of the dashboard with something behind it: Litestar calls that its own failure.
        return _respond(404, NOT_FOUND_DETAIL, [])
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(500, "the request could not be handled; the web process's log says why", [])


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    ApiProblem: _on_problem,
    HTTPException: _on_http,
    **dict.fromkeys(NOT_WRITABLE_ERRORS, _on_refusal),
    RedisPermissionError: _on_forbidden,
    redis.ConnectionError: _on_outage,
    redis.TimeoutError: _on_outage,
    500: _on_bug,
}
