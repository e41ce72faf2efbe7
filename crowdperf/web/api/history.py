"""Counts and events over a range of time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, cast

import msgspec
from litestar import MediaType, Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter

from crowdperf.messaging.consumer import parse_entry_id, read_newest_entries
from crowdperf.messaging.redis.client import AnyClient
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.settings.base import CLASSES
from crowdperf.storage.buckets import BUCKETS, Bucket
from crowdperf.storage.queries import (
    GROUP_FIELDS,
    CrossingFilter,
    GroupKey,
    TooManyGroupsError,
    count_crossings,
    read_newest,
)
from crowdperf.web.api.lines_zones import attach_evaluations
from crowdperf.web.live.counts import EVENT_TYPES, crossing_to_event_reply, decode_event, find_cameras, to_event_reply
from crowdperf.web.parameters import (
    CameraFilter,
    Cursor,
    Span,
    errors,
    format_rfc3339,
    parse_choice,
    parse_choices,
    parse_cursor,
)
from crowdperf.web.problems import bad_parameter
from crowdperf.web.schemas import CountRow, CountsReply, EventReply, EventsReply, SeriesReply, SeriesRow
from crowdperf.web.state import AppDependency, AppState, ContextDependency, RequestContext, SpanDependency

GROUPS = (*GROUP_FIELDS, *BUCKETS)
BUCKET_S: dict[Bucket, int] = {"minute": 60, "hour": 3600, "day": 86_400}
MAX_SERIES_BUCKETS = 12_000
"""Buckets in one response: eight days of minutes, more than a year of hours."""
MAX_POINTS = 100_000
"""Figures in one response, groups times buckets: about 10 MB of JSON."""
MAX_LIGHT_BUCKETS = 1_500
"""Buckets of a request that may run beside any number of others: a day of minutes, two months of hours."""
SCAN_PAGE_ENTRIES = 500
MAX_SCAN_PAGES = 20
"""One request scans 10,000 entries at most. A page may then be short and still have a cursor."""
MAX_ARRIVAL_DELAY_S = 3600.0
"""Maximum delay with which an event enters the stream, because of an outage or a replay."""
MAX_CLOCK_SKEW_S = 5.0
"""Maximum difference between the clocks of two machines."""

LineFilter = Annotated[str | None, QueryParameter(description="Only this line's id.", max_length=64)]
ClassFilter = Annotated[
    str | None, QueryParameter(name="class", description=f"One of {', '.join(CLASSES)}.", max_length=16)
]
DirectionFilter = Annotated[str | None, QueryParameter(description="in or out.", max_length=8)]


def parse_crossing_filter(
    context: ContextDependency,
    time_range: SpanDependency,
    camera: CameraFilter = None,
    line: LineFilter = None,
    class_name: ClassFilter = None,
    direction: DirectionFilter = None,
) -> CrossingFilter:
    """Parse the filters of a request, limited to the cameras that the caller may see.

    Args:
        context: Context of the request.
        time_range: Range of the request.
        camera: Id of a camera.
        line: Id of a line.
        class_name: Class of the crossing objects.
        direction: in or out.

    Returns:
        The filter.

    Raises:
        ApiProblem: Unknown camera, class or direction.
    """
    if camera is not None:
        context.get_camera(camera)
    return CrossingFilter(
        *time_range,
        camera=camera or "",
        line=line or "",
        class_name=parse_choice("class", class_name, CLASSES),
        direction=parse_choice("direction", direction, ("in", "out")),
        cameras=context.principal.cameras,
    )


CROSSING_FILTER_DEPENDENCIES = {"crossing_filter": Provide(parse_crossing_filter, sync_to_thread=False)}
"""Dependencies of a router whose routes take `crossing_filter`."""
CrossingFilterDependency = NamedDependency[CrossingFilter]


@get("/counts", need="read", summary="Crossings counted", responses=errors(400, 429, 503))
async def counts(
    app: AppDependency,
    crossing_filter: CrossingFilterDependency,
    group: Annotated[
        str,
        QueryParameter(
            description=f"Comma-separated: {', '.join(GROUPS)}; one bucket of time at most. Empty: the total only.",
            max_length=64,
        ),
    ] = "camera,line,class,direction",
) -> Response[CountsReply]:
    """Count the crossings in [from, to) by camera, line, class and direction, or by minute, hour or day.

    Hours and days are those of the site's zone, named by their start. A bucket that the range cuts counts only the part
    within the range.
    """
    names = _parse_groups(group, GROUPS)
    bucket = _find_bucket(names, group)
    if bucket:
        _check_bucket_count(crossing_filter, bucket)
    fields = [name for name in names if name != bucket]

    async def compute(client: AnyClient) -> bytes:
        totals = await count_crossings(
            client, crossing_filter, fields, bucket, app.calendar, app.prefix, max_groups=MAX_POINTS
        )
        rows = [_to_count_row(fields, bucket, group, number) for group, number in _sort_groups(totals, names, bucket)]
        reply = CountsReply(
            **Span(crossing_filter.start, crossing_filter.end).to_reply(),
            group=names,
            total=sum(totals.values()),
            counts=await attach_evaluations(app, client, rows) if names else [],
        )
        return msgspec.json.encode(reply)

    return cast("Response[CountsReply]", await _respond(app, compute, crossing_filter, bucket, group))


@get("/series", need="read", summary="Crossings over time", responses=errors(400, 429, 503))
async def series(
    app: AppDependency,
    crossing_filter: CrossingFilterDependency,
    bucket: Annotated[str, QueryParameter(description="minute, hour or day.", max_length=8)] = "hour",
    group: Annotated[
        str,
        QueryParameter(description=f"Comma-separated: {', '.join(GROUP_FIELDS)}. Empty: all together.", max_length=64),
    ] = "direction",
) -> Response[SeriesReply]:
    """Count per minute, hour or day of the site's zone, zeros included, for a chart."""
    fields = _parse_groups(group, GROUP_FIELDS)
    unit = cast(Bucket, parse_choice("bucket", bucket, BUCKETS))
    _check_bucket_count(crossing_filter, unit)

    async def compute(client: AnyClient) -> bytes:
        starts = app.calendar.list_bucket_starts(unit, crossing_filter.start, crossing_filter.end)
        totals = await count_crossings(
            client, crossing_filter, fields, unit, app.calendar, app.prefix, max_groups=MAX_POINTS
        )
        if len({values for values, _ in totals}) * len(starts) > MAX_POINTS:
            raise TooManyGroupsError
        place = {start: index for index, start in enumerate(starts)}
        rows: dict[tuple[str, ...], list[int]] = {} if fields else {(): [0] * len(starts)}
        for (values, begin), number in totals.items():
            rows.setdefault(values, [0] * len(starts))[place[begin]] = number
        reply = SeriesReply(
            **Span(crossing_filter.start, crossing_filter.end).to_reply(),
            bucket=unit,
            timezone=app.calendar.name,
            starts=[app.calendar.format_time(moment) for moment in starts],
            series=[SeriesRow(counts=row, **_to_columns(fields, values)) for values, row in sorted(rows.items())],
        )
        return msgspec.json.encode(reply)

    return cast("Response[SeriesReply]", await _respond(app, compute, crossing_filter, unit, group))


