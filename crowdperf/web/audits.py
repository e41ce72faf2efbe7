"""How well each line counts: the last audits, by themselves and beside the counts."""

from __future__ import annotations

import msgspec
from litestar import Router, get

from crowdperf.settings.fingerprint import compute_fingerprint
from crowdperf.storage.audits import LineEvaluation, read_evaluations
from crowdperf.web.access import PrincipalDependency
from crowdperf.web.context import AppDependency, AppState
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import CameraFilter, format_rfc3339
from crowdperf.web.replies import AuditsReply, CountAudit, CountRow, FiguresReply, LineEvaluationReply


@get(
    "/audits",
    need="read",
    summary="How well the lines count",
    tags=["history"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def audits(app: AppDependency, principal: PrincipalDependency, camera: CameraFilter = None) -> AuditsReply:
    """The last audit of each line: precision, recall and count error with their confidence intervals.

    An audit is made with `crowdperf audit` from a recording whose true crossings were marked (docs/replay.md).
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
