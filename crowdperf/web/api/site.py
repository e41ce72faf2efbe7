"""The site as it is now: cameras, pictures, occupancy."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated

from litestar import Response, Router, get
from litestar.params import PathParameter, QueryParameter

from crowdperf.frames.ring import RingUnavailable
from crowdperf.messaging.consumer import read_newest_entries
from crowdperf.messaging.schema import TrackedFrame
from crowdperf.messaging.streams import CONNECTIONS, TRACKS, stream_key
from crowdperf.settings.camera import Camera
from crowdperf.supervision.config_patch import compute_revision
from crowdperf.web.auth import PrincipalDependency
from crowdperf.web.live.counts import compute_occupancy, decode_connections, decode_frame
from crowdperf.web.parameters import JpegSpec, errors, format_rfc3339
from crowdperf.web.problems import ApiProblem
from crowdperf.web.schemas import (
    CameraReply,
    CameraState,
    ConnectionReply,
    LineReply,
    OccupancyReply,
    SiteReply,
    ZoneReply,
    to_reply,
)
from crowdperf.web.state import AppDependency, AppState

CameraPath = Annotated[str, PathParameter(description="The camera's id.", max_length=64)]


@get("/cameras", need="read", summary="Site and cameras", responses=errors())
async def cameras(app: AppDependency, principal: PrincipalDependency) -> SiteReply:
    """Return the site and its cameras with lines and zones. No response holds a camera's password."""
    visible = app.get_cameras(principal)
    position = app.feed.position
    states = await asyncio.to_thread(lambda: {camera.id: get_camera_state(app, camera) for camera in visible})
    return SiteReply(
        name=app.config.site.name,
        timezone=app.config.site.timezone,
        time=format_rfc3339(app.now()),
        last_id=position,
        cameras=[to_camera_reply(camera, states[camera.id]) for camera in visible],
    )


@get("/cameras/{camera_id:str}", need="read", summary="One camera", responses=errors(400, 404))
async def camera(app: AppDependency, principal: PrincipalDependency, camera_id: CameraPath) -> Response[CameraReply]:
    """Return one camera with its lines and zones. Send its ETag as If-Match of a change."""
    settings = app.get_camera(camera_id, principal)
    state = await asyncio.to_thread(get_camera_state, app, settings)
    return Response(to_camera_reply(settings, state), headers={"ETag": f'"{compute_revision(settings)}"'})


@get(
    "/cameras/{camera_id:str}/snapshot.jpg",
    need="read",
    summary="Picture of now",
    media_type="image/jpeg",
    responses={200: JpegSpec, **errors(400, 404, 503)},
)
async def snapshot(app: AppDependency, principal: PrincipalDependency, camera_id: CameraPath) -> Response[bytes]:
    """Return the newest picture, cropped to the source's own; 503 while the camera is down."""
    view = app.get_ring_view(app.get_camera(camera_id, principal).id)
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
    app: AppDependency,
    principal: PrincipalDependency,
    camera_id: CameraPath,
    limit: Annotated[int, QueryParameter(description="Changes at most.", ge=1, le=1000)] = 100,
) -> ConnectionReply:
    """List the changes of the camera's connection with retries, newest first; the last 1,000 are kept.

    The site's events hold the changes without repeated retries, for `retention.events_days`.
    """
    stream = stream_key(CONNECTIONS, app.get_camera(camera_id, principal).id, app.prefix)
    return ConnectionReply(changes=decode_connections(await app.redis.xrevrange(stream, count=limit)))


@get("/occupancy", need="read", summary="Occupancy now", responses=errors(503))
async def occupancy_now(app: AppDependency, principal: PrincipalDependency) -> OccupancyReply:
    """Return the occupancy of each zone; null if the camera's last tracked frame is older than 5 s."""
    ids = [camera.id for camera in app.get_cameras(principal) if camera.enabled and camera.zones]
    rows = await read_newest_entries(app.redis, [stream_key(TRACKS, camera_id, app.prefix) for camera_id in ids])
    frames: dict[str, TrackedFrame] = {}
    for camera_id, row in zip(ids, rows):
        frame = decode_frame(row[1]) if row else None
        if isinstance(frame, TrackedFrame):
            frames[camera_id] = frame
    return OccupancyReply(zones=compute_occupancy(app.get_cameras(principal), frames, app.now()))


def get_camera_state(app: AppState, camera: Camera) -> CameraState:
    """Return whether the camera delivers fresh frames. Blocks for a moment: call it in a thread."""
    if not camera.enabled:
        return "disabled"
    view = app.get_ring_view(camera.id)
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


router = Router("/", tags=["site"], route_handlers=[cameras, camera, snapshot, connection, occupancy_now])
