"""What happened: counts and events over a range of time."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Router, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from crowdperf.accounts.permissions import Principal
from crowdperf.events.schema import CameraGap
from crowdperf.events.streams import EVENTS, key
from crowdperf.settings.base import CLASSES
from crowdperf.storage.buckets import BUCKETS, Bucket
from crowdperf.storage.queries import FIELDS, Group, Wanted, count, newest
from crowdperf.web.access import Who
from crowdperf.web.audits import beside
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.entries import EVENT_TYPES, decoded_event, reply_of, reply_of_crossing
from crowdperf.web.openapi import BAD_REQUEST, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import CameraFilter, Cursor, Span, cursor, rfc3339, span
from crowdperf.web.problems import bad_parameter
from crowdperf.web.replies import CountRow, CountsReply, EventReply, EventsReply, SeriesReply, SeriesRow

GROUPS = (*FIELDS, *BUCKETS)
BUCKET_S: dict[Bucket, int] = {"minute": 60, "hour": 3600, "day": 86_400}
LONGEST_SERIES = 12_000
"""Buckets in one answer: eight days of minutes, more than a year of hours."""
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
LineFilter = Annotated[str | None, QueryParameter(description="Only this line's id.", max_length=64)]
ClassFilter = Annotated[
    str | None, QueryParameter(name="class", description=f"One of {', '.join(CLASSES)}.", max_length=16)
]
DirectionFilter = Annotated[str | None, QueryParameter(description="in or out.", max_length=8)]


def wanted_crossings(
    site: SiteContext,
    who: Who,
    camera: CameraFilter = None,
    line: LineFilter = None,
    klass: ClassFilter = None,
    direction: DirectionFilter = None,
    start: From = None,
    end: To = None,
) -> Wanted:
    """The crossings that a request is about, within what its caller may see: its range and filters.

    Raises:
        Problem: a wrong range, an unknown camera, class or direction.
    """
    asked = span(start, end, site.now(), site.zone)
    if camera is not None:
        site.camera(camera, who)
    return Wanted(
        *asked,
        camera=camera or "",
        line=line or "",
        klass=_one_of("class", klass, CLASSES),
        direction=_one_of("direction", direction, ("in", "out")),
        cameras=who.cameras,
    )


CROSSINGS = {"wanted": Provide(wanted_crossings, sync_to_thread=False)}
"""For a router: what its routes take as `wanted`."""
Crossings = NamedDependency[Wanted]


@get(
    "/counts",
    need="read",
    summary="Crossings counted",
    tags=["history"],
    responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE},
)
async def counts(
    site: SiteContext,
    wanted: Crossings,
    group: Annotated[
        str,
        QueryParameter(
            description=f"Comma-separated: {', '.join(GROUPS)}; one bucket of time at most. Empty: the total only.",
            max_length=64,
        ),
    ] = "camera,line,class,direction",
) -> CountsReply:
    """How many crossings there were in [from, to), by camera, line, class and direction, or by minute, hour or day.

    Hours and days are those of the site's zone, named by when they begin; of a bucket that the range cuts, the part in
    the range is counted.
    """
    names = _groups(group, GROUPS)
    bucket = _bucket(names, group)
    if bucket:
        _check_points(wanted, bucket)
    fields = [name for name in names if name != bucket]
    totals = await count(site.redis, wanted, fields, bucket, site.calendar, site.prefix)
    rows = [_row(fields, bucket, group, number) for group, number in _ordered(totals, names, bucket)]
    return CountsReply(
        start=rfc3339(wanted.start),
        end=rfc3339(wanted.end),
        group=names,
        total=sum(totals.values()),
        counts=await beside(site, rows) if names else [],
    )


@get(
    "/series",
    need="read",
    summary="Crossings over time",
    tags=["history"],
    responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE},
)
async def series(
    site: SiteContext,
    wanted: Crossings,
    bucket: Annotated[str, QueryParameter(description="minute, hour or day.", max_length=8)] = "hour",
    group: Annotated[
        str, QueryParameter(description=f"Comma-separated: {', '.join(FIELDS)}. Empty: all together.", max_length=64)
    ] = "direction",
) -> SeriesReply:
    """Counts per minute, hour or day of the site's zone, zeros included: what a chart draws."""
    fields = _groups(group, FIELDS)
    chosen = next((name for name in BUCKETS if name == bucket), None)
    if chosen is None:
        raise bad_parameter("bucket", bucket, f"use one of: {', '.join(BUCKETS)}.")
    _check_points(wanted, chosen)
    totals = await count(site.redis, wanted, fields, chosen, site.calendar, site.prefix)
    starts = site.calendar.starts(chosen, wanted.start, wanted.end)
    place = {start: index for index, start in enumerate(starts)}
    rows: dict[tuple[str, ...], list[int]] = {} if fields else {(): [0] * len(starts)}
    for (values, begin), number in totals.items():
        rows.setdefault(values, [0] * len(starts))[place[begin]] = number
    return SeriesReply(
        start=rfc3339(wanted.start),
        end=rfc3339(wanted.end),
        bucket=chosen,
        timezone=site.calendar.name,
        starts=[site.calendar.text(moment) for moment in starts],
        series=[SeriesRow(counts=row, **_named(fields, values)) for values, row in sorted(rows.items())],
    )


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> str:
    if value is not None and value not in allowed:
        raise bad_parameter(name, value, f"use one of: {', '.join(allowed)}.")
    return value or ""