async def _respond(
    app: AppState,
    compute: Callable[[AnyClient], Coroutine[Any, Any, bytes]],
    crossing_filter: CrossingFilter,
    bucket: Bucket | None,
    group: str,
) -> Response[bytes]:
    """Respond with JSON that the query thread computes.

    Args:
        app: State of the application.
        compute: Computes the JSON.
        crossing_filter: Filter of the request.
        bucket: Width of the buckets.
        group: Groups, as they were sent.

    Returns:
        The response.

    Raises:
        ApiProblem: 400, too many figures; 429, too many large requests run already.
    """
    is_heavy = bucket is not None and _count_buckets(crossing_filter, bucket) > MAX_LIGHT_BUCKETS
    try:
        return Response(await app.queries.run(compute, is_heavy), media_type=MediaType.JSON)
    except TooManyGroupsError:
        raise bad_parameter(
            "group",
            group,
            f"ask for a shorter range, a longer bucket, fewer groups or one camera: at most {MAX_POINTS} figures "
            "(groups times buckets) at a time.",
        ) from None


def _parse_groups(text: str, allowed: tuple[str, ...]) -> list[str]:
    names = parse_choices("group", text, allowed)
    if len(set(names)) < len(names):
        raise bad_parameter("group", text, f"use each of these at most once: {', '.join(allowed)}.")
    return names


def _find_bucket(names: list[str], text: str) -> Bucket | None:
    buckets = [name for name in BUCKETS if name in names]
    if len(buckets) > 1:
        raise bad_parameter("group", text, f"use one of {', '.join(BUCKETS)} at most.")
    return buckets[0] if buckets else None


def _check_bucket_count(crossing_filter: CrossingFilter, bucket: Bucket) -> None:
    """Refuse more buckets than a chart can show."""
    if _count_buckets(crossing_filter, bucket) > MAX_SERIES_BUCKETS:
        raise bad_parameter(
            "bucket", bucket, f"ask for a shorter range, or a longer bucket: at most {MAX_SERIES_BUCKETS} at a time."
        )


def _count_buckets(crossing_filter: CrossingFilter, bucket: Bucket) -> float:
    return (crossing_filter.end - crossing_filter.start) / BUCKET_S[bucket]


