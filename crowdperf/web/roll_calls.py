"""Evacuation: who is on site, and who was found."""

from __future__ import annotations

import secrets
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from litestar import Request, Response, Router, get, post
from litestar.params import JSONBody, PathParameter
from msgspec import Struct

from crowdperf.storage import areas
from crowdperf.visitors import roll_call_report, rollcall
from crowdperf.visitors.rollcall import Counted, Mark, RollCall, RollCalls
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, CONFLICT, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.problems import Problem
from crowdperf.web.visits import book

CallPath = Annotated[str, PathParameter(description="The roll call's id.", max_length=64)]
TROUBLE = {**BAD_REQUEST, **REFUSED, **NOT_FOUND, **CONFLICT, **UNAVAILABLE}


class NewRollCall(Struct, kw_only=True, forbid_unknown_fields=True):
    """An evacuation, or an exercise."""

    drill: bool = False


class Marking(Struct, kw_only=True, forbid_unknown_fields=True):
    """What became of one person."""

    state: Literal["safe", "missing"]


class RollCallIds(Struct, kw_only=True):
    """Newest first."""

    roll_calls: list[str]


@post("/roll-calls", need="visitors", summary="Begin a roll call", tags=["visitors"], responses=TROUBLE)
async def begin(site: SiteContext, request: Request[Any, Any, Any], who: Who, data: JSONBody[NewRollCall]) -> RollCall:
    """Everybody who is checked in now, by area, missing until somebody marks them; and what the cameras count there."""
    marks = rollcall.begin(await book(site).live())
    rules = site.slice.visitors
    titles = {camera.id: camera.title for camera in site.slice.cameras}
    counted = await _counted(site)
    call = RollCall(
        id=secrets.token_hex(6),
        drill=data.drill,
        started_at=site.now(),
        started_by=who.name,
        marks=marks,
        places=rollcall.places(marks, site.slice.areas, rules.entrances, rules.staff_baseline, counted, titles),
    )
    await _calls(site).start(call, site.entry(who, request, "roll_call.start", call.id, "drill" if data.drill else ""))
    return call


@get("/roll-calls", need="visitors", summary="Roll calls", tags=["visitors"], responses={**REFUSED, **UNAVAILABLE})
async def roll_calls(site: SiteContext) -> RollCallIds:
    """The newest fifty."""
    return RollCallIds(roll_calls=await _calls(site).newest())


@get("/roll-calls/{call_id:str}", need="visitors", summary="One roll call", tags=["visitors"], responses=TROUBLE)
async def roll_call(site: SiteContext, call_id: CallPath) -> RollCall:
    """Everybody's state. Changes come as `RollCallChanged` over /api/v1/stream."""
    return await _found(site, call_id)


@post(
    "/roll-calls/{call_id:str}/visits/{visit_id:str}",
    need="visitors",
    status_code=HTTPStatus.OK,
    summary="Mark one person",
    tags=["visitors"],
    responses=TROUBLE,
)
async def mark(
    site: SiteContext,
    who: Who,
    call_id: CallPath,
    visit_id: Annotated[str, PathParameter(description="The visit's id.", max_length=64)],
    data: JSONBody[Marking],
) -> Mark:
    """Safe, or missing after all. Any number of devices may mark at once."""
    call = await _loaded(site, call_id)
    found = next((row for row in call.marks if row.visit == visit_id), None)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "this visit is not on the roll call. Remedy: read the roll call again.")
    marked = Mark(
        visit=found.visit,
        name=found.name,
        company=found.company,
        host=found.host,
        area=found.area,
        seen_at=found.seen_at,
        state=data.state,
        by=who.name,
        at=site.now(),
    )
    if not await _calls(site).mark(call, marked):
        raise Problem(HTTPStatus.CONFLICT, "the roll call has ended. Remedy: begin another one.")
    return marked


@post(
    "/roll-calls/{call_id:str}/end",
    need="visitors",
    status_code=HTTPStatus.OK,
    summary="End a roll call",
    tags=["visitors"],
    responses=TROUBLE,
)
async def end(site: SiteContext, request: Request[Any, Any, Any], who: Who, call_id: CallPath) -> RollCall:
    """No more marks; the report is final."""
    call = await _found(site, call_id)
    entry = site.entry(who, request, "roll_call.end", call_id)
    if not await _calls(site).end(call, who.name, site.now(), entry):
        raise Problem(HTTPStatus.CONFLICT, "the roll call has ended already")
    return await _found(site, call_id)


@get("/roll-calls/{call_id:str}/report", need="visitors", summary="Report", tags=["visitors"], responses=TROUBLE)
async def report(site: SiteContext, call_id: CallPath) -> Response[str]:
    """The report as a page to print."""
    call = await _found(site, call_id)
    return Response(roll_call_report.report_html(call, site.slice.site.name, _clock(site)), media_type="text/html")


@get("/roll-calls/{call_id:str}/report.csv", need="visitors", summary="CSV", tags=["visitors"], responses=TROUBLE)
async def report_csv(site: SiteContext, call_id: CallPath) -> Response[str]:
    """The report as CSV."""
    call = await _found(site, call_id)
    headers = {"Content-Disposition": f'attachment; filename="roll-call-{call.id}.csv"'}
    return Response(roll_call_report.report_csv(call, _clock(site)), media_type="text/csv", headers=headers)


def _calls(site: Context) -> RollCalls:
    return RollCalls(site.redis, site.prefix)


async def _counted(site: Context) -> dict[str, Counted]:
    """What the cameras say of each area."""
    return {
        area: Counted(
            occupancy=now.occupancy,
            uncertainty=now.uncertainty,
            last_door=_named(site, now.last_door),
            last_entered=now.last_entered,
            last_at=now.last_at,
        )
        for area, now in (await areas.read(site.redis, site.prefix)).items()
    }


def _named(site: Context, door: str) -> str:
    """`<camera>/<line>` as people call them."""
    camera_id, _, line_id = door.partition("/")
    camera = next((row for row in site.slice.cameras if row.id == camera_id), None)
    line = next((row for row in camera.lines if row.id == line_id), None) if camera else None
    return f"{camera.title}, {line.name or line.id}" if camera and line else door


async def _found(site: Context, call_id: str) -> RollCall:
    """The roll call; while it goes on, with what the cameras count now."""
    call = await _loaded(site, call_id)
    if call.ended_at:
        return call
    return rollcall.with_inside(call, {area: now.occupancy for area, now in (await _counted(site)).items()})


async def _loaded(site: Context, call_id: str) -> RollCall:
    call = await _calls(site).load(call_id)
    if call is None:
        raise Problem(HTTPStatus.NOT_FOUND, "there is no such roll call. Remedy: see /api/v1/roll-calls.")
    return rollcall.named(call, await book(site).rows([mark.visit for mark in call.marks]))


def _clock(site: Context) -> Any:
    def shown(ts: float) -> str:
        return datetime.fromtimestamp(ts, site.zone).strftime("%Y-%m-%d %H:%M:%S") if ts else ""

    return shown


router = Router("/", route_handlers=[begin, roll_calls, roll_call, mark, end, report, report_csv])
