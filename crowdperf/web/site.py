"""The site as it is now: cameras, pictures, occupancy."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

from litestar import Response, Router, get
from litestar.params import PathParameter, QueryParameter

from crowdperf.events.schema import TrackedFrame
from crowdperf.events.streams import CONNECTIONS, TRACKS, key
from crowdperf.frames.ring import RingUnavailable
from crowdperf.settings.camera import Camera
from crowdperf.supervision.edits import revision
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.entries import decoded_connections, decoded_frame, newest_tracks
from crowdperf.web.occupancy import occupancy
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE, JpegSpec
from crowdperf.web.parameters import rfc3339
from crowdperf.web.problems import Problem
from crowdperf.web.replies import (
    CameraReply,
    CameraState,
    ConnectionReply,
    LineReply,
    OccupancyReply,
    SiteReply,
    ZoneReply,
)

CameraPath = Annotated[str, PathParameter(description="The camera's id.", max_length=64)]


@get("/cameras", need="read", summary="Site and cameras", tags=["site"], responses=REFUSED)
async def cameras(site: SiteContext, who: Who) -> SiteReply:
    """The site, and every configured camera with its lines and zones. No answer ever holds a camera's password."""
    shown = site.cameras(who)
    position = site.feed.position
    states = await asyncio.to_thread(_states, site, shown)
    return SiteReply(
        name=site.slice.site.name,
        timezone=site.slice.site.timezone,
        time=rfc3339(site.now()),
        last_id=position,
        cameras=[camera_reply(camera, states[camera.id]) for camera in shown],
    )


@get(
    "/cameras/{camera_id:str}",
    need="read",
    summary="One camera",
    tags=["site"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def camera(site: SiteContext, who: Who, camera_id: CameraPath) -> Response[CameraReply]:
    """One camera with its lines and zones. Its ETag goes back as If-Match of a change."""
    found = site.camera(camera_id, who)
    state = await asyncio.to_thread(camera_state, site, found)
    return Response(camera_reply(found, state), headers={"ETag": f'"{revision(found)}"'})


@get(
    "/cameras/{camera_id:str}/snapshot.jpg",
    need="read",
    summary="Picture of now",
    tags=["site"],
    media_type="image/jpeg",
    responses={200: JpegSpec, **BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def snapshot(site: SiteContext, who: Who, camera_id: CameraPath) -> Response[bytes]:
    """The newest picture, cropped to the source's own; 503 while the camera is down, never an old picture."""
    view = site.view(site.camera(camera_id, who).id)
    try:
        picture = await asyncio.to_thread(view.take) if view is not None else None
    except RingUnavailable:
        picture = None
    if picture is None:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"camera {camera_id!r} gives no fresh picture. Remedy: see its state at /debug.",
        )
    headers = {"Cache-Control": "no-store", "X-Captured-At": rfc3339(picture.captured_at_ns / 1e9)}
    return Response(picture.jpeg, media_type="image/jpeg", headers=headers)


@get(
    "/cameras/{camera_id:str}/connection",
    need="read",
    summary="Changes of the connection",
    tags=["site"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def connection(
    site: SiteContext,
    who: Who,
    camera_id: CameraPath,
    limit: Annotated[int, QueryParameter(description="Changes at most.", ge=1, le=1000)] = 100,
) -> ConnectionReply:
    """Every change of the camera's connection, retries included, newest first; the last 1,000 are kept.

    The site's events hold the changes without the retries of a camera that stays down, for `retention.events_days`.
    """
    # Any: redis-py types its replies differently from release to release.
    client: Any = site.redis
    stream = key(CONNECTIONS, site.camera(camera_id, who).id, site.prefix)
    return ConnectionReply(changes=decoded_connections(await client.xrevrange(stream, count=limit)))


@get("/occupancy", need="read", summary="Occupancy now", tags=["site"], responses={**REFUSED, **UNAVAILABLE})
async def occupancy_now(site: SiteContext, who: Who) -> OccupancyReply:
    """How many are inside each zone now; null where the camera's last tracked frame is older than 5 s."""
    with_zones = [camera.id for camera in site.cameras(who) if camera.enabled and camera.zones]
    rows = await newest_tracks(site.redis, [key(TRACKS, name, site.prefix) for name in with_zones])
    frames: dict[str, TrackedFrame] = {}
    for name, row in zip(with_zones, rows):
        frame = decoded_frame(row[1]) if row else None
        if isinstance(frame, TrackedFrame):
            frames[name] = frame
    return OccupancyReply(zones=occupancy(site.cameras(who), frames, site.now()))


def _states(site: Context, cameras: tuple[Camera, ...]) -> dict[str, CameraState]:
    return {camera.id: camera_state(site, camera) for camera in cameras}


def camera_state(site: Context, camera: Camera) -> CameraState:
    """Whether the camera gives fresh frames. Blocks for a moment: not on the loop."""
    if not camera.enabled:
        return "disabled"
    view = site.view(camera.id)
    if view is None:
        return "down"
    return "live" if view.live() else "down"


def camera_reply(camera: Camera, state: CameraState) -> CameraReply:
    """The camera as the API shows it."""
    return CameraReply(
        id=camera.id,
        name=camera.title,
        url=camera.url,
        enabled=camera.enabled,
        state=state,
        lines=[
            LineReply(
                id=line.id,
                name=line.name or line.id,
                p1=line.p1,
                p2=line.p2,
                in_side=line.in_side,
                points=[list(vertex) for vertex in line.vertices()],
                in_name=line.in_name,
                out_name=line.out_name,
                classes=list(line.classes),
            )
            for line in camera.lines
        ],
        zones=[
            ZoneReply(
                id=zone.id,
                name=zone.name or zone.id,
                polygon=zone.polygon,
                classes=list(zone.classes),
                limit=zone.limit,
                kind=zone.kind,
            )
            for zone in camera.zones
        ],
    )


router = Router("/", route_handlers=[cameras, camera, snapshot, connection, occupancy_now])