def _sort_groups(totals: dict[GroupKey, int], names: list[str], bucket: Bucket | None) -> list[tuple[GroupKey, int]]:
    """Sort by the columns in the requested order."""
    at = names.index(bucket) if bucket else 0

    def columns(row: tuple[GroupKey, int]) -> tuple[Any, ...]:
        (values, begin), _ = row
        return (*values[:at], begin, *values[at:])

    return sorted(totals.items(), key=columns)


def _to_columns(fields: list[str], values: tuple[str, ...]) -> dict[str, Any]:
    return {"class_name" if name == "class" else name: value for name, value in zip(fields, values)}


def _to_count_row(fields: list[str], bucket: Bucket | None, group: GroupKey, count: int) -> CountRow:
    values, begin = group
    times: dict[str, Any] = {bucket: format_rfc3339(begin)} if bucket else {}
    return CountRow(count=count, **times, **_to_columns(fields, values))


@get("/events", need="read", summary="Events, newest first", responses=errors(400, 503))
async def events(
    context: ContextDependency,
    time_range: SpanDependency,
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
    """List the events in [from, to), a page at a time.

    `type=LineCrossed` alone reads the history of crossings, kept for `retention.crossings_days`. Everything else reads
    the stream of events, kept for `retention.events_days`. Pass `next_cursor` until it is null; a page may be short.
    """
    if camera is not None:
        context.get_camera(camera)
    types = set(parse_choices("type", type_, EVENT_TYPES))
    if types == {"LineCrossed"}:
        crossings = CrossingFilter(*time_range, camera=camera or "", cameras=context.principal.cameras)
        page, following = await _read_crossings_page(context.app, crossings, parse_cursor(cursor_, "crossings"), limit)
    else:
        after = parse_cursor(cursor_, "stream")
        page, following = await read_events_page(context, time_range, types, camera or "", after, limit)
    return EventsReply(**time_range.to_reply(), events=page, next_cursor=following.to_text() if following else None)


async def _read_crossings_page(
    app: AppState, crossings: CrossingFilter, after: Cursor | None, limit: int
) -> tuple[list[EventReply], Cursor | None]:
    """Read a page from the history of crossings."""
    rows = await read_newest(app.redis, crossings, (after.ts, after.id) if after else None, limit + 1, app.prefix)
    page = rows[:limit]
    following = Cursor("crossings", page[-1].ts, page[-1].id) if len(rows) > limit else None
    return [crossing_to_event_reply(row) for row in page], following


async def read_events_page(
    context: RequestContext, time_range: Span, types: set[str], camera: str, after: Cursor | None, limit: int
) -> tuple[list[EventReply], Cursor | None]:
    """Read a page from the stream of events, newest first in the order of arrival.

    Args:
        context: Context of the request.
        time_range: Range of time.
        types: Types of the events; empty for all.
        camera: Id of a camera; empty for all.
        after: Where the page before ended; None for the first.
        limit: Events per page.

    Returns:
        The page, and where the next one begins.
    """
    key = stream_key(EVENTS, prefix=context.app.prefix)
    high = f"({after.id}" if after else str(int((time_range.end + MAX_ARRIVAL_DELAY_S) * 1000))
    if after is None:
        [newest] = await read_newest_entries(context.app.redis, [key])
        if newest is not None and parse_entry_id(newest[0])[0] / 1000 > context.app.now() + MAX_CLOCK_SKEW_S:
            # Redis gives no smaller id than the newest one. After a clock that was ahead, ids tell no time.
            high = "+"
    low = str(max(0, int((time_range.start - MAX_CLOCK_SKEW_S) * 1000)))
    page: list[EventReply] = []
    for _ in range(MAX_SCAN_PAGES):
        rows = await context.app.redis.xrevrange(key, high, low, count=SCAN_PAGE_ENTRIES)
        for stream_id, fields in rows:
            event = decode_event(fields)
            if (
                event is not None
                and time_range.start <= event.ts < time_range.end
                and (not camera or event.camera == camera)
                and context.principal.can_see(*find_cameras(event, context.app.config.areas))
                and (not types or type(event).__name__ in types)
            ):
                page.append(to_event_reply(event))
                if len(page) == limit:
                    return page, Cursor("stream", event.ts, stream_id.decode())
        if len(rows) < SCAN_PAGE_ENTRIES:
            return page, None
        high = f"({rows[-1][0].decode()}"
    return page, Cursor("stream", time_range.start, rows[-1][0].decode())


router = Router(
    "/",
    tags=["history"],
    route_handlers=[events, Router("/", route_handlers=[counts, series], dependencies=CROSSING_FILTER_DEPENDENCIES)],
)
