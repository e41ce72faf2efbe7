"""What happened: counts and events over a range of time."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from litestar import Router, get
from litestar.params import QueryParameter

from crowdperf.events.streams import EVENTS, key
from crowdperf.settings.base import CLASSES
from crowdperf.storage.crossings import Crossing
from crowdperf.storage.queries import Wanted, count, newest
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.entries import EVENT_TYPES, decoded_event, reply_of, reply_of_crossing
from crowdperf.web.openapi import BAD_REQUEST, UNAVAILABLE
from crowdperf.web.parameters import Cursor, Span, cursor, rfc3339, span
from crowdperf.web.problems import bad_parameter
from crowdperf.web.replies import CountRow, CountsReply, EventReply, EventsReply

GROUPS = ("camera", "line", "class", "direction", "hour")
SCAN_PAGE = 500
SCAN_PAGES = 20
"""Entries one request may look at: 10,000. A page may then hold fewer events than asked, and still have a cursor."""
ARRIVAL_S = 3600.0
"""An event may enter the stream this much later than it happened (Redis was away, a replay)."""
CLOCK_S = 5.0
"""And this much earlier, by the clocks of two machines."""

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
CameraFilter = Annotated[str | None, QueryParameter(description="Only this camera's id.", max_length=64)]
LineFilter = Annotated[str | None, QueryParameter(description="Only this line's id.", max_length=64)]


@get("/counts", summary="Crossings counted", tags=["history"], responses={**BAD_REQUEST, **UNAVAILABLE})
async def counts(
    site: SiteContext,
    camera: CameraFilter = None,
    line: LineFilter = None,
    klass: Annotated[
        str | None, QueryParameter(name="class", description=f"One of {', '.join(CLASSES)}.", max_length=16)
    ] = None,
    direction: Annotated[str | None, QueryParameter(description="in or out.", max_length=8)] = None,
    start: From = None,
    end: To = None,
    group: Annotated[
        str, QueryParameter(description=f"Comma-separated: {', '.join(GROUPS)}. Empty: the total only.", max_length=64)
    ] = "camera,line,class,direction",
) -> CountsReply:
    """How many crossings there were in [from, to), by camera, line, class and direction, or by hour."""
    asked = span(start, end, site.now(), site.zone)
    if camera is not None:
        site.camera(camera)
    wanted = Wanted(
        *asked,
        camera=camera or "",
        line=line or "",
        klass=_one_of("class", klass, CLASSES),
        direction=_one_of("direction", direction, ("in", "out")),
    )
    names = _groups(group)
    totals = await count(site.redis, wanted, _grouping(names, site.zone), site.prefix)
    return CountsReply(
        start=rfc3339(asked.start),
        end=rfc3339(asked.end),
        group=names,
        total=sum(totals.values()),
        counts=[_row(names, values, number) for values, number in sorted(totals.items())] if names else [],
    )


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> str:
    if value is not None and value not in allowed:
        raise bad_parameter(name, value, f"use one of: {', '.join(allowed)}.")
    return value or ""


def _groups(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in GROUPS or names.count(name) > 1:
            raise bad_parameter("group", text, f"use each of these at most once: {', '.join(GROUPS)}.")
    return names


def _grouping(names: list[str], zone: zoneinfo.ZoneInfo) -> Callable[[Crossing], tuple[str, ...]]:
    """From a crossing to its group."""
    hours: dict[int, str] = {}

    def hour(crossing: Crossing) -> str:
        # Zones are offset by quarters of an hour at most, so quarters are what the conversion is remembered for.
        quarter = int(crossing.ts // 900)
        if quarter not in hours:
            local = datetime.fromtimestamp(quarter * 900, zone).replace(minute=0)
            hours[quarter] = rfc3339(local.timestamp())
        return hours[quarter]

    parts: dict[str, Callable[[Crossing], str]] = {
        "camera": lambda crossing: crossing.camera,
        "line": lambda crossing: crossing.line,
        "class": lambda crossing: crossing.klass,
        "direction": lambda crossing: crossing.direction,
        "hour": hour,
    }
    chosen = [parts[name] for name in names]
    return lambda crossing: tuple(part(crossing) for part in chosen)


def _row(names: list[str], values: tuple[str, ...], number: int) -> CountRow:
    fields = {"klass" if name == "class" else name: value for name, value in zip(names, values)}
    return CountRow(count=number, **fields)


@get("/events", summary="Events, newest first", tags=["history"], responses={**BAD_REQUEST, **UNAVAILABLE})
async def events(
    site: SiteContext,
    start: From = None,
    end: To = None,
    type_: Annotated[
        str | None,
        QueryParameter(name="type", description=f"Comma-separated: {', '.join(EVENT_TYPES)}.", max_length=128),
    ] = None,
    camera: CameraFilter = None,
    cursor_: Annotated[
        str | None, QueryParameter(name="cursor", description="`next_cursor` of the previous page.", max_length=600)
    ] = None,
    limit: Annotated[int, QueryParameter(description="Events per page.", ge=1, le=1000)] = 100,
) -> EventsReply:
    """Events that happened in [from, to), a page at a time.

    `type=LineCrossed` alone reads the history of crossings, which is kept for `retention.crossings_days`; everything
    else reads the stream of events, which is kept for `retention.events_days`. Pass `next_cursor` on until it is null;
    a page may hold fewer than `limit`.
    """
    asked = span(start, end, site.now(), site.zone)
    if camera is not None:
        site.camera(camera)
    types = _types(type_)
    if types == {"LineCrossed"}:
        page, following = await _crossings(site, asked, camera or "", cursor(cursor_, "crossings"), limit)
    else:
        page, following = await _from_stream(site, asked, types, camera or "", cursor(cursor_, "stream"), limit)
    return EventsReply(
        start=rfc3339(asked.start),
        end=rfc3339(asked.end),
        events=page,
        next_cursor=following.text() if following else None,
    )


def _types(text: str | None) -> set[str]:
    types = {name.strip() for name in (text or "").split(",") if name.strip()}
    if not types <= set(EVENT_TYPES):
        raise bad_parameter("type", text or "", f"use some of: {', '.join(EVENT_TYPES)}.")
    return types


async def _crossings(
    site: Context, asked: Span, camera: str, after: Cursor | None, limit: int
) -> tuple[list[EventReply], Cursor | None]:
    """A page from the history of crossings."""
    before = (after.ts, after.id) if after else None
    rows = await newest(site.redis, Wanted(*asked, camera=camera), before, limit + 1, site.prefix)
    page = rows[:limit]
    following = Cursor("crossings", page[-1].ts, page[-1].id) if len(rows) > limit else None
    return [reply_of_crossing(row) for row in page], following


async def _from_stream(
    site: Context, asked: Span, types: set[str], camera: str, after: Cursor | None, limit: int
) -> tuple[list[EventReply], Cursor | None]:
    """A page from the stream of events, in the order in which they came in."""
    # Any: redis-py types its replies differently from release to release.
    client: Any = site.redis
    high = f"({after.id}" if after else str(int((asked.end + ARRIVAL_S) * 1000))
    low = str(max(0, int((asked.start - CLOCK_S) * 1000)))
    page: list[EventReply] = []
    for _ in range(SCAN_PAGES):
        rows = await client.xrevrange(key(EVENTS, prefix=site.prefix), high, low, count=SCAN_PAGE)
        for stream_id, fields in rows:
            event = decoded_event(fields)
            if (
                event is not None
                and asked.start <= event.ts < asked.end
                and (not camera or event.camera == camera)
                and (not types or type(event).__name__ in types)
            ):
                page.append(reply_of(event))
                if len(page) == limit:
                    return page, Cursor("stream", event.ts, stream_id.decode())
        if len(rows) < SCAN_PAGE:
            return page, None
        high = f"({rows[-1][0].decode()}"
    return page, Cursor("stream", asked.start, rows[-1][0].decode())


router = Router("/", route_handlers=[counts, events])
