"""The rules that raise alerts, each change a new version of the configuration file; and how their channels deliver."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from litestar import Request, Router, delete, get, post, put
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.events.burial import dead_key
from crowdperf.events.queue import DEAD_LETTER_STREAM, due_key, parse_stats, stats_key
from crowdperf.settings.alerts import FILTERS, STATES, AlertRule, Breach, ChannelType, EventKind
from crowdperf.settings.schedule import Window
from crowdperf.slices import ChannelSummary
from crowdperf.supervision.edits import Edit, omit_defaults
from crowdperf.web.access import PrincipalDependency, require_all_cameras
from crowdperf.web.cameras import CHANGE_RESPONSES, ChangeReply, apply_site_change
from crowdperf.web.context import AppDependency
from crowdperf.web.openapi import REFUSED, UNAVAILABLE
from crowdperf.web.operations import read_snapshots
from crowdperf.web.parameters import format_rfc3339
from crowdperf.web.replies import Time

RulePath = Annotated[str, PathParameter(description="The rule's id.", max_length=64)]


class KindReply(Struct, kw_only=True):
    """An event that rules may be about."""

    event: Annotated[EventKind, Meta(examples=["CameraChanged"])]
    filters: Annotated[list[str], Meta(description="Besides cameras and schedule.", examples=[["states"]])]
    states: Annotated[list[str], Meta(description="What `states` may name.", examples=[["stalled", "backing_off"]])]


class RulesReply(Struct, kw_only=True):
    """The rules, in the order of the configuration, and what a rule may say."""

    rules: list[AlertRule]
    blank: AlertRule
    """Every default; its id and event mean nothing."""
    kinds: list[KindReply]
    breaches: list[Breach]
    channels: Annotated[list[str], Meta(description="The ids that rules may name.", examples=[["guards"]])]
    quiet_hours: list[Window]
    """On the site's clock; set in the configuration file."""


class ChannelReply(Struct, kw_only=True):
    """How a channel delivers. Its address and secrets are not shown."""

    id: Annotated[str, Meta(examples=["guards"])]
    type: ChannelType
    waiting: Annotated[int, Meta(description="Notifications in its queue.", examples=[0])]
    next_attempt: Annotated[Time | None, Meta(description="Of the first that waits; null for an empty queue.")]
    sent: Annotated[int, Meta(description="Delivered so far.", examples=[42])]
    last_sent: Time | None
    failed: Annotated[int, Meta(description="Attempts that failed so far.", examples=[3])]
    last_failed: Time | None
    attempts: Annotated[int, Meta(description="After so many failures a notification is given up.", examples=[12])]
    dead_letters: Annotated[int, Meta(description="Given up; `crowdperf dead-letters` drives them again.")]
    problem: Annotated[str, Meta(description="Of the newest attempt; empty where it went well.", examples=[""])]


class ChannelsReply(Struct, kw_only=True):
    """The channels, in the order of the configuration."""

    channels: list[ChannelReply]


@get("/alert-rules", need="read", summary="Rules of alerts", tags=["alerts"], responses=REFUSED)
async def rules(app: AppDependency, principal: PrincipalDependency) -> RulesReply:
    """Who may see some cameras only sees the rules that name only those."""
    shown = [
        rule
        for rule in app.config.alert_rules
        if principal.cameras is None or (rule.cameras and all(map(principal.can_see, rule.cameras)))
    ]
    return RulesReply(
        rules=shown,
        blank=AlertRule(id="rule", event="Alert"),
        kinds=[
            KindReply(event=event, filters=list(FILTERS[event]), states=list(STATES.get(event, ())))
            for event in get_args(EventKind)
        ],
        breaches=list(get_args(Breach)),
        channels=[channel.id for channel in app.config.alert_channels],
        quiet_hours=list(app.config.quiet_hours),
    )


@get(
    "/alert-channels",
    need="review",
    summary="How the channels deliver",
    tags=["alerts"],
    responses={**REFUSED, **UNAVAILABLE},
)
async def channels(app: AppDependency) -> ChannelsReply:
    """Queue, deliveries and failures of each channel of alerts; channels are set in the configuration file alone."""
    named = app.config.alert_channels
    # Any: redis-py types its replies differently from release to release.
    pipe: Any = app.redis.pipeline(transaction=False)
    for channel in named:
        pipe.zcard(due_key(channel.id, app.prefix))
        pipe.zrange(due_key(channel.id, app.prefix), 0, 0, withscores=True)
        pipe.hgetall(stats_key(channel.id, app.prefix))
        pipe.xlen(dead_key(DEAD_LETTER_STREAM, channel.id, app.prefix))
    replies = await pipe.execute() if named else []
    problems = {
        name: text for row in await read_snapshots(app) for name, text in row.texts.get("channel_problem", {}).items()
    }
    return ChannelsReply(
        channels=[
            _to_channel_reply(channel, waiting, first, books, letters, problems.get(channel.id, ""))
            for channel, waiting, first, books, letters in zip(named, *(replies[at::4] for at in range(4)))
        ]
    )


def _to_channel_reply(
    channel: ChannelSummary,
    waiting: int,
    first_due: list[tuple[bytes, float]],
    raw_stats: dict[bytes, bytes],
    dead_letters: int,
    problem: str,
) -> ChannelReply:
    kept = parse_stats(raw_stats)
    return ChannelReply(
        id=channel.id,
        type=channel.type,
        waiting=waiting,
        next_attempt=format_rfc3339(float(first_due[0][1])) if first_due else None,
        sent=kept.sent,
        last_sent=None if kept.sent_at is None else format_rfc3339(kept.sent_at),
        failed=kept.failed,
        last_failed=None if kept.failed_at is None else format_rfc3339(kept.failed_at),
        attempts=channel.attempts,
        dead_letters=dead_letters,
        problem=problem,
    )


@post("/alert-rules", need="configure", summary="Add a rule", tags=["alerts"], responses=CHANGE_RESPONSES)
async def add_rule(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, data: JSONBody[AlertRule]
) -> ChangeReply:
    """Its channels are those of the configuration: their addresses and secrets are not for this interface."""
    require_all_cameras(principal)
    edit = Edit(mode="create", path=("alerts.rules", data.id), value=omit_defaults(data))
    return await apply_site_change(app, request, principal, edit, "rule.create")


@put(
    "/alert-rules/{rule_id:str}",
    need="configure",
    summary="Replace a rule",
    tags=["alerts"],
    responses=CHANGE_RESPONSES,
)
async def replace_rule(
    app: AppDependency,
    request: Request[Any, Any, Any],
    principal: PrincipalDependency,
    rule_id: RulePath,
    data: JSONBody[AlertRule],
) -> ChangeReply:
    """All of its settings; what is left out gets its default."""
    require_all_cameras(principal)
    edit = Edit(mode="replace", path=("alerts.rules", rule_id), value=omit_defaults(data))
    return await apply_site_change(app, request, principal, edit, "rule.change")


@delete(
    "/alert-rules/{rule_id:str}",
    need="configure",
    summary="Remove a rule",
    tags=["alerts"],
    status_code=200,
    responses=CHANGE_RESPONSES,
)
async def remove_rule(
    app: AppDependency, request: Request[Any, Any, Any], principal: PrincipalDependency, rule_id: RulePath
) -> ChangeReply:
    """Alerts that it has raised stay."""
    require_all_cameras(principal)
    return await apply_site_change(
        app, request, principal, Edit(mode="delete", path=("alerts.rules", rule_id)), "rule.remove"
    )


alert_rules_router = Router("/", route_handlers=[rules, add_rule, replace_rule, remove_rule, channels])
