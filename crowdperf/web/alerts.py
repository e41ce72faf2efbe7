"""Alerts: what is open, and who takes care of it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from litestar import Request, Router, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct

from crowdperf.accounts import audit
from crowdperf.accounts.permissions import Principal
from crowdperf.storage import alerts as stored
from crowdperf.storage.alerts import AlertView
from crowdperf.web.access import PrincipalDependency
from crowdperf.web.context import AppDependency, AppState
from crowdperf.web.openapi import BAD_REQUEST, CONFLICT, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import CameraFilter, format_rfc3339, parse_instant
from crowdperf.web.problems import ApiProblem, bad_parameter

AlertPath = Annotated[str, PathParameter(description="The alert's id.", max_length=256)]
ALERT_ERRORS = {**BAD_REQUEST, **REFUSED, **NOT_FOUND, **CONFLICT, **UNAVAILABLE}
ALERT_STATES = ("open", "acknowledged", "closed")
ALERT_SEVERITIES = ("info", "warning", "critical")


class AlertsReply(Struct, kw_only=True):
    """Alerts, newest first; pass `next` on as `before`, with the same filters, until it is null."""

    alerts: list[AlertView]
    next: Annotated[str | None, Meta(examples=["2026-05-01T06:00:00.000Z"])]


@get(
    "/alerts",
    need="read",
    summary="Alerts, newest first",
    tags=["alerts"],
    responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE},
)
async def alerts(
    app: AppDependency,
    principal: PrincipalDependency,
    state_: Annotated[
        str | None, QueryParameter(name="state", description=f"Any of {', '.join(ALERT_STATES)}.", max_length=40)
    ] = None,
    severity: Annotated[
        str | None, QueryParameter(description=f"Any of {', '.join(ALERT_SEVERITIES)}.", max_length=40)
    ] = None,
    rule: Annotated[str | None, QueryParameter(description="Only this rule's id.", max_length=64)] = None,
    camera: CameraFilter = None,
    escalated: Annotated[bool, QueryParameter(description="Only those that were escalated.")] = False,
    before: Annotated[
        str | None, QueryParameter(description="Raised before this time, RFC 3339.", max_length=64)
    ] = None,
    limit: Annotated[int, QueryParameter(description="Alerts per page.", ge=1, le=500)] = 100,
) -> AlertsReply:
    """Alerts about the cameras that the asker may see."""
    states, severities = (
        _parse_choices("state", state_, ALERT_STATES),
        _parse_choices("severity", severity, ALERT_SEVERITIES),
    )
    until = parse_instant("before", before) if before else app.now() + 3600

    def admits(view: AlertView) -> bool:
        alert = view.alert
        return (
            view.state in states
            and alert.severity in severities
            and rule in (None, alert.rule)
            and camera in (None, alert.camera)
            and (alert.escalated > 0 or not escalated)
            and principal.can_see(alert.camera)
        )

    rows = await stored.load_newest(app.redis, until, limit, admits, app.prefix)
    last = format_rfc3339(rows[-1].alert.raised_at) if len(rows) >= limit else None
    return AlertsReply(alerts=rows, next=last)


def _parse_choices(name: str, text: str | None, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """What a comma-separated parameter names; all of `known` where it is not given."""
    wanted = allowed if text is None else tuple(text.split(","))
    if not set(wanted) <= set(allowed):
        raise bad_parameter(name, text or "", f"use any of: {', '.join(allowed)}, with commas between them.")
    return wanted


@post(
    "/alerts/{alert_id:str}/acknowledge",
    need="review",
    status_code=HTTPStatus.OK,
    summary="Acknowledge",
    tags=["alerts"],
    responses=ALERT_ERRORS,
)
async def acknowledge(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, alert_id: AlertPath
) -> AlertView:
    """Somebody takes care of it: it is not escalated any further."""
    return await _change_state(app, request, principal, alert_id, "acknowledged")


@post(
    "/alerts/{alert_id:str}/close",
    need="review",
    status_code=HTTPStatus.OK,
    summary="Close",
    tags=["alerts"],
    responses=ALERT_ERRORS,
)
async def close(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, alert_id: AlertPath
) -> AlertView:
    """It is done, whether or not its cause has ended."""
    return await _change_state(app, request, principal, alert_id, "closed")


async def _change_state(
    app: AppState,
    request: Request[Any, Any, Any],
    principal: Principal,
    alert_id: str,
    state: Literal["acknowledged", "closed"],
) -> AlertView:
    view = await stored.load(app.redis, alert_id, app.prefix)
    if view is None or not principal.can_see(view.alert.camera):
        raise ApiProblem(HTTPStatus.NOT_FOUND, "there is no such alert. Remedy: see /api/v1/alerts.")
    done = await stored.answer_alert(app.redis, view, state, principal.name or principal.kind, app.now(), app.prefix)
    if done != "done":
        raise ApiProblem(HTTPStatus.CONFLICT, f"the alert is {done} already. Remedy: read it again.")
    pipe = app.redis.pipeline(transaction=False)
    audit.stage_entry(pipe, app.build_audit_entry(principal, request, f"alert.{state}", alert_id[:200]), app.prefix)
    await pipe.execute()
    after = await stored.load(app.redis, alert_id, app.prefix)
    return after or view


router = Router("/", route_handlers=[alerts, acknowledge, close])
