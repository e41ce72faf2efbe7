"""Changing lines and zones: each change a new version of the configuration file."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

from litestar import Request, Response, Router, delete, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.accounts.permissions import Principal
from crowdperf.counting.usable import can_count, can_hold
from crowdperf.settings.camera import Line, Zone
from crowdperf.supervision.edits import Edit, sparse
from crowdperf.web.access import Who
from crowdperf.web.cameras import CHANGED, CameraSaved, IfMatch, aspect_of, save
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED
from crowdperf.web.site import CameraPath

Shape = Literal["line", "zone"]
ShapePath = Annotated[str, PathParameter(description="The line's or zone's id.", max_length=64)]


class CheckReply(Struct, kw_only=True):
    """Whether a line or zone can ever count."""

    problem: Annotated[str, Meta(description="Why it never can, and the remedy; empty where it can.")]


@post(
    "/cameras/{camera_id:str}/lines",
    need="configure",
    summary="Add a line",
    tags=["configuration"],
    responses=CHANGED,
)
async def add_line(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    data: JSONBody[Line],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Refused where it can never count."""
    return await _save_shape(site, request, who, camera_id, "line", data.id, data, "create", if_match)


@put(
    "/cameras/{camera_id:str}/lines/{shape_id:str}",
    need="configure",
    summary="Replace a line",
    tags=["configuration"],
    responses=CHANGED,
)
async def replace_line(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    shape_id: ShapePath,
    data: JSONBody[Line],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Its counts so far stay; refused where it can never count."""
    return await _save_shape(site, request, who, camera_id, "line", shape_id, data, "replace", if_match)


@delete(
    "/cameras/{camera_id:str}/lines/{shape_id:str}",
    need="configure",
    summary="Remove a line",
    tags=["configuration"],
    status_code=200,
    responses=CHANGED,
)
async def remove_line(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    shape_id: ShapePath,
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Its counts stay in the history."""
    return await _save_shape(site, request, who, camera_id, "line", shape_id, None, "delete", if_match)


@post(
    "/cameras/{camera_id:str}/lines/check",
    need="read",
    summary="Can this line count?",
    tags=["configuration"],
    status_code=200,
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def check_line(site: SiteContext, who: Who, camera_id: CameraPath, data: JSONBody[Line]) -> CheckReply:
    """The same rule that saving applies, for while somebody draws. Nothing is changed."""
    aspect = await asyncio.to_thread(aspect_of, site, site.camera(camera_id, who))
    return CheckReply(problem=can_count(data, aspect))


@post(
    "/cameras/{camera_id:str}/zones",
    need="configure",
    summary="Add a zone",
    tags=["configuration"],
    responses=CHANGED,
)
async def add_zone(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    data: JSONBody[Zone],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Refused where nobody can ever be inside."""
    return await _save_shape(site, request, who, camera_id, "zone", data.id, data, "create", if_match)


@put(
    "/cameras/{camera_id:str}/zones/{shape_id:str}",
    need="configure",
    summary="Replace a zone",
    tags=["configuration"],
    responses=CHANGED,
)
async def replace_zone(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    shape_id: ShapePath,
    data: JSONBody[Zone],
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Refused where nobody can ever be inside."""
    return await _save_shape(site, request, who, camera_id, "zone", shape_id, data, "replace", if_match)


@delete(
    "/cameras/{camera_id:str}/zones/{shape_id:str}",
    need="configure",
    summary="Remove a zone",
    tags=["configuration"],
    status_code=200,
    responses=CHANGED,
)
async def remove_zone(
    site: SiteContext,
    request: Request[Any, Any, Any],
    who: Who,
    camera_id: CameraPath,
    shape_id: ShapePath,
    if_match: IfMatch = None,
) -> Response[CameraSaved]:
    """Its history stays."""
    return await _save_shape(site, request, who, camera_id, "zone", shape_id, None, "delete", if_match)


@post(
    "/cameras/{camera_id:str}/zones/check",
    need="read",
    summary="Can somebody be in this zone?",
    tags=["configuration"],
    status_code=200,
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def check_zone(site: SiteContext, who: Who, camera_id: CameraPath, data: JSONBody[Zone]) -> CheckReply:
    """The same rule that saving applies, for while somebody draws. Nothing is changed."""
    aspect = await asyncio.to_thread(aspect_of, site, site.camera(camera_id, who))
    return CheckReply(problem=can_hold(data, aspect))


async def _save_shape(
    site: Context,
    request: Request[Any, Any, Any],
    who: Principal,
    camera_id: str,
    kind: Shape,
    shape_id: str,
    shape: Line | Zone | None,
    mode: Literal["create", "replace", "delete"],
    if_match: str | None,
) -> Response[CameraSaved]:
    """One line or zone changed; the camera comes back."""
    site.camera(camera_id, who)
    value = None if shape is None else sparse(shape)
    edit = Edit(mode=mode, path=("cameras", camera_id, f"{kind}s", shape_id), value=value)
    status = HTTPStatus.CREATED if mode == "create" else HTTPStatus.OK
    return await save(site, request, who, camera_id, edit, f"{kind}.{mode}", if_match, status)


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
