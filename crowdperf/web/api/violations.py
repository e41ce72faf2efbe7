"""PPE violations and their review, compliance per zone and hour, and the precision of the rules."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated, Literal

from litestar import Response, Router, get
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta, Struct

from crowdperf.accounts import audit_log
from crowdperf.storage import violations as stored
from crowdperf.storage.evidence import get_picture_path
from crowdperf.storage.violations import ComplianceRow, Violation, ViolationView
from crowdperf.web.parameters import ITEM_ERRORS, JpegSpec, format_rfc3339, parse_choice, post_action
from crowdperf.web.problems import bad_parameter, conflict, not_found
from crowdperf.web.state import ContextDependency, RequestContext, SpanDependency

ViolationPath = Annotated[str, PathParameter(description="The violation's id.", max_length=256)]
REVIEW_STATES = ("open", "acknowledged", "dismissed")


class ViolationsReply(Struct, kw_only=True):
    """Violations, newest first; pass `next` as `before` until it is null."""

    violations: list[ViolationView]
    next: str | None


class Judgement(Struct, kw_only=True, forbid_unknown_fields=True):
    """Review of a violation; `dismissed` is a false alarm."""

    review: Literal["acknowledged", "dismissed"]
    note: Annotated[str, Meta(max_length=1000)] = ""


class RuleFigures(Struct, kw_only=True):
    """Reviews of a rule's violations."""

    camera: str
    rule: str
    acknowledged: int
    dismissed: int
    precision: float | None
    """Share of the reviewed violations that were right; null without a review."""


class PpeFigures(Struct, kw_only=True):
    """Compliance per zone and hour of the range, and each rule's precision."""

    compliance: list[ComplianceRow]
    rules: list[RuleFigures]


@get("/violations", need="read", summary="PPE violations, newest first", responses=ITEM_ERRORS)
async def violations(
    context: ContextDependency,
    review: Annotated[
        str | None, QueryParameter(description=f"One of {', '.join(REVIEW_STATES)}.", max_length=16)
    ] = None,
    before: Annotated[str | None, QueryParameter(description="First seen before, RFC 3339.", max_length=64)] = None,
    limit: Annotated[int, QueryParameter(description="Violations per page.", ge=1, le=500)] = 100,
) -> ViolationsReply:
    """List the violations of the cameras that the caller may see."""
    parse_choice("review", review, REVIEW_STATES)

    def admits(view: ViolationView) -> bool:
        return review in (None, view.review) and context.principal.can_see(view.violation.camera)

    app = context.app
    rows = await stored.load_newest(app.redis, context.parse_before(before), limit, admits, app.prefix)
    last = format_rfc3339(rows[-1].violation.first_seen) if len(rows) >= limit else None
    return ViolationsReply(violations=rows, next=last)


@post_action("/violations/{violation_id:str}/review", need="review", summary="Judge a violation", responses=ITEM_ERRORS)
async def judge(context: ContextDependency, violation_id: ViolationPath, data: JSONBody[Judgement]) -> ViolationView:
    """Acknowledge the violation, or dismiss it as a false alarm.

    Reviewer and time are stored; a review may be changed.
    """
    view = await _load_violation(context, violation_id)
    app, author = context.app, context.principal.name or context.principal.kind
    # Without the note: it may hold personal data, which the audit log could not erase.
    entry = audit_log.encode_entry(context.build_audit_entry(f"violation.{data.review}", violation_id[:200]))
    outcome = await stored.judge(
        app.redis, view.violation, data.review, author, data.note, app.now(), entry, app.prefix
    )
    if outcome != "done":
        raise conflict(f"the violation is {outcome} already. Remedy: read it again.")
    return await stored.load(app.redis, violation_id, app.prefix) or view


@get(
    "/violations/{violation_id:str}/picture.jpg",
    need="read",
    summary="Evidence of a violation",
    media_type="image/jpeg",
    responses={200: JpegSpec, **ITEM_ERRORS},
)
async def picture(
    context: ContextDependency,
    violation_id: ViolationPath,
    kind: Annotated[Literal["crop", "full"], QueryParameter(description="The person, or the whole picture.")] = "crop",
) -> Response[bytes]:
    """Return the saved picture with the boxes in its comment.

    404 if it is not saved yet, or retention has removed it.
    """
    view = await _load_violation(context, violation_id)
    jpeg = await asyncio.to_thread(_read_evidence, Path(context.app.config.evidence), view.violation, kind)
    if jpeg is None:
        raise not_found("there is no picture of this violation. Remedy: see retention.evidence_days.")
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


async def _load_violation(context: RequestContext, violation_id: str) -> ViolationView:
    view = await stored.load(context.app.redis, violation_id, context.app.prefix)
    if view is None or not context.principal.can_see(view.violation.camera):
        raise not_found("there is no such violation. Remedy: see /api/v1/violations.")
    return view


def _read_evidence(folder: Path, violation: Violation, kind: Literal["crop", "full"]) -> bytes | None:
    """Read the picture from the folder of its day: the first, or after midnight the next one."""
    for moment in (violation.first_seen, violation.last_seen):
        with contextlib.suppress(FileNotFoundError):
            return get_picture_path(folder, violation.camera, violation.id, moment, kind).read_bytes()
    return None


@get("/ppe/figures", need="read", summary="Compliance and precision", responses=ITEM_ERRORS)
async def figures(context: ContextDependency, time_range: SpanDependency) -> PpeFigures:
    """Count people per zone, hour and item: worn, missing, or unsure.

    Unsure people are too small, hidden, or too briefly in view.
    """
    if time_range.end - time_range.start > 32 * 86_400:
        raise bad_parameter("from", format_rfc3339(time_range.start), "ask for at most 32 days at a time.")
    rows = await stored.read_compliance(context.app.redis, *time_range, context.app.prefix)
    judged = await stored.read_review_counts(context.app.redis, context.app.prefix)
    can_see, rules = context.principal.can_see, []
    for name, numbers in sorted(judged.items()):
        camera, _, rule = name.partition("/")
        right, wrong = numbers.get("acknowledged", 0), numbers.get("dismissed", 0)
        if can_see(camera) and right + wrong:
            precision = right / (right + wrong)
            rules.append(
                RuleFigures(camera=camera, rule=rule, acknowledged=right, dismissed=wrong, precision=precision)
            )
    return PpeFigures(compliance=[row for row in rows if can_see(row.camera)], rules=rules)


router = Router("/", tags=["ppe"], route_handlers=[violations, judge, picture, figures])
