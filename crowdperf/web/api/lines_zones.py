"""Changes of lines and zones, and the accuracy of lines by their last audits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from litestar import Response, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.counting.validation import validate_line, validate_zone
from crowdperf.messaging.redis.client import AnyClient
from crowdperf.settings.base import compute_fingerprint
from crowdperf.settings.camera import Line, Zone
from crowdperf.storage.evaluations import CountAccuracy, LineEvaluation, read_evaluations
from crowdperf.supervision.config_patch import Edit, omit_defaults
from crowdperf.web.api.cameras import CHANGE_ERRORS, CameraSaved, IfMatch, get_aspect, save_camera
from crowdperf.web.api.site import CameraPath
from crowdperf.web.parameters import CameraFilter, errors, format_rfc3339, post_action
from crowdperf.web.schemas import AuditsReply, CountAudit, CountRow, FiguresReply, LineEvaluationReply, to_reply
from crowdperf.web.state import AppState, ContextDependency

ShapePath = Annotated[str, PathParameter(description="The line's or zone's id.", max_length=64)]
SHAPE_SUFFIX = "/{shape_id:str}"
if TYPE_CHECKING:
    Shape = Line | Zone
    """Body of the routes of lines and zones; each router defines its own for Litestar."""


class CheckReply(Struct, kw_only=True):
    """Whether a line or zone can ever count."""

    problem: Annotated[str, Meta(description="Why it never can, and the remedy; empty if it can.")]


def _build_shape_router(
    kind: Literal["line", "zone"],
    shape_type: type[Line] | type[Zone],
    validate: Callable[[Any, float], str],
    question: str,
) -> Router:
    """Build the routes that add, replace, remove and check the lines or zones of a camera."""
    path = f"/cameras/{{camera_id:str}}/{kind}s"
    noun = kind.title()
    operation = f"ApiV1CamerasCameraId{noun}s"

    @post(
        path, need="configure", summary=f"Add a {kind}", operation_id=f"{operation}Add{noun}", responses=CHANGE_ERRORS
    )
    async def add(
        context: ContextDependency, camera_id: CameraPath, data: JSONBody[Shape], if_match: IfMatch = None
    ) -> Response[CameraSaved]:
        """Add it; refused if it can never count."""
        edit = Edit(mode="create", path=("cameras", camera_id, f"{kind}s", data.id), value=omit_defaults(data))
        return await save_camera(context, edit, f"{kind}.create", if_match)

    @put(
        path + SHAPE_SUFFIX,
        need="configure",
        summary=f"Replace a {kind}",
        operation_id=f"{operation}ShapeIdReplace{noun}",
        responses=CHANGE_ERRORS,
    )
    async def replace(
        context: ContextDependency,
        camera_id: CameraPath,
        shape_id: ShapePath,
        data: JSONBody[Shape],
        if_match: IfMatch = None,
    ) -> Response[CameraSaved]:
        """Replace it; refused if it can never count. Its history stays."""
        edit = Edit(mode="replace", path=("cameras", camera_id, f"{kind}s", shape_id), value=omit_defaults(data))
        return await save_camera(context, edit, f"{kind}.replace", if_match)

    @delete(
        path + SHAPE_SUFFIX,
        need="configure",
        summary=f"Remove a {kind}",
        operation_id=f"{operation}ShapeIdRemove{noun}",
        status_code=200,
        responses=CHANGE_ERRORS,
    )
    async def remove(
        context: ContextDependency, camera_id: CameraPath, shape_id: ShapePath, if_match: IfMatch = None
    ) -> Response[CameraSaved]:
        """Remove it; its history stays."""
        edit = Edit(mode="delete", path=("cameras", camera_id, f"{kind}s", shape_id))
        return await save_camera(context, edit, f"{kind}.delete", if_match)

    @post_action(
        f"{path}/check",
        need="read",
        summary=question,
        operation_id=f"{operation}CheckCheck{noun}",
        responses=errors(400, 404),
    )
    async def check(context: ContextDependency, camera_id: CameraPath, data: JSONBody[Shape]) -> CheckReply:
        """Apply the check of saving to a line or zone while it is drawn. Nothing is changed."""
        aspect = await asyncio.to_thread(get_aspect, context.app, context.get_camera(camera_id))
        return CheckReply(problem=validate(data, aspect))

    return Router(
        "/",
        tags=["configuration"],
        route_handlers=[add, replace, remove, check],
        signature_namespace={"Shape": shape_type},
    )


@get("/audits", need="read", summary="How well the lines count", tags=["history"], responses=errors(400, 404, 503))
async def audits(context: ContextDependency, camera: CameraFilter = None) -> AuditsReply:
    """Return the last audit of each line: precision, recall and count error with confidence intervals.

    `crowdperf evaluate` makes an audit from a recording whose true crossings were marked (docs/replay.md).
    """
    cameras = context.get_cameras() if camera is None else [context.get_camera(camera)]
    audits: list[LineEvaluationReply] = []
    for row in cameras:
        stored = await read_evaluations(context.app.redis, row.id, context.app.prefix)
        present = [line.id for line in row.lines]
        # A removed line keeps its audit: the history keeps its counts.
        removed = sorted(stored.keys() - set(present))
        audits += [_to_evaluation_reply(context.app, stored[line]) for line in [*present, *removed] if line in stored]
    return AuditsReply(audits=audits)


def _to_evaluation_reply(app: AppState, evaluation: LineEvaluation) -> LineEvaluationReply:
    return to_reply(
        LineEvaluationReply,
        evaluation,
        time=format_rfc3339(evaluation.at),
        stale=_is_stale(app, evaluation),
        total=_to_figures(evaluation.total),
        directions={direction: _to_figures(figures) for direction, figures in evaluation.directions.items()},
    )


def _to_figures(accuracy: CountAccuracy) -> FiguresReply:
    return msgspec.convert(accuracy, FiguresReply, from_attributes=True)


async def attach_evaluations(app: AppState, client: AnyClient, rows: list[CountRow]) -> list[CountRow]:
    """Attach to each row the audit of its line, if there is one.

    A caller who may see the counts may see their accuracy.

    Args:
        app: State of the application.
        client: redis.asyncio client of the running loop.
        rows: Rows of counts.

    Returns:
        The same rows.
    """
    cameras = {row.camera for row in rows if row.camera and row.line}
    stored = {camera: await read_evaluations(client, camera, app.prefix) for camera in sorted(cameras)}
    stale = {(camera, line): _is_stale(app, audit) for camera, lines in stored.items() for line, audit in lines.items()}
    for row in rows:
        audit = stored.get(row.camera, {}).get(row.line)
        if audit is not None:
            figures = audit.directions.get(row.direction, audit.total) if row.direction else audit.total
            row.audit = CountAudit(
                time=format_rfc3339(audit.at), stale=stale[row.camera, row.line], figures=_to_figures(figures)
            )
    return rows


def _is_stale(app: AppState, evaluation: LineEvaluation) -> bool:
    """Check whether the line has changed since the audit, or is removed."""
    return evaluation.fingerprint not in {
        compute_fingerprint(line)
        for camera in app.config.cameras
        for line in camera.lines
        if (camera.id, line.id) == (evaluation.camera, evaluation.line)
    }


router = Router(
    "/",
    route_handlers=[
        audits,
        _build_shape_router("line", Line, validate_line, "Can this line count?"),
        _build_shape_router("zone", Zone, validate_zone, "Can somebody be in this zone?"),
    ],
)
