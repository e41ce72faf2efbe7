"""Changes of cameras; each is a new version of the configuration file."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, Router, delete, get, patch, post, put
from litestar.params import HeaderParameter, JSONBody
from msgspec import Meta, Struct

from crowdperf.counting.validation import DEFAULT_ASPECT
from crowdperf.frames.ring import RingUnavailable
from crowdperf.settings.camera import Camera
from crowdperf.supervision.config_patch import (
    ConfigRequest,
    ConfigResponse,
    Edit,
    ProbeRequest,
    compute_revision,
    omit_defaults,
)
from crowdperf.web.api.site import CameraPath, get_camera_state, to_camera_reply
from crowdperf.web.auth import require_all_cameras
from crowdperf.web.health import can_see_program
from crowdperf.web.parameters import JpegSpec, errors, post_action
from crowdperf.web.problems import ApiProblem
from crowdperf.web.schemas import CameraReply, to_reply
from crowdperf.web.state import AppState, ContextDependency, RequestContext

IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match", description="The ETag that the camera was loaded with: 412 if it has changed.", max_length=200
    ),
]
CONFIG_PLACE_PATTERN = re.compile(r"\$\.(\w+)")
"""Where in the configuration a refusal finds the fault, such as `$.alerts.rules[2]`."""
CHANGE_ERRORS = errors(400, 404, 409, 412, 503)


class CameraSaved(CameraReply, kw_only=True):
    """A camera after its change. `restarts` names the programs that restart for it."""

    version: int
    restarts: list[str]
    running: bool
    """False: supervisord is not running, so the change takes effect at the next start."""


class ChangeReply(Struct, kw_only=True):
    """Result of a change."""

    version: int
    restarts: list[str]
    running: bool


class SourceTestRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A source to test. To test a saved camera, send its id and its redacted URL."""

    url: Annotated[str, Meta(min_length=1, max_length=2000, examples=["rtsp://viewer:secret@192.0.2.10/stream2"])]
    camera: Annotated[str, Meta(max_length=32, examples=["lobby"])] = ""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"


@post("/cameras", need="configure", all_cameras=True, summary="Add a camera", responses=CHANGE_ERRORS)
async def add_camera(context: ContextDependency, data: JSONBody[Camera]) -> Response[CameraSaved]:
    """Add a camera; its capture process starts at once.

    Only for callers who may see all cameras.
    """
    edit = Edit(mode="create", path=("cameras", data.id), value=omit_defaults(data))
    return await save_camera(context, edit, "camera.create")


@get("/cameras/{camera_id:str}/config", need="configure", summary="A camera's settings", responses=errors(400, 404))
async def camera_config(context: ContextDependency, camera_id: CameraPath) -> Response[Camera]:
    """Return all settings, defaults included, in the form that PUT takes.

    The URL is redacted; PUT keeps the stored one if the redacted form comes back.
    """
    camera = context.get_camera(camera_id)
    return Response(camera, headers={"ETag": f'"{compute_revision(camera)}"'})


@put("/cameras/{camera_id:str}", need="configure", summary="Replace a camera", responses=CHANGE_ERRORS)
async def replace_camera(
    context: ContextDependency, camera_id: CameraPath, data: JSONBody[Camera], if_match: IfMatch = None
) -> Response[CameraSaved]:
    """Replace all settings; omitted ones get their defaults."""
    edit = Edit(mode="replace", path=("cameras", camera_id), value=omit_defaults(data))
    return await save_camera(context, edit, "camera.change", if_match)


@patch(
    "/cameras/{camera_id:str}", need="configure", summary="Change some of a camera's settings", responses=CHANGE_ERRORS
)
async def change_camera(
    context: ContextDependency, camera_id: CameraPath, data: JSONBody[dict[str, Any]], if_match: IfMatch = None
) -> Response[CameraSaved]:
    """Apply a JSON merge patch (RFC 7396).

    null resets a setting to its default; `{"enabled": false}` switches the camera off. `lines` and `zones` replace the
    present ones; an element with a present id keeps the settings that it omits.
    """
    edit = Edit(mode="merge", path=("cameras", camera_id), value=data)
    return await save_camera(context, edit, "camera.change", if_match)


@delete(
    "/cameras/{camera_id:str}", need="configure", summary="Remove a camera", status_code=200, responses=CHANGE_ERRORS
)
async def remove_camera(context: ContextDependency, camera_id: CameraPath, if_match: IfMatch = None) -> ChangeReply:
    """Remove the camera; its history stays."""
    edit = Edit(mode="delete", path=("cameras", camera_id))
    return to_reply(ChangeReply, await apply_change(context, edit, "camera.remove", if_match))


