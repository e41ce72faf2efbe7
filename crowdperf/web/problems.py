"""Errors as RFC 9457 problem details: what is wrong, with which value, and the remedy; never a traceback."""

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

from crowdperf.accounts.credentials import WeakPasswordError
from crowdperf.accounts.principal import AccountError, UnknownAccountError
from crowdperf.messaging.redis.client import NOT_WRITABLE_ERRORS, OUTAGE, RedisPermissionError
from crowdperf.visitors.visit import VisitRefusedError, WatchListedError

NOT_FOUND_DETAIL = "there is nothing at this address. Remedy: see /docs for the valid addresses."
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
    """Raised for a response other than success; the message is its `detail`.

    Args:
        status: Status of the response.
        detail: What is wrong, and the remedy.
        reasons: Further lines, one for each fault.
        headers: Further headers of the response.
    """

    def __init__(
        self, status: HTTPStatus, detail: str, reasons: list[str] | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reasons = reasons or []
        self.headers = headers


def bad_parameter(name: str, value: str, remedy: str) -> ApiProblem:
    """Build the 400 of a parameter's value.

    Args:
        name: Name of the parameter.
        value: Value that was sent; long ones are cut.
        remedy: What to send instead.

    Returns:
        The problem to raise.
    """
    return ApiProblem(
        HTTPStatus.BAD_REQUEST, f"parameter {name!r} has the value {_quote_value(value)}. Remedy: {remedy}"
    )


def forbidden(detail: str) -> ApiProblem:
    """Build the 403 of what the caller may not do."""
    return ApiProblem(HTTPStatus.FORBIDDEN, detail)


def not_found(detail: str) -> ApiProblem:
    """Build the 404 of something that does not exist, or that the caller may not see."""
    return ApiProblem(HTTPStatus.NOT_FOUND, detail)


def conflict(detail: str) -> ApiProblem:
    """Build the 409 of a change that the present state forbids."""
    return ApiProblem(HTTPStatus.CONFLICT, detail)


def unknown_camera(camera_id: str) -> ApiProblem:
    """Build the 404 of a camera that the configuration does not have."""
    return not_found(f"there is no camera {_quote_value(camera_id)}. Remedy: see /api/v1/cameras for the ids.")


def unaudited(effect: str) -> ApiProblem:
    """Build the 503 of a change of which Redis takes no audit entry; `effect` says whether it was made."""
    return ApiProblem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"Redis takes no audit entry, {effect}. Remedy: see that it runs, and the disk and memory of its machine.",
    )


def _quote_value(value: str) -> str:
    """Quote a value for a message, cut to the length of a line."""
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
    # Litestar puts the whole URL into a validation error's text, and a URL may carry a secret.
    detail = "a parameter is not valid" if reasons else error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = NOT_FOUND_DETAIL
    return _respond(error.status_code, detail, reasons, error.headers)


def _on_redis_error(request: Request[Any, Any, Any], error: redis.RedisError) -> Response[bytes]:
    what, remedy = "Redis does not answer", ". Remedy: see that it runs; this page recovers by itself."
    if request.method not in ("GET", "HEAD"):
        # Without a user, the guard had not let the request pass.
        effect = "it is not known whether the change was made" if "user" in request.scope else "nothing was changed"
        remedy = f", so {effect}. Remedy: see that it runs, then look before you repeat it."
    if isinstance(error, RedisPermissionError):
        what, remedy = FORBIDDEN_DETAIL, f": {error}"
    elif isinstance(error, NOT_WRITABLE_ERRORS):
        what, remedy = NO_WRITES_DETAIL, ", so nothing was changed. Remedy: see the disk and memory of its machine."
    log.warning("%s: %s", what, error)
    return _respond(503, what + remedy, [])


def _on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error.__cause__, NotADirectoryError):
        # A path below a file of the dashboard: Litestar reports an internal error.
        return _respond(404, NOT_FOUND_DETAIL, [])
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(500, "the request could not be handled; the web process's log says why", [])


def _on_deep_json(_request: Request[Any, Any, Any], _error: RecursionError) -> Response[bytes]:
    return _respond(400, "the JSON is nested too deep. Remedy: send what /docs describes.", [])


REFUSALS: dict[type[Exception], HTTPStatus] = {
    UnknownAccountError: HTTPStatus.NOT_FOUND,
    AccountError: HTTPStatus.CONFLICT,
    VisitRefusedError: HTTPStatus.CONFLICT,
    WatchListedError: HTTPStatus.CONFLICT,
    WeakPasswordError: HTTPStatus.BAD_REQUEST,
}
"""Errors of the packages below, whose message is for the client."""


def _on_refused_change(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _respond(REFUSALS[type(error)], str(error), [])


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    ApiProblem: _on_problem,
    HTTPException: _on_http,
    **dict.fromkeys(REFUSALS, _on_refused_change),
    **dict.fromkeys(OUTAGE, _on_redis_error),
    RecursionError: _on_deep_json,
    500: _on_bug,
}
