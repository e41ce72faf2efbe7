"""Crossings as files: streamed, so that a year costs the server no more memory than a day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus

from litestar import Router, get
from litestar.response import Stream

from crowdperf.storage.export import MEDIA_TYPES, Format, ParquetUnavailableError, iter_chunks
from crowdperf.storage.queries import CrossingFilter
from crowdperf.web.context import AppDependency, AppState
from crowdperf.web.history import CROSSING_FILTER_DEPENDENCIES, CrossingFilterDependency
from crowdperf.web.openapi import BAD_REQUEST, REFUSED, UNAVAILABLE
from crowdperf.web.problems import ApiProblem

EXPORT_RESPONSES = {**BAD_REQUEST, **REFUSED, **UNAVAILABLE}


@get(
    "/exports/crossings.csv", need="read", summary="Crossings as CSV", tags=["history"], responses=EXPORT_RESPONSES,
    media_type="text/csv",
)  # fmt: skip
async def crossings_csv(app: AppDependency, crossing_filter: CrossingFilterDependency) -> Stream:
    """Every crossing in [from, to) in order of time. `time` is in the site's zone with its offset, `ts` Unix seconds.

    UTF-8 with a byte order mark; a cell that a spreadsheet could take for a formula begins with an apostrophe.
    """
    return await _stream_file(app, crossing_filter, "csv")


@get(
    "/exports/crossings.parquet", need="read", summary="Crossings as Parquet",
    tags=["history"], responses=EXPORT_RESPONSES,
    media_type=MEDIA_TYPES["parquet"],
)  # fmt: skip
async def crossings_parquet(app: AppDependency, crossing_filter: CrossingFilterDependency) -> Stream:
    """Every crossing in [from, to) in order of time; `time` is a timestamp in the site's zone. 501 without pyarrow."""
    return await _stream_file(app, crossing_filter, "parquet")


async def _stream_file(app: AppState, crossing_filter: CrossingFilter, file_format: Format) -> Stream:
    pieces = iter_chunks(app.redis, crossing_filter, app.calendar, file_format, app.prefix)
    try:
        # The head and the first rows before the answer begins: an outage is then a 503, not a file that breaks off.
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


exports_router = Router(
    "/", route_handlers=[crossings_csv, crossings_parquet], dependencies=CROSSING_FILTER_DEPENDENCIES
)
