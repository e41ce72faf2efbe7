"""Versions of the configuration: list, look at, compare, go back."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Router, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Struct

from crowdperf.supervision.orders import Order
from crowdperf.web.access import Who
from crowdperf.web.cameras import ChangeReply
from crowdperf.web.context import SiteContext
from crowdperf.web.openapi import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import rfc3339
from crowdperf.web.replies import Time

LARGEST = 10**9
Number = Annotated[int, PathParameter(description="Number of the version.", ge=1, le=LARGEST)]


class VersionReply(Struct, kw_only=True):
    """One version; `who` is empty where somebody edited the file by hand."""

    number: int
    time: Time
    who: str
    comment: str


class VersionsReply(Struct, kw_only=True):
    """Every version, newest first; the first of the list is the one before the next change."""

    versions: list[VersionReply]


class TextReply(Struct, kw_only=True):
    """A version's file, or what differs between two, as text without secrets."""

    text: str


@get(
    "/config/versions", need="admin", summary="Versions of the configuration", tags=["configuration"], responses=REFUSED
)
async def versions(site: SiteContext) -> VersionsReply:
    """Each change makes one, whether it came through this interface or from an editor."""
    outcome = await site.office.ask(Order(do="versions"))
    rows = [
        VersionReply(number=row.number, time=rfc3339(row.at), who=row.who, comment=row.comment)
        for row in reversed(outcome.versions)
    ]
    return VersionsReply(versions=rows)


@get(
    "/config/versions/{number:int}",
    need="admin",
    summary="One version of the configuration",
    tags=["configuration"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def version(site: SiteContext, number: Number) -> TextReply:
    """Its file, camera passwords removed."""
    return TextReply(text=(await site.office.ask(Order(do="show", number=number))).text)


@get(
    "/config/versions/{number:int}/diff",
    need="admin",
    summary="What changed since a version",
    tags=["configuration"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def difference(
    site: SiteContext,
    number: Number,
    to: Annotated[int, QueryParameter(description="The other version; 0 is the present file.", ge=0, le=LARGEST)] = 0,
) -> TextReply:
    """A unified diff, camera passwords removed."""
    return TextReply(text=(await site.office.ask(Order(do="diff", number=number, other=to))).text)


@post(
    "/config/versions/{number:int}/rollback",
    need="admin",
    summary="Put an old version in force again",
    tags=["configuration"],
    status_code=200,
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def rollback(site: SiteContext, request: Request[Any, Any, Any], who: Who, number: Number) -> ChangeReply:
    """As a new version: nothing is lost by going back. Only the programs that it concerns restart."""
    outcome = await site.office.ask(Order(do="rollback", number=number, who=who.name))
    await site.note(who, request, "config.rollback", f"version {number}", f"version {outcome.version}")
    return ChangeReply(version=outcome.version, restarts=list(outcome.restarts), running=outcome.running)


router = Router("/", route_handlers=[versions, version, difference, rollback])
