"""Query parameters: parsed here and nowhere else, each refusal a 400 that names the parameter and the remedy.

The OpenAPI description: title, and the answers that many routes share. web/docs shows it.
"""

from __future__ import annotations

import base64
import re
import zoneinfo
from datetime import datetime, timedelta, timezone
from typing import Annotated, NamedTuple

import msgspec
from litestar import Router
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import QueryParameter

from crowdperf.storage.counts import MAX_TIME_S
from crowdperf.web.auth import SESSION_COOKIE
from crowdperf.web.problems import ProblemDetails, bad_parameter

MAX_RANGE = timedelta(days=400)
# A '+' that nobody escaped arrives as a space.
LOST_PLUS_PATTERN = re.compile(r" (\d\d:\d\d)$")
CameraFilter = Annotated[str | None, QueryParameter(description="Only this camera's id.", max_length=64)]
STREAM_ID_PATTERN = re.compile(r"\d{1,15}(-\d{1,15})?")


class Span(NamedTuple):
    """A half-open range [start, end) in Unix seconds."""

    start: float
    end: float


def get_today(now: float, zone: zoneinfo.ZoneInfo) -> Span:
    """The day of `now` in the site's zone: 23 or 25 hours where the clocks change."""
    midnight = datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    following = (midnight + timedelta(days=1)).replace(hour=0)
    return Span(midnight.timestamp(), following.timestamp())


def format_rfc3339(ts: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ts, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_instant(name: str, text: str) -> float:
    """An RFC 3339 time as Unix seconds.

    Raises:
        Problem: it is none, or none of the years 1970 to 2999.
    """
    try:
        moment = msgspec.convert(LOST_PLUS_PATTERN.sub(r"+\1", text), datetime, strict=False)
    except msgspec.ValidationError:
        moment = None
    # A number would be taken for Unix seconds: the interface promises one form only.
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
    """The asked range; today in the site's zone where neither end is given, and to today's end where only `to` misses.

    Raises:
        Problem: an end is no time, the range is empty or longer than 400 days.
    """
    default = get_today(now, zone)
    if start is None and end is None:
        return default
    end_s = default.end if end is None else parse_instant("to", end)
    if start is None:
        # The day that ends there, so that `to` alone means a day as well.
        start_s = max(0.0, get_today(end_s - 0.001, zone).start)
    else:
        start_s = parse_instant("from", start)
    if start_s >= end_s:
        name, text = ("from", start) if start is not None else ("to", end or "")
        raise bad_parameter(name, text, "give a `from` that lies before `to`; the range is half-open.")
    if end_s - start_s > MAX_RANGE.total_seconds():
        raise bad_parameter("from", start or "", f"ask for at most {MAX_RANGE.days} days at a time.")
    return Span(start_s, end_s)


class Cursor(NamedTuple):
    """Where the next page goes on: behind a stream id, or behind (ts, id) of a crossing."""

    kind: str
    ts: float
    id: str

    def to_text(self) -> str:
        """As a caller carries it, opaque."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


def parse_cursor(text: str | None, kind: str) -> Cursor | None:
    """The cursor of that kind.

    Raises:
        Problem: it is no cursor of this list.
    """
    if text is None:
        return None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Cursor)
    except (ValueError, msgspec.DecodeError):
        found = None
    usable = found is not None and found.kind == kind and 0 <= found.ts < 1e12 and len(found.id) <= 256
    if not usable or (kind == "stream" and found is not None and not STREAM_ID_PATTERN.fullmatch(found.id)):
        raise bad_parameter("cursor", text, "pass on `next_cursor` of the previous page with the same filters.")
    return found


def parse_stream_id(name: str, text: str) -> str:
    """A Redis stream id, `<ms>-<n>`.

    Raises:
        Problem: it is none.
    """
    if not STREAM_ID_PATTERN.fullmatch(text):
        raise bad_parameter(name, text, "send the `id` of the last event that arrived, such as 1780000000000-0.")
    return text


_PROBLEM = "application/problem+json"

BAD_REQUEST = {400: ResponseSpec(ProblemDetails, description="A parameter is not valid.", media_type=_PROBLEM)}
NOT_FOUND = {404: ResponseSpec(ProblemDetails, description="There is no such thing.", media_type=_PROBLEM)}
REFUSED = {
    401: ResponseSpec(ProblemDetails, description="Nobody is signed in.", media_type=_PROBLEM),
    403: ResponseSpec(
        ProblemDetails, description="The permission is missing, or the request forged.", media_type=_PROBLEM
    ),
}
PRECONDITION = {412: ResponseSpec(ProblemDetails, description="It was changed meanwhile.", media_type=_PROBLEM)}
NO_PICTURE = {422: ResponseSpec(ProblemDetails, description="There is no picture; why.", media_type=_PROBLEM)}
CONFLICT = {409: ResponseSpec(ProblemDetails, description="The rules forbid it at present.", media_type=_PROBLEM)}
TOO_MANY = {429: ResponseSpec(ProblemDetails, description="Too many attempts.", media_type=_PROBLEM)}
UNAVAILABLE = {503: ResponseSpec(ProblemDetails, description="Redis or the camera is away.", media_type=_PROBLEM)}
JpegSpec = ResponseSpec(bytes, description="JPEG", media_type="image/jpeg", generate_examples=False)


def build_openapi_config() -> OpenAPIConfig:
    """The description served at /schema/openapi.json."""
    return OpenAPIConfig(
        title="crowdperf",
        version="1",
        summary="Counts, occupancy and events of a site with many cameras.",
        description=(
            "Times are RFC 3339, ranges are half-open. Errors are problem details (RFC 9457). "
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
