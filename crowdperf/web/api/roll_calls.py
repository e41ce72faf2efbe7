"""Roll calls of an evacuation: who is on site, and who was found."""

from __future__ import annotations

import secrets
from datetime import datetime
from functools import partial
from typing import Annotated, Literal

import msgspec
from litestar import Response, Router, get, post
from litestar.params import JSONBody, PathParameter
from msgspec import Struct

from crowdperf.storage import occupancy
from crowdperf.visitors import roll_call as rollcall
from crowdperf.visitors import roll_call_report
from crowdperf.visitors.roll_call import CameraOccupancy, RollCall, RollCallEntry
from crowdperf.web.parameters import ITEM_ERRORS, errors, post_action
from crowdperf.web.problems import conflict, not_found
from crowdperf.web.schemas import to_reply
from crowdperf.web.state import AppDependency, AppState, ContextDependency, RequestContext

CallPath = Annotated[str, PathParameter(description="The roll call's id.", max_length=64)]


class NewRollCall(Struct, kw_only=True, forbid_unknown_fields=True):
    """An evacuation, or an exercise."""

    drill: bool = False


class Marking(Struct, kw_only=True, forbid_unknown_fields=True):
    """State of one person."""

    state: Literal["safe", "missing"]


class RollCallIds(Struct, kw_only=True):
    """Ids of roll calls, newest first."""

    roll_calls: list[str]


@post("/roll-calls", need="visitors", summary="Begin a roll call", responses=ITEM_ERRORS)
async def begin(context: ContextDependency, data: JSONBody[NewRollCall]) -> RollCall:
    """Start a roll call of all people who are checked in, by area.

    Each is missing until marked. The response holds the cameras' counts as well.
    """
    app = context.app
    marks = rollcall.build_entries(await app.visits.list_live())
    rules = app.config.visitors
    titles = {camera.id: camera.title for camera in app.config.cameras}
    counted = await _read_camera_counts(app)
    call = RollCall(
        id=secrets.token_hex(6),
        drill=data.drill,
        started_at=app.now(),
        started_by=context.principal.name,
        marks=marks,
        places=rollcall.build_places(marks, app.config.areas, rules.entrances, rules.staff_baseline, counted, titles),
    )
    entry = context.build_audit_entry("roll_call.start", call.id, "drill" if data.drill else "")
    await app.roll_calls.start(call, entry)
    return _hide_cameras(context, call)


@get("/roll-calls", need="visitors", summary="Roll calls", responses=errors(503))
async def roll_calls(app: AppDependency) -> RollCallIds:
    """List the newest fifty roll calls."""
    return RollCallIds(roll_calls=await app.roll_calls.list_newest())


@get("/roll-calls/{call_id:str}", need="visitors", summary="One roll call", responses=ITEM_ERRORS)
async def roll_call(context: ContextDependency, call_id: CallPath) -> RollCall:
    """Return the state of every person. Changes come as `RollCallChanged` over /api/v1/stream."""
    return _hide_cameras(context, await _get_roll_call(context.app, call_id))


@post_action(
    "/roll-calls/{call_id:str}/visits/{visit_id:str}", need="visitors", summary="Mark one person", responses=ITEM_ERRORS
)
async def mark(
    context: ContextDependency,
    call_id: CallPath,
    visit_id: Annotated[str, PathParameter(description="The visit's id.", max_length=64)],
    data: JSONBody[Marking],
) -> RollCallEntry:
    """Mark a person as safe, or as missing again. Any number of devices may mark at once."""
    call = await _load_roll_call(context.app, call_id)
    entry = next((row for row in call.marks if row.visit == visit_id), None)
    if entry is None:
        raise not_found("this visit is not on the roll call. Remedy: read the roll call again.")
    marked = msgspec.structs.replace(entry, state=data.state, by=context.principal.name, at=context.app.now())
    if not await context.app.roll_calls.mark_person(call, marked):
        raise conflict("the roll call has ended. Remedy: begin another one.")
    return marked


