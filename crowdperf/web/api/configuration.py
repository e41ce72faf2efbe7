"""Versions of the configuration: list, show, compare, roll back. Also the changes of site settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from litestar import Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Struct

from crowdperf.settings.alerts import AlertRule
from crowdperf.settings.areas import Area
from crowdperf.supervision.config_patch import ConfigRequest, Edit, omit_defaults
from crowdperf.web.api.cameras import CHANGE_ERRORS, ChangeReply, apply_change
from crowdperf.web.parameters import errors, format_rfc3339, post_action
from crowdperf.web.schemas import Time, to_reply
from crowdperf.web.state import AppDependency, ContextDependency, RequestContext

MAX_VERSION = 10**9
if TYPE_CHECKING:
    Setting = Area | AlertRule
    SettingPath = str
    """Body and path parameter of site settings; each router defines its own for Litestar."""
VersionNumber = Annotated[int, PathParameter(description="Number of the version.", ge=1, le=MAX_VERSION)]


class VersionReply(Struct, kw_only=True):
    """One version; `who` is empty for an edit of the file by hand."""

    number: int
    time: Time
    who: str
    comment: str


class VersionsReply(Struct, kw_only=True):
    """Every version, newest first."""

    versions: list[VersionReply]


class TextReply(Struct, kw_only=True):
    """A version's file, or the difference of two, as text without secrets."""

    text: str


@get("/config/versions", need="admin", summary="Versions of the configuration", responses=errors())
async def versions(app: AppDependency) -> VersionsReply:
    """List the versions. Each change makes one, also a change with an editor."""
    outcome = await app.config_client.request(ConfigRequest(do="versions"))
    rows = [to_reply(VersionReply, row, time=format_rfc3339(row.at)) for row in reversed(outcome.versions)]
    return VersionsReply(versions=rows)


@get(
    "/config/versions/{number:int}",
    need="admin",
    summary="One version of the configuration",
    responses=errors(400, 404),
)
async def version(app: AppDependency, number: VersionNumber) -> TextReply:
    """Show the file of a version without camera passwords."""
    return TextReply(text=(await app.config_client.request(ConfigRequest(do="show", number=number))).text)


@get(
    "/config/versions/{number:int}/diff",
    need="admin",
    summary="What changed since a version",
    responses=errors(400, 404),
)
async def difference(
    app: AppDependency,
    number: VersionNumber,
    to: Annotated[
        int, QueryParameter(description="The other version; 0 is the present file.", ge=0, le=MAX_VERSION)
    ] = 0,
) -> TextReply:
    """Show a unified diff without camera passwords."""
    return TextReply(text=(await app.config_client.request(ConfigRequest(do="diff", number=number, other=to))).text)


@post_action(
    "/config/versions/{number:int}/rollback",
    need="admin",
    summary="Put an old version in force again",
    responses=errors(400, 404, 503),
)
async def rollback(context: ContextDependency, number: VersionNumber) -> ChangeReply:
    """Restore an old version as a new one: no version is lost. Only affected programs restart."""
    change = ConfigRequest(do="rollback", number=number, who=context.principal.name)
    outcome = await context.run_audited(
        "config.rollback",
        f"version {number}",
        lambda: context.app.config_client.request(change),
        lambda outcome: f"version {outcome.version}",
    )
    return to_reply(ChangeReply, outcome)


def build_settings_router(
    path: str, location: str, title: str, setting_type: type[Area] | type[AlertRule], tag: str
) -> Router:
    """Build the routes that add, replace and remove one kind of the site's settings.

    Args:
        path: Path of the routes.
        location: Place of the list in the configuration, such as `alerts.rules`.
        title: The setting with its article, such as "an area"; the noun names path parameter and audit actions.
        setting_type: Body of the requests.
        tag: Tag of the routes in OpenAPI.

    Returns:
        The router.
    """
    noun = title.split()[-1]
    item_path = f"{path}/{{{noun}_id:str}}"
    name = noun.title()
    operation = "ApiV1" + path.title().translate({ord("/"): "", ord("-"): ""})

    async def save(context: RequestContext, edit: Edit, action: str) -> ChangeReply:
        return to_reply(ChangeReply, await apply_change(context, edit, f"{noun}.{action}"))

    @post(path, need="configure", summary=f"Add {title}", operation_id=f"{operation}Add{name}", responses=CHANGE_ERRORS)
    async def add(context: ContextDependency, data: JSONBody[Setting]) -> ChangeReply:
        """Add it; what it refers to must be in the configuration."""
        return await save(context, Edit(mode="create", path=(location, data.id), value=omit_defaults(data)), "create")

    @put(
        item_path,
        need="configure",
        summary=f"Replace {title}",
        operation_id=f"{operation}{name}IdReplace{name}",
        responses=CHANGE_ERRORS,
    )
    async def replace(context: ContextDependency, setting_id: SettingPath, data: JSONBody[Setting]) -> ChangeReply:
        """Replace all of its settings; omitted ones get their defaults."""
        edit = Edit(mode="replace", path=(location, setting_id), value=omit_defaults(data))
        return await save(context, edit, "change")

    @delete(
        item_path,
        need="configure",
        summary=f"Remove {title}",
        operation_id=f"{operation}{name}IdRemove{name}",
        status_code=200,
        responses=CHANGE_ERRORS,
    )
    async def remove(context: ContextDependency, setting_id: SettingPath) -> ChangeReply:
        """Remove it; its history stays."""
        return await save(context, Edit(mode="delete", path=(location, setting_id)), "remove")

    setting_path = Annotated[str, PathParameter(name=f"{noun}_id", description=f"The {noun}'s id.", max_length=64)]
    return Router(
        "/",
        tags=[tag],
        # They concern cameras that a limited account does not see.
        opt={"all_cameras": True},
        route_handlers=[add, replace, remove],
        signature_namespace={"Setting": setting_type, "SettingPath": setting_path},
    )


router = Router(
    "/",
    tags=["configuration"],
    route_handlers=[
        versions,
        version,
        difference,
        rollback,
        build_settings_router("/areas", "areas", "an area", Area, "configuration"),
    ],
)