def _groups(text: str, allowed: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in allowed or names.count(name) > 1:
            raise bad_parameter("group", text, f"use each of these at most once: {', '.join(allowed)}.")
    return names


def _bucket(names: list[str], text: str) -> Bucket | None:
    found = [name for name in BUCKETS if name in names]
    if len(found) > 1:
        raise bad_parameter("group", text, f"use one of {', '.join(BUCKETS)} at most.")
    return found[0] if found else None


def _check_points(asked: Wanted, bucket: Bucket) -> None:
    """Refuse what no chart could show and no client would want to parse."""
    if (asked.end - asked.start) / BUCKET_S[bucket] > LONGEST_SERIES:
        raise bad_parameter(
            "bucket", bucket, f"ask for a shorter range, or a longer bucket: at most {LONGEST_SERIES} at a time."
        )


def _ordered(totals: dict[Group, int], names: list[str], bucket: Bucket | None) -> list[tuple[Group, int]]:
    """By the columns in the order in which they were asked for."""
    at = names.index(bucket) if bucket else 0

    def columns(row: tuple[Group, int]) -> tuple[Any, ...]:
        (values, begin), _ = row
        return (*values[:at], begin, *values[at:])

    return sorted(totals.items(), key=columns)


def _named(fields: list[str], values: tuple[str, ...]) -> dict[str, Any]:
    return {"klass" if name == "class" else name: value for name, value in zip(fields, values)}


def _row(fields: list[str], bucket: Bucket | None, group: Group, number: int) -> CountRow:
    values, begin = group
    times: dict[str, Any] = {bucket: rfc3339(begin)} if bucket else {}
    return CountRow(count=number, **times, **_named(fields, values))


@get(
    "/events",
    need="read",
    summary="Events, newest first",
    tags=["history"],
    responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE},
)
async def events(
    site: SiteContext,
    who: Who,
    start: From = None,
    end: To = None,
    type_: Annotated[
        str | None,
        QueryParameter(name="type", description=f"Comma-separated: {', '.join(EVENT_TYPES)}.", max_length=512),
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
        site.camera(camera, who)
    types = _types(type_)
    if types == {"LineCrossed"}:
        page, following = await _crossings(site, who, asked, camera or "", cursor(cursor_, "crossings"), limit)
    else:
        page, following = await _from_stream(site, who, asked, types, camera or "", cursor(cursor_, "stream"), limit)
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
    site: Context, who: Principal, asked: Span, camera: str, after: Cursor | None, limit: int
) -> tuple[list[EventReply], Cursor | None]:
    """A page from the history of crossings."""
    before = (after.ts, after.id) if after else None
    rows = await newest(site.redis, Wanted(*asked, camera=camera, cameras=who.cameras), before, limit + 1, site.prefix)
    page = rows[:limit]
    following = Cursor("crossings", page[-1].ts, page[-1].id) if len(rows) > limit else None
    return [reply_of_crossing(row) for row in page], following


async def _from_stream(
    site: Context, who: Principal, asked: Span, types: set[str], camera: str, after: Cursor | None, limit: int
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
                and who.sees(event.camera)
                and (not types or type(event).__name__ in types)
            ):
                page.append(reply_of(event))
                if len(page) == limit:
                    return page, Cursor("stream", event.ts, stream_id.decode())
        if len(rows) < SCAN_PAGE:
            return page, None
        high = f"({rows[-1][0].decode()}"
    return page, Cursor("stream", asked.start, rows[-1][0].decode())


async def gaps(site: Context, who: Principal, asked: Span, camera: str, most: int) -> list[EventReply]:
    """The newest gaps that ended in the range, of all cameras or one."""
    page, _ = await _from_stream(site, who, asked, {CameraGap.__name__}, camera, None, most)
    return page


router = Router("/", route_handlers=[events, Router("/", route_handlers=[counts, series], dependencies=CROSSINGS)])
