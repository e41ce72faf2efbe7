"""Areas of the site: their occupancy now, and the doors and zones that it comes from."""

from __future__ import annotations

from litestar import Router, get
from msgspec import Struct

from crowdperf.accounts.principal import Principal
from crowdperf.settings.areas import Area, AreaZone, Door
from crowdperf.storage.occupancy import AreaSnapshot, read_areas
from crowdperf.web.api.configuration import build_settings_router
from crowdperf.web.auth import PrincipalDependency
from crowdperf.web.parameters import errors, format_rfc3339
from crowdperf.web.schemas import Time, to_reply
from crowdperf.web.state import AppDependency


class AreaReply(Struct, kw_only=True):
    """An area now. Occupancy and what belongs to it are null before its first event."""

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
    """`<camera>/<line>` of the newest crossing of its doors."""
    last_entered: bool = False
    """Whether that crossing led into the area."""
    last_crossing: Time | None = None
    time: Time | None = None
    """Time of the newest event."""


class AreasReply(Struct, kw_only=True):
    """Every area, in the order of the configuration."""

    areas: list[AreaReply]


@get("/areas", need="read", summary="Areas now", tags=["site"], responses=errors(503))
async def areas(app: AppDependency, principal: PrincipalDependency) -> AreasReply:
    """List the areas with their estimated occupancy.

    A caller who may see some cameras sees the areas that only those make up.
    """
    now = await read_areas(app.redis, app.prefix)
    visible = [area for area in app.config.areas if _is_visible(area, principal)]
    return AreasReply(areas=[_to_area_reply(area, now.get(area.id)) for area in visible])


def _is_visible(area: Area, principal: Principal) -> bool:
    return all(map(principal.can_see, [*(door.camera for door in area.doors), *(zone.camera for zone in area.zones)]))


def _to_area_reply(area: Area, now: AreaSnapshot | None) -> AreaReply:
    reply = to_reply(AreaReply, area, name=area.name or area.id)
    if now is None:
        return reply
    return to_reply(
        AreaReply,
        now,
        **{name: getattr(reply, name) for name in ("id", "name", "limit", "doors", "zones")},
        since=format_rfc3339(now.since),
        time=format_rfc3339(now.at),
        last_crossing=format_rfc3339(now.last_at) if now.last_at else None,
    )


router = Router("/", route_handlers=[areas, build_settings_router("/areas", "areas", "an area", Area, "configuration")])
