"""Alerts: what is open, and who takes care of it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from litestar import Request, Router, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Struct

from crowdperf.accounts import audit
from crowdperf.accounts.permissions import Principal
from crowdperf.storage import alerts as stored
from crowdperf.storage.alerts import AlertView
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, CONFLICT, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import instant, rfc3339
from crowdperf.web.problems import Problem, bad_parameter

AlertPath = Annotated[str, PathParameter(description="The alert's id.", max_length=256)]
TROUBLE = {**BAD_REQUEST, **REFUSED, **NOT_FOUND, **CONFLICT, **UNAVAILABLE}
STATES = ("open", "acknowledged", "closed")


class AlertsReply(Struct, kw_only=True):
    """Alerts, newest first; pass `next` on as `before` until it is null."""

    alerts: list[AlertView]
    next: str | None


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
        str | None, QueryParameter(name="state", description=f"One of {', '.join(STATES)}.", max_length=16)
    ] = None,
    before: Annotated[
        str | None, QueryParameter(description="Raised before this time, RFC 3339.", max_length=64)
    ] = None,
    limit: Annotated[int, QueryParameter(description="Alerts per page.", ge=1, le=500)] = 100,
) -> AlertsReply:
    """Alerts about the cameras that the asker may see."""
    if state_ is not None and state_ not in STATES:
        raise bad_parameter("state", state_, f"use one of: {', '.join(STATES)}.")
    until = instant("before", before) if before else site.now() + 3600
    rows = await stored.newest(site.redis, until, limit, state_ or "", site.prefix)
    last = rfc3339(rows[-1].alert.raised_at) if len(rows) == limit else None
    return AlertsReply(alerts=[row for row in rows if who.sees(row.alert.camera)], next=last)


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
