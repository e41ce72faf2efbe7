"""The rules that raise alerts: each change a new version of the configuration file."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Struct

from crowdperf.settings.alerts import AlertRule
from crowdperf.supervision.edits import Edit, sparse
from crowdperf.web.access import Who, sees_all
from crowdperf.web.cameras import CHANGED, ChangeReply, order_change
from crowdperf.web.context import SiteContext
from crowdperf.web.openapi import REFUSED

RulePath = Annotated[str, PathParameter(description="The rule's id.", max_length=64)]


class RulesReply(Struct, kw_only=True):
    """The rules, in the order of the configuration."""

    rules: list[AlertRule]


@get("/alert-rules", need="read", summary="Rules of alerts", tags=["alerts"], responses=REFUSED)
async def rules(site: SiteContext, who: Who) -> RulesReply:
    """Who may see some cameras only sees the rules that name only those."""
    shown = [
        rule
        for rule in site.slice.alert_rules
        if who.cameras is None or (rule.cameras and all(map(who.sees, rule.cameras)))
    ]
    return RulesReply(rules=shown)


@post("/alert-rules", need="configure", summary="Add a rule", tags=["alerts"], responses=CHANGED)
async def add_rule(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, data: JSONBody[AlertRule]
) -> ChangeReply:
    """Its channels are those of the configuration: their addresses and secrets are not for this interface."""
    sees_all(who)
    edit = Edit(mode="create", path=("alerts.rules", data.id), value=sparse(data))
    return await order_change(site, request, who, edit, "rule.create")


@put("/alert-rules/{rule_id:str}", need="configure", summary="Replace a rule", tags=["alerts"], responses=CHANGED)
async def replace_rule(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, rule_id: RulePath, data: JSONBody[AlertRule]
) -> ChangeReply:
    """All of its settings; what is left out gets its default."""
    sees_all(who)
    edit = Edit(mode="replace", path=("alerts.rules", rule_id), value=sparse(data))
    return await order_change(site, request, who, edit, "rule.change")


@delete(
    "/alert-rules/{rule_id:str}",
    need="configure",
    summary="Remove a rule",
    tags=["alerts"],
    status_code=200,
    responses=CHANGED,
)
async def remove_rule(site: SiteContext, request: Request[Any, Any, Any], who: Who, rule_id: RulePath) -> ChangeReply:
    """Alerts that it has raised stay."""
    sees_all(who)
    return await order_change(site, request, who, Edit(mode="delete", path=("alerts.rules", rule_id)), "rule.remove")


router = Router("/", route_handlers=[rules, add_rule, replace_rule, remove_rule])
