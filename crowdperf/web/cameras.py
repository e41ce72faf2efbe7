"""Changing cameras: each change a new version of the configuration file."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, Router, delete, get, patch, post, put
from litestar.params import HeaderParameter, JSONBody
from msgspec import Meta, Struct

from crowdperf.accounts.permissions import Principal
from crowdperf.counting.usable import ASPECT
from crowdperf.frames.ring import RingUnavailable
from crowdperf.settings.camera import Camera
from crowdperf.supervision.edits import Edit, revision, sparse
from crowdperf.supervision.orders import Look, Order, Outcome
from crowdperf.web.access import Who, sees_all
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import (
    BAD_REQUEST,
    CONFLICT,
    NO_PICTURE,
    NOT_FOUND,
    PRECONDITION,
    REFUSED,
    TOO_MANY,
    UNAVAILABLE,
    JpegSpec,
)
from crowdperf.web.problems import Problem
from crowdperf.web.replies import CameraReply
from crowdperf.web.site import CameraPath, camera_reply, camera_state

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description="The ETag that the camera was loaded with: 412 if it has changed.", max_length=200
    ),
]
CHANGED = {**BAD_REQUEST, **NOT_FOUND, **CONFLICT, **PRECONDITION, **REFUSED, **UNAVAILABLE}


class CameraSaved(CameraReply, kw_only=True):
    """A camera as it was saved. `restarts` names the programs that begin anew for it; `web` shows it already."""

    version: int
    restarts: list[str]
    running: bool
    """False: there is no supervisord, so the change takes effect with the next start."""


class ChangeReply(Struct, kw_only=True):
    """A change that leaves nothing to show."""

    version: int
    restarts: list[str]
    running: bool


class Source(Struct, kw_only=True, forbid_unknown_fields=True):
    """A source to try. To try a saved camera, name it and send its URL as it is shown."""

    url: Annotated[str, Meta(min_length=1, max_length=2000, examples=["rtsp://viewer:secret@192.0.2.10/stream2"])]
    camera: Annotated[str, Meta(max_length=32, examples=["lobby"])] = ""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"


@post("/cameras", need="configure", summary="Add a camera", tags=["configuration"], responses=CHANGED)
async def add_camera(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, data: JSONBody[Camera]
) -> Response[CameraSaved]:
    """Its capture process starts at once. For who may see all cameras only."""
    sees_all(who)
    edit = Edit(mode="create", path=("cameras", data.id), value=sparse(data))
    return await save(site, request, who, data.id, edit, "camera.create", None, HTTPStatus.CREATED)


@get(
    "/cameras/{camera_id:str}/config",
    need="configure",
    summary="A camera's settings",
    tags=["configuration"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def camera_config(site: SiteContext, who: Who, camera_id: CameraPath) -> Response[Camera]:
    """All of them, defaults included: what PUT takes back. The URL is redacted; sent back as it is, it stays."""
    camera = site.camera(camera_id, who)
    return Response(camera, headers={"ETag": f'"{revision(camera)}"'})


@put(
    "/cameras/{camera_id:str}", need="configure", summary="Replace a camera", tags=["configuration"], responses=CHANGED
)
async def replace_camera(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    data: JSONBody[Camera],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """All of its settings; what is left out gets its default."""
    site.camera(camera_id, who)
    edit = Edit(mode="replace", path=("cameras", camera_id), value=sparse(data))
    return await save(site, request, who, camera_id, edit, "camera.change", if_match)


@patch(
    "/cameras/{camera_id:str}",
    need="configure",
    summary="Change some of a camera's settings",
    tags=["configuration"],
    responses=CHANGED,
)
async def change_camera(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    data: JSONBody[dict[str, Any]],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """A JSON merge patch (RFC 7396): null takes a setting back to its default, `{"enabled": false}` switches the camera
    off. `lines` and `zones` replace the present ones; one with the id of a present one keeps what it does not name.
    """
    site.camera(camera_id, who)
    edit = Edit(mode="merge", path=("cameras", camera_id), value=data)
    return await save(site, request, who, camera_id, edit, "camera.change", if_match)


@delete(
    "/cameras/{camera_id:str}",
    need="configure",
    summary="Remove a camera",
    tags=["configuration"],
    status_code=200,
    responses=CHANGED,
)
async def remove_camera(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, camera_id: CameraPath, if_match: IfMatch = None
) -> ChangeReply:
    """Its history stays."""
    site.camera(camera_id, who)
    edit = Edit(mode="delete", path=("cameras", camera_id))
    outcome = await change(site, request, who, camera_id, edit, "camera.remove", if_match)
    return ChangeReply(version=outcome.version, restarts=list(outcome.restarts), running=outcome.running)


@post(
    "/camera-test",
    need="configure",
    summary="Try a source before saving it",
    tags=["configuration"],
    status_code=200,
    media_type="image/jpeg",
    responses={200: JpegSpec, **BAD_REQUEST, **NOT_FOUND, **REFUSED, **NO_PICTURE, **TOO_MANY},
)
async def test_source(site: SiteContext, who: Who, data: JSONBody[Source]) -> Response[bytes]:
    """A picture of now, or 422 with the reason why there is none, within ten seconds."""
    if data.camera or who.cameras is not None:
        site.camera(data.camera, who)
    asked = Look(url=data.url, camera=data.camera, rtsp_transport=data.rtsp_transport)
    seen = await site.office.look(asked)
    if not seen.ok:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, seen.detail)
    headers = {"X-Source-Width": str(seen.width), "X-Source-Height": str(seen.height), "X-Source-Fps": f"{seen.fps:g}"}
    return Response(seen.jpeg, media_type="image/jpeg", headers=headers)


async def save(
    site: Context,
    request: Request[Any, Any, Any],
    who: Principal,
    camera_id: str,
    edit: Edit,
    action: str,
    if_match: str | None,
    status: HTTPStatus = HTTPStatus.OK,
) -> Response[CameraSaved]:
    """Make the change and show the camera as it is by then."""
    outcome = await change(site, request, who, camera_id, edit, action, if_match)
    camera = msgspec.convert(next(row for row in outcome.cameras if row["id"] == camera_id), Camera)
    state = await asyncio.to_thread(camera_state, site, camera)
    shown = camera_reply(camera, state)
    saved = CameraSaved(
        version=outcome.version,
        restarts=list(outcome.restarts),
        running=outcome.running,
        **{name: getattr(shown, name) for name in shown.__struct_fields__},
    )
    return Response(saved, status_code=status, headers={"ETag": f'"{outcome.revisions[camera_id]}"'})


async def change(
    site: Context,
    request: Request[Any, Any, Any],
    who: Principal,
    camera_id: str,
    edit: Edit,
    action: str,
    if_match: str | None,
) -> Outcome:
    """Have the change made, and write it into the audit log.

    Raises:
        Problem: it cannot be made.
    """
    known = next((row for row in site.slice.cameras if row.id == camera_id), None)
    expected = (if_match or "").removeprefix("W/").strip('"')
    order = Order(
        do="edit",
        edits=(edit,),
        expect={camera_id: expected} if expected and expected != "*" else {},
        who=who.name,
        comment=f"{action} {'/'.join(edit.path[1::2])}",
        aspects={camera_id: await asyncio.to_thread(aspect_of, site, known)} if known else {},
    )
    outcome = await site.office.ask(order)
    fields = ", ".join(sorted(edit.value)) if isinstance(edit.value, dict) else ""
    detail = f"version {outcome.version}; {fields}" if fields else f"version {outcome.version}"
    await site.note(who, request, action, "/".join(edit.path[1::2]), detail)
    return outcome


def aspect_of(site: Context, camera: Camera) -> float:
    """Width by height of the camera's picture; 16:9 while it is not known."""
    view = site.view(camera.id)
    try:
        state = view.state() if view else None
    except RingUnavailable:
        state = None
    return state.width / state.height if state else ASPECT


async def order_change(
    site: Context, request: Request[Any, Any, Any], who: Principal, edit: Edit, action: str
) -> ChangeReply:
    """A change of something that is no camera's."""
    outcome = await change(site, request, who, "", edit, action, None)
    return ChangeReply(version=outcome.version, restarts=list(outcome.restarts), running=outcome.running)


router = Router(
    "/",
    route_handlers=[add_camera, camera_config, replace_camera, change_camera, remove_camera, test_source],
)
