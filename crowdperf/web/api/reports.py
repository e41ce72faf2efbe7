"""Reports to print, crossings as files, density maps and zone figures over a range.

Files are streamed: a year takes no more memory than a day.
"""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Iterable, Sequence
from http import HTTPStatus
from typing import Annotated

import msgspec
from litestar import Response, Router, get
from litestar.params import PathParameter
from litestar.response import Stream
from msgspec import Meta, Struct, field

from crowdperf.messaging.redis.client import AnyClient
from crowdperf.settings.base import DENSITY_GRID
from crowdperf.storage import density, occupancy
from crowdperf.storage.buckets import Bucket
from crowdperf.storage.queries import GROUP_FIELDS, CrossingFilter, GroupKey, count_crossings
from crowdperf.storage.transfer.export import MEDIA_TYPES, Format, ParquetUnavailableError, iter_chunks
from crowdperf.web.api.history import (
    CROSSING_FILTER_DEPENDENCIES,
    CrossingFilterDependency,
    parse_crossing_filter,
    read_events_page,
)
from crowdperf.web.api.site import CameraPath
from crowdperf.web.parameters import CameraFilter, Span, errors
from crowdperf.web.problems import ApiProblem, not_found
from crowdperf.web.schemas import Time
from crowdperf.web.state import AppDependency, AppState, ContextDependency, SpanDependency

MAX_REPORT_GAPS = 200
MAX_LIGHT_RANGE_S = 62 * 86_400.0
"""Range of a heatmap, a zone's figures or a file that may be computed beside any number of others."""


@get("/exports/report.html", need="read", summary="Report to print", media_type="text/html", responses=errors(400, 503))
async def report(context: ContextDependency, time_range: SpanDependency, camera: CameraFilter = None) -> Response[str]:
    """Render crossings in [from, to) by line, class and day, and the gaps of the cameras."""
    app = context.app
    crossing_filter = parse_crossing_filter(context, time_range, camera)

    async def count(fields: Sequence[str], bucket: Bucket | None) -> dict[GroupKey, int]:
        return await app.queries.run(
            lambda client: count_crossings(client, crossing_filter, fields, bucket, app.calendar, app.prefix),
            is_heavy=False,
        )

    by_line = await count(GROUP_FIELDS, None)
    by_day = await count(["direction"], "day")
    lines: dict[tuple[str, ...], dict[str, int]] = {}
    for ((*names, direction), _), number in by_line.items():
        lines.setdefault(tuple(names), {})[direction] = number
    days: dict[int, dict[str, int]] = {}
    for ((direction,), begin), number in by_day.items():
        days.setdefault(begin, {})[direction] = number
    cameras = {row.id: row for row in context.get_cameras()}

    def get_titles(camera_id: str, line_id: str) -> tuple[str, str]:
        row = cameras.get(camera_id)
        line_name = next((line.name for line in row.lines if line.id == line_id), "") if row else ""
        return (row.title if row else camera_id), line_name or line_id

    gaps, _ = await read_events_page(context, time_range, {"CameraGap"}, camera or "", None, MAX_REPORT_GAPS)
    format_time = app.calendar.format_time
    since, until = map(format_time, time_range)
    body = [
        f"<h1>{html.escape(app.config.site.name)}</h1>",
        f"<p>Crossings from {since} to {until} ({html.escape(app.calendar.name)}).</p>",
        "<h2>By line</h2>",
        _render_table(
            ("Camera", "Line", "Class", "In", "Out", "In minus out"),
            ((*get_titles(*names[:2]), names[2], *_format_totals(row)) for names, row in sorted(lines.items())),
        ),
        "<h2>By day</h2>",
        _render_table(
            ("Day", "In", "Out", "In minus out"),
            ((format_time(day)[:10], *_format_totals(row)) for day, row in sorted(days.items())),
        ),
        "<h2>Gaps: what no camera saw</h2>",
        _render_table(
            ("Camera", "From", "To", "Cause"),
            (
                (get_titles(gap.camera, "")[0], format_time(gap.start or 0), format_time(gap.end or 0), gap.cause or "")
                for gap in reversed(gaps)
            ),
        ),
    ]
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Report</title>"
        f"<link rel='stylesheet' href='/style/print.css'>{''.join(body)}</html>"
    )
    return Response(page, media_type="text/html")


def _format_totals(row: dict[str, int]) -> tuple[str, str, str]:
    entered, left = row.get("in", 0), row.get("out", 0)
    return str(entered), str(left), str(entered - left)


