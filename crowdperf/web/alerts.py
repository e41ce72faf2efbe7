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
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, CONFLICT, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import CameraFilter, instant, rfc3339
from crowdperf.web.problems import Problem, bad_parameter

AlertPath = Annotated[str, PathParameter(description="The alert's id.", max_length=256)]
TROUBLE = {**BAD_REQUEST, **REFUSED, **NOT_FOUND, **CONFLICT, **UNAVAILABLE}
STATES = ("open", "acknowledged", "closed")
SEVERITIES = ("info", "warning", "critical")


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
    site: SiteContext,
    who: Who,
    state_: Annotated[
        str | None, QueryParameter(name="state", description=f"Any of {', '.join(STATES)}.", max_length=40)
    ] = None,
    severity: Annotated[
        str | None, QueryParameter(description=f"Any of {', '.join(SEVERITIES)}.", max_length=40)
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
    states, severities = _any_of("state", state_, STATES), _any_of("severity", severity, SEVERITIES)
    until = instant("before", before) if before else site.now() + 3600

    def admits(view: AlertView) -> bool:
        alert = view.alert
        return (
            view.state in states
            and alert.severity in severities
            and rule in (None, alert.rule)
            and camera in (None, alert.camera)
            and (alert.escalated > 0 or not escalated)
            and who.sees(alert.camera)
        )

    rows = await stored.newest(site.redis, until, limit, admits, site.prefix)
    last = rfc3339(rows[-1].alert.raised_at) if len(rows) >= limit else None
    return AlertsReply(alerts=rows, next=last)


def _any_of(name: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """What a comma-separated parameter names; all of `known` where it is not given."""
    wanted = known if text is None else tuple(text.split(","))
    if not set(wanted) <= set(known):
        raise bad_parameter(name, text or "", f"use any of: {', '.join(known)}, with commas between them.")
    return wanted


@post(
    "/alerts/{alert_id:str}/acknowledge",
    need="review",
    status_code=HTTPStatus.OK,
    summary="Acknowledge",
    tags=["alerts"],
    responses=TROUBLE,
)
async def acknowledge(site: SiteContext, request: Request[Any, Any, Any], who: Who, alert_id: AlertPath) -> AlertView:
    """Somebody takes care of it: it is not escalated any further."""
    return await _answer(site, request, who, alert_id, "acknowledged")


@post(
    "/alerts/{alert_id:str}/close",
    need="review",
    status_code=HTTPStatus.OK,
    summary="Close",
    tags=["alerts"],
    responses=TROUBLE,
)
async def close(site: SiteContext, request: Request[Any, Any, Any], who: Who, alert_id: AlertPath) -> AlertView:
    """It is done, whether or not its cause has ended."""
    return await _answer(site, request, who, alert_id, "closed")


async def _answer(
    site: Context,
    request: Request[Any, Any, Any],
    who: Principal,
    alert_id: str,
    state: Literal["acknowledged", "closed"],
) -> AlertView:
    view = await stored.load(site.redis, alert_id, site.prefix)
    if view is None or not who.sees(view.alert.camera):
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such alert. Remedy: see /api/v1/alerts.")
    done = await stored.answer(site.redis, view, state, who.name or who.kind, site.now(), site.prefix)
    if done != "done":
        raise Problem(HTTPStatus.CONFLICT, f"the alert is {done} already. Remedy: read it again.")
    pipe = site.redis.pipeline(transaction=False)
    audit.stage(pipe, site.entry(who, request, f"alert.{state}", alert_id[:200]), site.prefix)
    await pipe.execute()
    after = await stored.load(site.redis, alert_id, site.prefix)
    return after or view


router = Router("/", route_handlers=[alerts, acknowledge, close])
