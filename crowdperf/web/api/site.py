"""The site as it is now: cameras, pictures, occupancy of zones and areas."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated

from litestar import Response, Router, get
from litestar.params import PathParameter, QueryParameter
from msgspec import Struct

from crowdperf.frames.ring import RingUnavailable
from crowdperf.messaging.consumer import read_newest_entries
from crowdperf.messaging.schema import TrackedFrame
from crowdperf.messaging.streams import CONNECTIONS, TRACKS, stream_key
from crowdperf.settings.areas import Area, AreaZone, Door
from crowdperf.settings.camera import Camera
from crowdperf.storage.occupancy import AreaSnapshot, read_areas
from crowdperf.supervision.config_patch import compute_revision
from crowdperf.web.live.counts import compute_occupancy, decode_connections, decode_frame
from crowdperf.web.parameters import JpegSpec, errors, format_rfc3339, format_rfc3339_or_none
from crowdperf.web.problems import ApiProblem
from crowdperf.web.schemas import (
    CameraReply,
    CameraState,
    ConnectionReply,
    LineReply,
    OccupancyReply,
    SiteReply,
    Time,
    ZoneReply,
    to_reply,
)
from crowdperf.web.state import AppState, ContextDependency

CameraPath = Annotated[str, PathParameter(description="The camera's id.", max_length=64)]


class AreaReply(Struct, kw_only=True):
    """An area now. Occupancy and what belongs to it are null before its first event."""

    id: str
    name: str
    limit: int | None
    doors: list[Door]
    zones: list[AreaZone]
    occupancy: int | None = None
    uncertainty: float | None = None
    """Half the width of the 95 % interval."""
    entries: int | None = None
    exits: int | None = None
    since: Time | None = None
    """The last reset."""
    over_limit: bool = False
    last_door: str = ""
    """`<camera>/<line>` of the newest crossing of its doors."""
    last_entered: bool = False
    """Whether that crossing led into the area."""
    last_crossing: Time | None = None
    time: Time | None = None
    """Time of the newest event."""


class AreasReply(Struct, kw_only=True):
    """Every area, in the order of the configuration."""

    areas: list[AreaReply]


@get("/cameras", need="read", summary="Site and cameras", responses=errors())
async def cameras(context: ContextDependency) -> SiteReply:
    """Return the site and its cameras with lines and zones. No response holds a camera's password."""
    visible = context.get_cameras()
    position = context.app.feed.position
    states = await asyncio.to_thread(lambda: {camera.id: get_camera_state(context.app, camera) for camera in visible})
    return SiteReply(
        name=context.app.config.site.name,
        timezone=context.app.config.site.timezone,
        time=format_rfc3339(context.app.now()),
        last_id=position,
        cameras=[to_camera_reply(camera, states[camera.id]) for camera in visible],
    )


@get("/cameras/{camera_id:str}", need="read", summary="One camera", responses=errors(400, 404))
async def camera(context: ContextDependency, camera_id: CameraPath) -> Response[CameraReply]:
    """Return one camera with its lines and zones. Send its ETag as If-Match of a change."""
    settings = context.get_camera(camera_id)
    state = await asyncio.to_thread(get_camera_state, context.app, settings)
    return Response(to_camera_reply(settings, state), headers={"ETag": f'"{compute_revision(settings)}"'})


@get(
    "/cameras/{camera_id:str}/snapshot.jpg",
    need="read",
    summary="Picture of now",
    media_type="image/jpeg",
    responses={200: JpegSpec, **errors(400, 404, 503)},
)
async def snapshot(context: ContextDependency, camera_id: CameraPath) -> Response[bytes]:
    """Return the newest picture, cropped to the source's own; 503 while the camera is down."""
    view = context.app.tiles.views.get(context.get_camera(camera_id).id)
    try:
        picture = await asyncio.to_thread(view.encode_newest) if view is not None else None
    except RingUnavailable:
        picture = None
    if picture is None:
        raise ApiProblem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"camera {camera_id!r} delivers no fresh picture. Remedy: see its state at /debug.",
        )
    headers = {"Cache-Control": "no-store", "X-Captured-At": format_rfc3339(picture.captured_at_ns / 1e9)}
    return Response(picture.jpeg, media_type="image/jpeg", headers=headers)


