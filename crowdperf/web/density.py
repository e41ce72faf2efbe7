"""Where people stood, and how long they stayed: a camera's density grid and its zones' figures over a range."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.params import PathParameter
from msgspec import Meta, Struct, field

from crowdperf.settings.base import DENSITY_GRID
from crowdperf.storage import density, zones
from crowdperf.web.access import PrincipalDependency
from crowdperf.web.context import AppDependency
from crowdperf.web.history import From, To
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import format_rfc3339, parse_span
from crowdperf.web.problems import ApiProblem
from crowdperf.web.replies import Time
from crowdperf.web.site import CameraPath

ZonePath = Annotated[str, PathParameter(description="The zone's id.", max_length=64)]


class HeatmapReply(Struct, kw_only=True):
    """Seconds that people stood in each cell of the source's picture, whole hours of the range."""

    camera: str
    start: Time = field(name="from")
    end: Time = field(name="to")
    columns: int
    rows: int
    seconds: Annotated[list[list[int]], Meta(description="Row by row, from the top.")]
    maximum: int


class ZoneStatsReply(Struct, kw_only=True):
    """A zone over a range."""

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
    dwell_histogram: Annotated[list[int], Meta(description="Stays up to each bound, then above the last.")]
    longest_wait_s: float


@get(
    "/cameras/{camera_id:str}/heatmap",
    need="read",
    summary="Where people stood",
    tags=["history"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def heatmap(
    app: AppDependency, principal: PrincipalDependency, camera_id: CameraPath, start: From = None, end: To = None
) -> HeatmapReply:
    """The density grid over the hours that begin in [from, to)."""
    camera = app.get_camera(camera_id, principal)
    asked = parse_span(start, end, app.now(), app.zone)
    seconds = await density.read(app.redis, camera.id, int(asked.start), int(asked.end), app.prefix)
    return HeatmapReply(
        camera=camera.id,
        start=format_rfc3339(asked.start),
        end=format_rfc3339(asked.end),
        columns=DENSITY_GRID[0],
        rows=DENSITY_GRID[1],
        seconds=seconds,
        maximum=max(map(max, seconds)),
    )


@get(
    "/cameras/{camera_id:str}/zones/{zone_id:str}/stats",
    need="read",
    summary="A zone over a range",
    tags=["history"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def zone_stats(
    app: AppDependency,
    principal: PrincipalDependency,
    camera_id: CameraPath,
    zone_id: ZonePath,
    start: From = None,
    end: To = None,
) -> ZoneStatsReply:
    """Occupancy, entries, dwell times and, for queues, the longest wait."""
    camera = app.get_camera(camera_id, principal)
    if zone_id not in {zone.id for zone in camera.zones}:
        raise ApiProblem(HTTPStatus.NOT_FOUND, f"camera {camera.id!r} has no such zone. Remedy: see /api/v1/cameras.")
    asked = parse_span(start, end, app.now(), app.zone)
    minutes = await zones.read_zone_minutes(app.redis, camera.id, zone_id, *asked, prefix=app.prefix)
    stats = zones.summarise_minutes(minutes, min(asked.end, app.now()) - asked.start)
    return ZoneStatsReply(
        camera=camera.id,
        zone=zone_id,
        start=format_rfc3339(asked.start),
        end=format_rfc3339(asked.end),
        dwell_bounds_s=list(zones.DWELL_BOUNDS_S),
        **msgspec.structs.asdict(stats),
    )


density_router = Router("/", route_handlers=[heatmap, zone_stats])
