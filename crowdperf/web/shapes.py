"""Changing lines and zones: each change a new version of the configuration file."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

from litestar import Request, Response, Router, delete, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.accounts.permissions import Principal
from crowdperf.counting.usable import validate_line, validate_zone
from crowdperf.settings.camera import Line, Zone
from crowdperf.supervision.edits import Edit, omit_defaults
from crowdperf.web.access import PrincipalDependency
from crowdperf.web.cameras import CHANGE_RESPONSES, CameraSaved, IfMatch, get_aspect, save_camera
from crowdperf.web.context import AppDependency, AppState
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED
from crowdperf.web.site import CameraPath

ShapeKind = Literal["line", "zone"]
ShapePath = Annotated[str, PathParameter(description="The line's or zone's id.", max_length=64)]


class CheckReply(Struct, kw_only=True):
    """Whether a line or zone can ever count."""

    problem: Annotated[str, Meta(description="Why it never can, and the remedy; empty where it can.")]


@post(
    "/cameras/{camera_id:str}/lines",
    need="configure",
    summary="Add a line",
    tags=["configuration"],
    responses=CHANGE_RESPONSES,
)
async def add_line(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    camera_id: CameraPath,
    data: JSONBody[Line],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Refused where it can never count."""
    return await _save_shape(app, request, principal, camera_id, "line", data.id, data, "create", if_match)


@put(
    "/cameras/{camera_id:str}/lines/{shape_id:str}",
    need="configure",
    summary="Replace a line",
    tags=["configuration"],
    responses=CHANGE_RESPONSES,
)
async def replace_line(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    camera_id: CameraPath,
    shape_id: ShapePath,
    data: JSONBody[Line],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Its counts so far stay; refused where it can never count."""
    return await _save_shape(app, request, principal, camera_id, "line", shape_id, data, "replace", if_match)


@delete(
    "/cameras/{camera_id:str}/lines/{shape_id:str}",
    need="configure",
    summary="Remove a line",
    tags=["configuration"],
    status_code=200,
    responses=CHANGE_RESPONSES,
)
async def remove_line(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    camera_id: CameraPath,
    shape_id: ShapePath,
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Its counts stay in the history."""
    return await _save_shape(app, request, principal, camera_id, "line", shape_id, None, "delete", if_match)


@post(
    "/cameras/{camera_id:str}/lines/check",
    need="read",
    summary="Can this line count?",
    tags=["configuration"],
    status_code=200,
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def check_line(
    app: AppDependency, principal: PrincipalDependency, camera_id: CameraPath, data: JSONBody[Line]
) -> CheckReply:
    """The same rule that saving applies, for while somebody draws. Nothing is changed."""
    aspect = await asyncio.to_thread(get_aspect, app, app.get_camera(camera_id, principal))
    return CheckReply(problem=validate_line(data, aspect))


@post(
    "/cameras/{camera_id:str}/zones",
    need="configure",
    summary="Add a zone",
    tags=["configuration"],
    responses=CHANGE_RESPONSES,
)
async def add_zone(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    camera_id: CameraPath,
    data: JSONBody[Zone],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Refused where nobody can ever be inside."""
    return await _save_shape(app, request, principal, camera_id, "zone", data.id, data, "create", if_match)


@put(
    "/cameras/{camera_id:str}/zones/{shape_id:str}",
    need="configure",
    summary="Replace a zone",
    tags=["configuration"],
    responses=CHANGE_RESPONSES,
)
async def replace_zone(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    camera_id: CameraPath,
    shape_id: ShapePath,
    data: JSONBody[Zone],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Refused where nobody can ever be inside."""
    return await _save_shape(app, request, principal, camera_id, "zone", shape_id, data, "replace", if_match)


@delete(
    "/cameras/{camera_id:str}/zones/{shape_id:str}",
    need="configure",
    summary="Remove a zone",
    tags=["configuration"],
    status_code=200,
    responses=CHANGE_RESPONSES,
)
async def remove_zone(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    camera_id: CameraPath,
    shape_id: ShapePath,
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Its history stays."""
    return await _save_shape(app, request, principal, camera_id, "zone", shape_id, None, "delete", if_match)


@post(
    "/cameras/{camera_id:str}/zones/check",
    need="read",
    summary="Can somebody be in this zone?",
    tags=["configuration"],
    status_code=200,
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def check_zone(
    app: AppDependency, principal: PrincipalDependency, camera_id: CameraPath, data: JSONBody[Zone]
) -> CheckReply:
    """The same rule that saving applies, for while somebody draws. Nothing is changed."""
    aspect = await asyncio.to_thread(get_aspect, app, app.get_camera(camera_id, principal))
    return CheckReply(problem=validate_zone(data, aspect))


async def _save_shape(
    app: AppState,
    request: Request[Any, Any, Any],
    principal: Principal,
    camera_id: str,
    kind: ShapeKind,
    shape_id: str,
    shape: Line | Zone | None,
    mode: Literal["create", "replace", "delete"],
    if_match: str | None,
) -> Response[CameraSaved]:
    """One line or zone changed; the camera comes back."""
    app.get_camera(camera_id, principal)
    value = None if shape is None else omit_defaults(shape)
    edit = Edit(mode=mode, path=("cameras", camera_id, f"{kind}s", shape_id), value=value)
    status = HTTPStatus.CREATED if mode == "create" else HTTPStatus.OK
    return await save_camera(app, request, principal, camera_id, edit, f"{kind}.{mode}", if_match, status)


router = Router(
    "/",
    route_handlers=[
        add_line,
        replace_line,
        remove_line,
        check_line,
        add_zone,
        replace_zone,
        remove_zone,
        check_zone,
    ],
)