@post_action("/roll-calls/{call_id:str}/end", need="visitors", summary="End a roll call", responses=ITEM_ERRORS)
async def end(context: ContextDependency, call_id: CallPath) -> RollCall:
    """End the roll call: no more marks, and the report is final."""
    call = await _get_roll_call(context.app, call_id)
    entry = context.build_audit_entry("roll_call.end", call_id)
    if not await context.app.roll_calls.end(call, context.principal.name, context.app.now(), entry):
        raise conflict("the roll call has ended already. Remedy: read it again.")
    return _hide_cameras(context, await _get_roll_call(context.app, call_id))


@get("/roll-calls/{call_id:str}/report", need="visitors", summary="Report", responses=ITEM_ERRORS)
async def report(context: ContextDependency, call_id: CallPath) -> Response[str]:
    """Render the report as a page to print."""
    app = context.app
    call = _hide_cameras(context, await _get_roll_call(app, call_id))
    page = roll_call_report.render_html(call, app.config.site.name, partial(_format_time, app))
    return Response(page, media_type="text/html")


@get("/roll-calls/{call_id:str}/report.csv", need="visitors", summary="CSV", responses=ITEM_ERRORS)
async def report_csv(context: ContextDependency, call_id: CallPath) -> Response[str]:
    """Render the report as CSV."""
    app = context.app
    call = _hide_cameras(context, await _get_roll_call(app, call_id))
    headers = {"Content-Disposition": f'attachment; filename="roll-call-{call.id}.csv"'}
    rows = roll_call_report.render_csv(call, partial(_format_time, app))
    return Response(rows, media_type="text/csv", headers=headers)


async def _read_camera_counts(app: AppState) -> dict[str, CameraOccupancy]:
    """Read each area's occupancy by the cameras."""
    return {
        area: to_reply(CameraOccupancy, now, last_door=_format_door(app, now.last_door))
        for area, now in (await occupancy.read_areas(app.redis, app.prefix)).items()
    }


def _format_door(app: AppState, door: str) -> str:
    """Format `<camera>/<line>` by the configured names."""
    camera_id, _, line_id = door.partition("/")
    camera = next((row for row in app.config.cameras if row.id == camera_id), None)
    line = next((row for row in camera.lines if row.id == line_id), None) if camera else None
    return f"{camera.title}, {line.name or line.id}" if camera and line else door


def _hide_cameras(context: RequestContext, call: RollCall) -> RollCall:
    """Remove the names of cameras that the caller may not see. The figures stay: an evacuation needs them."""
    if context.principal.cameras is None:
        return call
    cameras = context.get_cameras()
    doors = {f"{camera.title}, {line.name or line.id}" for camera in cameras for line in camera.lines}
    return rollcall.hide_cameras(call, {camera.title for camera in cameras}, doors)


async def _get_roll_call(app: AppState, call_id: str) -> RollCall:
    """Load the roll call; an open one with the cameras' present counts."""
    call = await _load_roll_call(app, call_id)
    if call.ended_at:
        return call
    return rollcall.update_inside(call, {area: now.occupancy for area, now in (await _read_camera_counts(app)).items()})


async def _load_roll_call(app: AppState, call_id: str) -> RollCall:
    call = await app.roll_calls.load(call_id)
    if call is None:
        raise not_found("there is no such roll call. Remedy: see /api/v1/roll-calls.")
    return rollcall.add_names(call, await app.visits.load_rows([mark.visit for mark in call.marks]))


def _format_time(app: AppState, ts: float) -> str:
    return datetime.fromtimestamp(ts, app.calendar.zone).strftime("%Y-%m-%d %H:%M:%S") if ts else ""


router = Router("/", tags=["visitors"], route_handlers=[begin, roll_calls, roll_call, mark, end, report, report_csv])