def _render_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Render a table with escaped cells, or "None." without rows."""
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    if not lines:
        return "<p>None.</p>"
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


EXPORT_RESPONSES = errors(400, 429, 503)


@get(
    "/exports/crossings.csv", need="read", summary="Crossings as CSV", responses=EXPORT_RESPONSES,
    media_type="text/csv",
)  # fmt: skip
async def crossings_csv(app: AppDependency, crossing_filter: CrossingFilterDependency) -> Stream:
    """Stream every crossing in [from, to) in order of time.

    `time` is in the site's zone with its offset, `ts` in Unix seconds. UTF-8 with a byte order mark. A cell that looks
    like a formula begins with an apostrophe.
    """
    return await _stream_file(app, crossing_filter, "csv")


@get(
    "/exports/crossings.parquet", need="read", summary="Crossings as Parquet",
    responses=EXPORT_RESPONSES,
    media_type=MEDIA_TYPES["parquet"],
)  # fmt: skip
async def crossings_parquet(app: AppDependency, crossing_filter: CrossingFilterDependency) -> Stream:
    """Stream every crossing in [from, to) in order of time.

    `time` is a timestamp in the site's zone. 501 without pyarrow.
    """
    return await _stream_file(app, crossing_filter, "parquet")


async def _stream_file(app: AppState, crossing_filter: CrossingFilter, file_format: Format) -> Stream:
    pieces = app.queries.iterate(
        lambda client: iter_chunks(client, crossing_filter, app.calendar, file_format, app.prefix),
        _is_long(Span(crossing_filter.start, crossing_filter.end)),
    )
    try:
        # Read the first rows before the response begins: an outage is then a 503, not a truncated file.
        first = [await anext(pieces), await anext(pieces, b"")]
    except ParquetUnavailableError as error:
        raise ApiProblem(HTTPStatus.NOT_IMPLEMENTED, str(error)) from None
    name = f"crossings-{app.calendar.format_time(crossing_filter.start)[:10]}.{file_format}"
    return Stream(
        _chain_pieces(first, pieces),
        media_type=MEDIA_TYPES[file_format],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _chain_pieces(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in first:
        if piece:
            yield piece
    async for piece in rest:
        yield piece


ZonePath = Annotated[str, PathParameter(description="The zone's id.", max_length=64)]


class HeatmapReply(Struct, kw_only=True):
    """Seconds that people stood in each cell of the source picture, in whole hours of the range."""

    camera: str
    start: Time = field(name="from")
    end: Time = field(name="to")
    columns: int
    rows: int
    seconds: Annotated[list[list[int]], Meta(description="Row by row, from the top.")]
    maximum: int


class ZoneStatsReply(Struct, kw_only=True):
    """Figures of a zone over a range."""

    camera: str
    zone: str
    start: Time = field(name="from")
    end: Time = field(name="to")
    maximum: int
    mean: float
    entries: int
    exits: int
    dwell_mean_s: float
    dwell_median_s: float
    dwell_p90_s: float
    dwell_max_s: float
    dwell_bounds_s: list[int]
    dwell_histogram: Annotated[list[int], Meta(description="Stays up to each bound, then above the last one.")]
    longest_wait_s: float


@get(
    "/cameras/{camera_id:str}/heatmap", need="read", summary="Where people stood", responses=errors(400, 404, 429, 503)
)
async def heatmap(context: ContextDependency, time_range: SpanDependency, camera_id: CameraPath) -> HeatmapReply:
    """Sum the density grids of the hours that begin in [from, to)."""
    camera = context.get_camera(camera_id)
    app, first, last = context.app, int(time_range.start), int(time_range.end)
    seconds = await app.queries.run(
        lambda client: density.read(client, camera.id, first, last, app.prefix), _is_long(time_range)
    )
    return HeatmapReply(
        camera=camera.id,
        **time_range.to_reply(),
        columns=DENSITY_GRID[0],
        rows=DENSITY_GRID[1],
        seconds=seconds,
        maximum=max(map(max, seconds)),
    )


@get(
    "/cameras/{camera_id:str}/zones/{zone_id:str}/stats",
    need="read",
    summary="A zone over a range",
    responses=errors(400, 404, 429, 503),
)
async def zone_stats(
    context: ContextDependency, time_range: SpanDependency, camera_id: CameraPath, zone_id: ZonePath
) -> ZoneStatsReply:
    """Compute occupancy, entries, dwell times and, for queues, the longest wait."""
    camera = context.get_camera(camera_id)
    if zone_id not in {zone.id for zone in camera.zones}:
        raise not_found(f"camera {camera.id!r} has no such zone. Remedy: see /api/v1/cameras.")
    app = context.app
    asked_s = min(time_range.end, app.now()) - time_range.start

    async def compute(client: AnyClient) -> occupancy.ZoneStats:
        minutes = await occupancy.read_zone_minutes(client, camera.id, zone_id, *time_range, prefix=app.prefix)
        return occupancy.summarise_minutes(minutes, asked_s)

    stats = await app.queries.run(compute, _is_long(time_range))
    return ZoneStatsReply(
        camera=camera.id,
        zone=zone_id,
        **time_range.to_reply(),
        dwell_bounds_s=list(occupancy.DWELL_BOUNDS_S),
        **msgspec.structs.asdict(stats),
    )


def _is_long(time_range: Span) -> bool:
    return time_range.end - time_range.start > MAX_LIGHT_RANGE_S


router = Router(
    "/",
    tags=["history"],
    route_handlers=[
        report,
        heatmap,
        zone_stats,
        Router("/", route_handlers=[crossings_csv, crossings_parquet], dependencies=CROSSING_FILTER_DEPENDENCIES),
    ],
)