@post_action(
    "/camera-test",
    need="configure",
    summary="Try a source before saving it",
    media_type="image/jpeg",
    responses={200: JpegSpec, **errors(400, 404, 422, 429)},
)
async def test_source(context: ContextDependency, data: JSONBody[SourceTestRequest]) -> Response[bytes]:
    """Return a picture of the source within ten seconds, or 422 with the reason."""
    if data.camera or context.principal.cameras is not None:
        context.get_camera(data.camera)
    probe = ProbeRequest(url=data.url, camera=data.camera, rtsp_transport=data.rtsp_transport)
    result = await context.app.config_client.probe_source(probe)
    if not result.ok:
        raise ApiProblem(HTTPStatus.UNPROCESSABLE_ENTITY, result.detail)
    values = {"Width": str(result.width), "Height": str(result.height), "Fps": f"{result.fps:g}"}
    headers = {f"X-Source-{name}": value for name, value in values.items()}
    return Response(result.jpeg, media_type="image/jpeg", headers=headers)


async def save_camera(
    context: RequestContext, edit: Edit, action: str, if_match: str | None = None
) -> Response[CameraSaved]:
    """Apply a change of a camera, and return the camera as it is then, with its new ETag.

    Args:
        context: Request that makes the change.
        edit: The change.
        action: Action in the audit log.
        if_match: ETag that the client knows; None skips the check.

    Returns:
        The response; 201 for something new.

    Raises:
        ApiProblem: The change is refused.
    """
    outcome = await apply_change(context, edit, action, if_match)
    camera_id = edit.path[1]
    camera = msgspec.convert(next(row for row in outcome.cameras if row["id"] == camera_id), Camera)
    reply = to_camera_reply(camera, await asyncio.to_thread(get_camera_state, context.app, camera))
    return Response(
        to_reply(CameraSaved, outcome, **msgspec.structs.asdict(reply)),
        status_code=HTTPStatus.CREATED if edit.mode == "create" else HTTPStatus.OK,
        headers={"ETag": f'"{outcome.revisions[camera_id]}"'},
    )


async def apply_change(context: RequestContext, edit: Edit, action: str, if_match: str | None = None) -> ConfigResponse:
    """Apply a change, and write it to the audit log.

    A new camera, and what is no camera's, is only for callers who may see all cameras.

    Args:
        context: Request that makes the change.
        edit: The change.
        action: Action in the audit log.
        if_match: ETag that the client knows; None skips the check.

    Returns:
        The response of the configuration command.

    Raises:
        ApiProblem: The change is refused, or the caller may not see the camera.
    """
    expect, aspects = {}, {}
    if edit.path[0] == "cameras" and (edit.mode, len(edit.path)) != ("create", 2):
        camera = context.get_camera(edit.path[1])
        aspects[camera.id] = await asyncio.to_thread(get_aspect, context.app, camera)
        expected = (if_match or "").removeprefix("W/").strip('"')
        if expected not in ("", "*"):
            expect[camera.id] = expected
    else:
        require_all_cameras(context.principal)
    target = "/".join(edit.path[1::2])
    change = ConfigRequest(
        do="edit",
        edits=(edit,),
        expect=expect,
        who=context.principal.name,
        comment=f"{action} {target}",
        aspects=aspects,
    )
    fields = ", ".join(sorted(edit.value)) if isinstance(edit.value, dict) else ""
    return await context.run_audited(
        action,
        target,
        lambda: _request_change(context, change),
        lambda outcome: f"version {outcome.version}; {fields}" if fields else f"version {outcome.version}",
    )


async def _request_change(context: RequestContext, change: ConfigRequest) -> ConfigResponse:
    """Run a change; hide from a caller who may see some cameras what the answer says of the others."""
    try:
        outcome = await context.app.config_client.request(change)
    except ApiProblem as problem:
        place = CONFIG_PLACE_PATTERN.search(str(problem))
        if context.principal.cameras is None or place is None or place[1] == "cameras":
            raise
        raise ApiProblem(
            problem.status,
            "the rest of the configuration, such as a rule or an area, does not permit this change. Remedy: ask an "
            "administrator, who sees it.",
        ) from None
    return msgspec.structs.replace(
        outcome, restarts=tuple(name for name in outcome.restarts if can_see_program(context, name))
    )


def get_aspect(app: AppState, camera: Camera) -> float:
    """Return width / height of the camera's picture; 16:9 while it is unknown."""
    view = app.tiles.views.get(camera.id)
    try:
        state = view.read_state() if view else None
    except RingUnavailable:
        state = None
    return state.width / state.height if state else DEFAULT_ASPECT


router = Router(
    "/",
    tags=["configuration"],
    route_handlers=[add_camera, camera_config, replace_camera, change_camera, remove_camera, test_source],
)
