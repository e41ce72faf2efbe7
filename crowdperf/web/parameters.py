"""Query parameters and the OpenAPI description; web/docs shows it.

Every refused parameter is a 400 that names the parameter and the remedy.
"""

from __future__ import annotations

import base64
import re
import zoneinfo
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

import msgspec
from litestar import Router, post
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import QueryParameter

from crowdperf.messaging.codec import MAX_TIME_S
from crowdperf.web.auth import SESSION_COOKIE
from crowdperf.web.problems import MEDIA_TYPE as PROBLEM_MEDIA_TYPE
from crowdperf.web.problems import ProblemDetails, bad_parameter

MAX_RANGE = timedelta(days=400)
# A '+' that the client did not escape arrives as a space.
LOST_PLUS_PATTERN = re.compile(r" (\d\d:\d\d)$")
CameraFilter = Annotated[str | None, QueryParameter(description="Only this camera's id.", max_length=64)]
From = Annotated[
    str | None,
    QueryParameter(
        name="from", description="Start, RFC 3339, included. Default: today in the site's zone.", max_length=64
    ),
]
To = Annotated[
    str | None,
    QueryParameter(name="to", description="End, RFC 3339, excluded. Default: the end of today.", max_length=64),
]
STREAM_ID_PATTERN = re.compile(r"[0-9]{1,15}(-[0-9]{1,15})?")


class Span(NamedTuple):
    """A half-open range [start, end) in Unix seconds."""

    start: float
    end: float

    def to_reply(self) -> dict[str, Any]:
        """Format the fields `start` and `end` of a reply."""
        return {"start": format_rfc3339(self.start), "end": format_rfc3339(self.end)}


def get_today(now: float, zone: zoneinfo.ZoneInfo) -> Span:
    """Return the day of `now` in the site's zone: 23 or 25 hours where the clocks change."""
    midnight = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    following = (midnight + timedelta(days=1)).replace(hour=0)
    return Span(midnight.timestamp(), following.timestamp())


def format_rfc3339(ts: float) -> str:
    """Format Unix seconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ts, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_rfc3339_or_none(ts: float | None) -> str | None:
    """Format Unix seconds; None for what has never happened, which is stored as 0 or None."""
    return format_rfc3339(ts) if ts else None


def parse_instant(name: str, text: str) -> float:
    """Parse an RFC 3339 time to Unix seconds.

    Raises:
        ApiProblem: The text is no time, or not of the years 1970 to 2999.
    """
    try:
        moment = msgspec.convert(LOST_PLUS_PATTERN.sub(r"+\1", text), datetime, strict=False)
    except msgspec.ValidationError:
        moment = None
    # msgspec would read a number as Unix seconds: the API has one form only.
    if moment is None or moment.tzinfo is None or not text[:5].endswith("-"):
        raise bad_parameter(name, text, "write RFC 3339 with a zone, such as 2026-05-01T08:00:00+02:00 or …Z.")
    try:
        seconds = moment.timestamp()
    except (OverflowError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < MAX_TIME_S:
        raise bad_parameter(name, text, "give a time of the years 1970 to 2999.")
    return seconds


def parse_span(start: str | None, end: str | None, now: float, zone: zoneinfo.ZoneInfo) -> Span:
    """Parse a range; by default today, or the day that ends at `to`.

    Args:
        start: Start, RFC 3339, included.
        end: End, RFC 3339, excluded.
        now: Unix seconds.
        zone: Time zone of the site.

    Returns:
        The range; without `to` it ends with today.

    Raises:
        ApiProblem: An end is no time, or the range is empty or longer than 400 days.
    """
    default = get_today(now, zone)
    if start is None and end is None:
        return default
    end_s = default.end if end is None else parse_instant("to", end)
    if start is None:
        start_s = max(0.0, get_today(end_s - 0.001, zone).start)
    else:
        start_s = parse_instant("from", start)
    if start_s >= end_s:
        name, text = ("from", start) if start is not None else ("to", end or "")
        raise bad_parameter(name, text, "give a `from` before `to`; the range is half-open.")
    if end_s - start_s > MAX_RANGE.total_seconds():
        raise bad_parameter("from", start or "", f"ask for at most {MAX_RANGE.days} days at a time.")
    return Span(start_s, end_s)


def parse_choice(name: str, value: str | None, allowed: Sequence[str]) -> str:
    """Check a parameter that takes one of a few values; empty where it is absent.

    Args:
        name: Name of the parameter.
        value: Value that was sent.
        allowed: The values that it may have.

    Returns:
        The value.

    Raises:
        ApiProblem: The value is another one.
    """
    if value is not None and value not in allowed:
        raise bad_parameter(name, value, f"use one of: {', '.join(allowed)}.")
    return value or ""


def parse_choices(name: str, text: str | None, allowed: Sequence[str]) -> list[str]:
    """Parse a comma-separated parameter.

    Args:
        name: Name of the parameter.
        text: Text that was sent.
        allowed: The values that it may hold.

    Returns:
        The values in the order that was sent; none where the parameter is absent.

    Raises:
        ApiProblem: It holds another value.
    """
    values = [value.strip() for value in (text or "").split(",") if value.strip()]
    if not set(values) <= set(allowed):
        raise bad_parameter(name, text or "", f"use some of: {', '.join(allowed)}.")
    return values


class Cursor(NamedTuple):
    """Start of the next page: after a stream id, or after (ts, id) of a crossing."""

    kind: str
    ts: float
    id: str

    def to_text(self) -> str:
        """Encode as opaque text for the client."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def parse_cursor(text: str | None, kind: str) -> Cursor | None:
    """Parse a cursor of that kind.

    Raises:
        ApiProblem: The text is no cursor of this list.
    """
    if text is None:
        return None
    try:
        cursor = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Cursor)
    except (ValueError, msgspec.DecodeError):
        cursor = None
    valid = cursor is not None and cursor.kind == kind and 0 <= cursor.ts < 1e12 and len(cursor.id) <= 256
    if not valid or (kind == "stream" and cursor is not None and not STREAM_ID_PATTERN.fullmatch(cursor.id)):
        raise bad_parameter("cursor", text, "pass on `next_cursor` of the previous page with the same filters.")
    return cursor


