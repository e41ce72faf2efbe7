"""Areas of the site: how many are there now, and which doors and zones say so."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Struct

from crowdperf.accounts.principal import Principal
from crowdperf.settings.areas import Area, AreaZone, Door
from crowdperf.storage.occupancy import AreaSnapshot, read_areas
from crowdperf.supervision.config_patch import Edit, omit_defaults
from crowdperf.web.api.cameras import CHANGE_RESPONSES, ChangeReply, apply_site_change
from crowdperf.web.auth import PrincipalDependency, require_all_cameras
from crowdperf.web.parameters import REFUSED, UNAVAILABLE, format_rfc3339
from crowdperf.web.schemas import Time
from crowdperf.web.state import AppDependency

AreaPath = Annotated[str, PathParameter(description="The area's id.", max_length=64)]


class AreaReply(Struct, kw_only=True):
    """An area now. `occupancy` and what belongs to it is null until its first event."""

    id: str
    name: str
    limit: int | None
    doors: list[Door]
    zones: list[AreaZone]
    occupancy: int | None = None
    uncertainty: float | None = None
    """Half the width of the 95 % interval."""
    entries: int | None = None
    exits: int | None = None
    since: Time | None = None
    """The last reset."""
    over_limit: bool = False
    last_door: str = ""
    """`<camera>/<line>` of the newest crossing of one of its doors."""
    last_entered: bool = False
    """Whether it led into the area."""
    last_crossing: Time | None = None
    time: Time | None = None
    """Of the newest event that was heard."""


class AreasReply(Struct, kw_only=True):
    """Every area, in the order of the configuration."""

    areas: list[AreaReply]


@get("/areas", need="read", summary="Areas now", tags=["site"], responses={**REFUSED, **UNAVAILABLE})
async def areas(app: AppDependency, principal: PrincipalDependency) -> AreasReply:
    """How many are in each area, give or take. Who may see some cameras only sees the areas that those alone make."""
    now = await read_areas(app.redis, app.prefix)
    shown = [area for area in app.config.areas if _is_visible(area, principal)]
    return AreasReply(areas=[_to_area_reply(area, now.get(area.id)) for area in shown])


@post("/areas", need="configure", summary="Add an area", tags=["configuration"], responses=CHANGE_RESPONSES)
async def add_area(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, data: JSONBody[Area]
) -> ChangeReply:
    """Its doors and zones must exist."""
    require_all_cameras(principal)
    edit = Edit(mode="create", path=("areas", data.id), value=omit_defaults(data))
    return await apply_site_change(app, request, principal, edit, "area.create")


@put(
    "/areas/{area_id:str}",
    need="configure",
    summary="Replace an area",
    tags=["configuration"],
    responses=CHANGE_RESPONSES,
)
async def replace_area(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    area_id: AreaPath,
    data: JSONBody[Area],
) -> ChangeReply:
    """All of its settings; what is left out gets its default."""
    require_all_cameras(principal)
    edit = Edit(mode="replace", path=("areas", area_id), value=omit_defaults(data))
    return await apply_site_change(app, request, principal, edit, "area.change")


@delete(
    "/areas/{area_id:str}",
    need="configure",
    summary="Remove an area",
    tags=["configuration"],
    status_code=200,
    responses=CHANGE_RESPONSES,
)
async def remove_area(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, area_id: AreaPath
) -> ChangeReply:
    """Its doors and zones stay."""
    require_all_cameras(principal)
    return await apply_site_change(app, request, principal, Edit(mode="delete", path=("areas", area_id)), "area.remove")


def _is_visible(area: Area, principal: Principal) -> bool:
    return all(map(principal.can_see, [*(door.camera for door in area.doors), *(zone.camera for zone in area.zones)]))


def _to_area_reply(area: Area, now: AreaSnapshot | None) -> AreaReply:
    known = AreaReply(id=area.id, name=area.name or area.id, limit=area.limit, doors=area.doors, zones=area.zones)
    if now is not None:
        known.occupancy, known.uncertainty = now.occupancy, now.uncertainty
        known.entries, known.exits = now.entries, now.exits
        known.since, known.time = format_rfc3339(now.since), format_rfc3339(now.at)
        known.over_limit = now.over_limit
        known.last_door, known.last_entered = now.last_door, now.last_entered
        known.last_crossing = format_rfc3339(now.last_at) if now.last_at else None
    return known


router = Router("/", route_handlers=[areas, add_area, replace_area, remove_area])
