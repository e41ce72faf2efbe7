"""Versions of the configuration: list, look at, compare, go back."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Router, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Struct

from crowdperf.supervision.config_patch import ConfigRequest
from crowdperf.web.api.cameras import ChangeReply
from crowdperf.web.auth import PrincipalDependency
from crowdperf.web.parameters import BAD_REQUEST, NOT_FOUND, REFUSED, UNAVAILABLE, format_rfc3339
from crowdperf.web.schemas import Time
from crowdperf.web.state import AppDependency

MAX_VERSION = 10**9
VersionNumber = Annotated[int, PathParameter(description="Number of the version.", ge=1, le=MAX_VERSION)]


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
async def versions(app: AppDependency) -> VersionsReply:
    """Each change makes one, whether it came through this interface or from an editor."""
    outcome = await app.config_client.request(ConfigRequest(do="versions"))
    rows = [
        VersionReply(number=row.number, time=format_rfc3339(row.at), who=row.who, comment=row.comment)
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
async def version(app: AppDependency, number: VersionNumber) -> TextReply:
    """Its file, camera passwords removed."""
    return TextReply(text=(await app.config_client.request(ConfigRequest(do="show", number=number))).text)


@get(
    "/config/versions/{number:int}/diff",
    need="admin",
    summary="What changed since a version",
    tags=["configuration"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED},
)
async def difference(
    app: AppDependency,
    number: VersionNumber,
    to: Annotated[
        int, QueryParameter(description="The other version; 0 is the present file.", ge=0, le=MAX_VERSION)
    ] = 0,
) -> TextReply:
    """A unified diff, camera passwords removed."""
    return TextReply(text=(await app.config_client.request(ConfigRequest(do="diff", number=number, other=to))).text)


@post(
    "/config/versions/{number:int}/rollback",
    need="admin",
    summary="Put an old version in force again",
    tags=["configuration"],
    status_code=200,
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def rollback(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, number: VersionNumber
) -> ChangeReply:
    """As a new version: nothing is lost by going back. Only the programs that it concerns restart."""
    outcome = await app.config_client.request(ConfigRequest(do="rollback", number=number, who=principal.name))
    await app.write_audit_entry(
        principal, request, "config.rollback", f"version {number}", f"version {outcome.version}"
    )
    return ChangeReply(version=outcome.version, restarts=list(outcome.restarts), running=outcome.running)


router = Router("/", route_handlers=[versions, version, difference, rollback])
