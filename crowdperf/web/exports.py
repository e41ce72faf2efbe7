"""Crossings as files: streamed, so that a year costs the server no more memory than a day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus

from litestar import Router, get
from litestar.response import Stream

from crowdperf.storage.export import MEDIA_TYPES, Format, ParquetMissing, chunks
from crowdperf.storage.queries import Wanted
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.history import CROSSINGS, Crossings
from crowdperf.web.openapi import BAD_REQUEST, REFUSED, UNAVAILABLE
from crowdperf.web.problems import Problem

RESPONSES = {**BAD_REQUEST, **REFUSED, **UNAVAILABLE}


@get(
    "/exports/crossings.csv", need="read", summary="Crossings as CSV", tags=["history"], responses=RESPONSES,
    media_type="text/csv",
)  # fmt: skip
async def crossings_csv(site: SiteContext, wanted: Crossings) -> Stream:
    """Every crossing in [from, to) in order of time. `time` is in the site's zone with its offset, `ts` Unix seconds.

    UTF-8 with a byte order mark; a cell that a spreadsheet could take for a formula begins with an apostrophe.
    """
    return await _file(site, wanted, "csv")


@get(
    "/exports/crossings.parquet", need="read", summary="Crossings as Parquet", tags=["history"], responses=RESPONSES,
    media_type=MEDIA_TYPES["parquet"],
)  # fmt: skip
async def crossings_parquet(site: SiteContext, wanted: Crossings) -> Stream:
    """Every crossing in [from, to) in order of time; `time` is a timestamp in the site's zone. 501 without pyarrow."""
    return await _file(site, wanted, "parquet")


async def _file(site: Context, wanted: Wanted, form: Format) -> Stream:
    pieces = chunks(site.redis, wanted, site.calendar, form, site.prefix)
    try:
        # The head and the first rows before the answer begins: an outage is then a 503, not a file that breaks off.
        first = [await anext(pieces), await anext(pieces, b"")]
    except ParquetMissing as error:
        raise Problem(HTTPStatus.NOT_IMPLEMENTED, str(error)) from None
    name = f"crossings-{site.calendar.text(wanted.start)[:10]}.{form}"
    return Stream(
        _joined(first, pieces),
        media_type=MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _joined(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in first:
        if piece:
            yield piece
    async for piece in rest:
        yield piece


router = Router("/", route_handlers=[crossings_csv, crossings_parquet], dependencies=CROSSINGS)
