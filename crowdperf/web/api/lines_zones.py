"""Changing lines and zones: each change a new version of the configuration file.

How well each line counts: the last audits, by themselves and beside the counts.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.accounts.principal import Principal
from crowdperf.counting.validation import validate_line, validate_zone
from crowdperf.settings.base import compute_fingerprint
from crowdperf.settings.camera import Line, Zone
from crowdperf.storage.evaluations import LineEvaluation, read_evaluations
from crowdperf.supervision.config_patch import Edit, omit_defaults
from crowdperf.web.api.cameras import CHANGE_RESPONSES, CameraSaved, IfMatch, get_aspect, save_camera
from crowdperf.web.api.site import CameraPath
from crowdperf.web.auth import PrincipalDependency
from crowdperf.web.parameters import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE, CameraFilter, format_rfc3339
from crowdperf.web.schemas import AuditsReply, CountAudit, CountRow, FiguresReply, LineEvaluationReply
from crowdperf.web.state import AppDependency, AppState

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


@get(
    "/audits",
    need="read",
    summary="How well the lines count",
    tags=["history"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def audits(app: AppDependency, principal: PrincipalDependency, camera: CameraFilter = None) -> AuditsReply:
    """The last audit of each line: precision, recall and count error with their confidence intervals.

    An audit is made with `crowdperf evaluate` from a recording whose true crossings were marked (docs/replay.md).
    """
    wanted = [app.get_camera(camera, principal)] if camera is not None else app.get_cameras(principal)
    found: list[LineEvaluationReply] = []
    for one in wanted:
        stored = await read_evaluations(app.redis, one.id, app.prefix)
        found += [_to_evaluation_reply(app, stored[line.id]) for line in one.lines if line.id in stored]
        known = {line.id for line in one.lines}
        # A line that is gone: its counts are still in the history, and so is what they are worth.
        found += [_to_evaluation_reply(app, stored[line]) for line in sorted(stored) if line not in known]
    return AuditsReply(audits=found)


def _to_evaluation_reply(app: AppState, evaluation: LineEvaluation) -> LineEvaluationReply:
    return LineEvaluationReply(
        camera=evaluation.camera,
        line=evaluation.line,
        time=format_rfc3339(evaluation.at),
        stale=_is_stale(app, evaluation),
        clip=evaluation.clip,
        clip_s=evaluation.clip_s,
        model=evaluation.model,
        within_s=evaluation.within_s,
        total=msgspec.convert(evaluation.total, FiguresReply, from_attributes=True),
        directions={
            way: msgspec.convert(figures, FiguresReply, from_attributes=True)
            for way, figures in evaluation.directions.items()
        },
    )


async def attach_evaluations(app: AppState, rows: list[CountRow]) -> list[CountRow]:
    """The rows, each with the audit of its line where it names one that has been audited.

    Whoever may see a row's counts may see what they are worth.
    """
    cameras = {row.camera for row in rows if row.camera and row.line}
    stored = {camera: await read_evaluations(app.redis, camera, app.prefix) for camera in sorted(cameras)}
    for row in rows:
        audit = stored.get(row.camera, {}).get(row.line)
        if audit is not None:
            figures = audit.directions.get(row.direction, audit.total) if row.direction else audit.total
            row.audit = CountAudit(
                time=format_rfc3339(audit.at),
                stale=_is_stale(app, audit),
                figures=msgspec.convert(figures, FiguresReply, from_attributes=True),
            )
    return rows


def _is_stale(app: AppState, evaluation: LineEvaluation) -> bool:
    """Whether the line is another one by now, or gone."""
    return evaluation.fingerprint not in {
        compute_fingerprint(line)
        for camera in app.config.cameras
        for line in camera.lines
        if (camera.id, line.id) == (evaluation.camera, evaluation.line)
    }


audits_router = Router("/", route_handlers=[audits])