def parse_stream_id(name: str, text: str) -> str:
    """Check a Redis stream id, `<ms>-<n>`.

    Raises:
        ApiProblem: The text is none.
    """
    if not STREAM_ID_PATTERN.fullmatch(text):
        raise bad_parameter(name, text, "send the `id` of the last event received, such as 1780000000000-0.")
    return text


post_action = partial(post, status_code=HTTPStatus.OK)
"""POST of an action that makes nothing new, so it answers 200 and not 201."""

_ERRORS = {
    400: "A parameter is not valid.",
    401: "The caller is not signed in.",
    403: "The permission is missing, or the request is forged.",
    404: "It does not exist.",
    409: "The present state forbids it.",
    412: "It was changed in the meantime.",
    422: "There is no picture; see `detail`.",
    429: "Too many attempts, or too many large requests at a time.",
    503: "Redis or camera unavailable.",
}


def errors(*statuses: int) -> dict[int, ResponseSpec]:
    """Describe the errors of a route for OpenAPI; 401 and 403 are always included."""
    return {status: _describe_error(status) for status in sorted({*statuses, 401, 403})}


def _describe_error(status: int) -> ResponseSpec:
    return ResponseSpec(ProblemDetails, description=_ERRORS[status], media_type=PROBLEM_MEDIA_TYPE)


ITEM_ERRORS = errors(400, 404, 409, 503)
"""Errors of routes that look for an item and change it."""
UNAVAILABLE = {503: _describe_error(503)}
"""Errors of a route that needs no sign-in."""
JpegSpec = ResponseSpec(bytes, description="JPEG", media_type="image/jpeg", generate_examples=False)


def build_openapi_config() -> OpenAPIConfig:
    """Build the description served at /schema/openapi.json."""
    return OpenAPIConfig(
        title="crowdperf",
        version="1",
        summary="Counts, occupancy and events of a site with many cameras.",
        description=(
            "Times are RFC 3339, ranges are half-open. Errors are problem details (RFC 9457). A body is JSON with "
            "`Content-Type: application/json`; any other is a 415. "
            "The live protocol of `/api/v1/live` (WebSocket) is described in docs/web-server.md."
        ),
        use_handler_docstrings=True,
        openapi_router=Router(path="/schema", route_handlers=[], include_in_schema=False, opt={"need": "open"}),
        components=Components(
            security_schemes={
                "session": SecurityScheme(type="apiKey", name=SESSION_COOKIE, security_scheme_in="cookie"),
                "token": SecurityScheme(type="http", scheme="bearer"),
            }
        ),
        security=[{}, {"session": []}, {"token": []}],
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
    )