@get(
    "/cameras/{camera_id:str}/connection",
    need="read",
    summary="Changes of the connection",
    responses=errors(400, 404, 503),
)
async def connection(
    context: ContextDependency,
    camera_id: CameraPath,
    limit: Annotated[int, QueryParameter(description="Changes at most.", ge=1, le=1000)] = 100,
) -> ConnectionReply:
    """List the changes of the camera's connection with retries, newest first; the last 1,000 are kept.

    The site's events hold the changes without repeated retries, for `retention.events_days`.
    """
    stream = stream_key(CONNECTIONS, context.get_camera(camera_id).id, context.app.prefix)
    return ConnectionReply(changes=decode_connections(await context.app.redis.xrevrange(stream, count=limit)))


@get("/occupancy", need="read", summary="Occupancy now", responses=errors(503))
async def occupancy_now(context: ContextDependency) -> OccupancyReply:
    """Return the occupancy of each zone; null if the camera's last tracked frame is older than 5 s."""
    ids = [camera.id for camera in context.get_cameras() if camera.enabled and camera.zones]
    rows = await read_newest_entries(
        context.app.redis, [stream_key(TRACKS, camera_id, context.app.prefix) for camera_id in ids]
    )
    frames: dict[str, TrackedFrame] = {}
    for camera_id, row in zip(ids, rows):
        frame = decode_frame(row[1]) if row else None
        if isinstance(frame, TrackedFrame):
            frames[camera_id] = frame
    return OccupancyReply(zones=compute_occupancy(context.get_cameras(), frames, context.app.now()))


@get("/areas", need="read", summary="Areas now", responses=errors(503))
async def areas(context: ContextDependency) -> AreasReply:
    """List the areas with their estimated occupancy.

    A caller who may see some cameras sees the areas that only those make up.
    """
    now = await read_areas(context.app.redis, context.app.prefix)
    visible = [area for area in context.app.config.areas if context.principal.can_see(*area.list_cameras())]
    return AreasReply(areas=[_to_area_reply(area, now.get(area.id)) for area in visible])


def _to_area_reply(area: Area, now: AreaSnapshot | None) -> AreaReply:
    reply = to_reply(AreaReply, area, name=area.name or area.id)
    if now is None:
        return reply
    return to_reply(
        AreaReply,
        now,
        **{name: getattr(reply, name) for name in ("id", "name", "limit", "doors", "zones")},
        since=format_rfc3339(now.since),
        time=format_rfc3339(now.at),
        last_crossing=format_rfc3339_or_none(now.last_at),
    )


def get_camera_state(app: AppState, camera: Camera) -> CameraState:
    """Return whether the camera delivers fresh frames. Blocks for a moment: call it in a thread."""
    if not camera.enabled:
        return "disabled"
    view = app.tiles.views.get(camera.id)
    return "live" if view is not None and view.is_live() else "down"


def to_camera_reply(camera: Camera, state: CameraState) -> CameraReply:
    """Convert a camera to its API form."""
    return to_reply(
        CameraReply,
        camera,
        name=camera.title,
        state=state,
        lines=[
            to_reply(
                LineReply, line, name=line.name or line.id, points=[list(vertex) for vertex in line.get_vertices()]
            )
            for line in camera.lines
        ],
        zones=[to_reply(ZoneReply, zone, name=zone.name or zone.id) for zone in camera.zones],
    )


router = Router("/", tags=["site"], route_handlers=[cameras, camera, snapshot, connection, occupancy_now, areas])
