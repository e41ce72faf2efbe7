"""Alerts and the actions on them; the rules that raise alerts, and the delivery of their channels."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from litestar import Router, get
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct

from crowdperf.accounts import audit_log
from crowdperf.messaging.codec import dead_key
from crowdperf.messaging.delivery_queue import DEAD_LETTER_STREAM, due_key, parse_stats, stats_key
from crowdperf.settings.alerts import FILTERS, STATES, AlertRule, Breach, ChannelType, EventKind
from crowdperf.settings.process_config import ChannelSummary
from crowdperf.settings.schedule import Window
from crowdperf.storage import alerts as stored
from crowdperf.storage.alerts import AlertView
from crowdperf.web.api.configuration import build_settings_router
from crowdperf.web.health import read_snapshots
from crowdperf.web.parameters import (
    ITEM_ERRORS,
    CameraFilter,
    errors,
    format_rfc3339,
    format_rfc3339_or_none,
    parse_choices,
    post_action,
)
from crowdperf.web.problems import conflict, not_found
from crowdperf.web.schemas import Time, to_reply
from crowdperf.web.state import AppDependency, ContextDependency, RequestContext

AlertPath = Annotated[str, PathParameter(description="The alert's id.", max_length=256)]
ALERT_STATES = ("open", "acknowledged", "closed")
ALERT_SEVERITIES = ("info", "warning", "critical")


class AlertsReply(Struct, kw_only=True):
    """Alerts, newest first; pass `next` as `before`, with the same filters, until it is null."""

    alerts: list[AlertView]
    next: Annotated[str | None, Meta(examples=["2026-05-01T06:00:00.000Z"])]


@get("/alerts", need="read", summary="Alerts, newest first", responses=errors(400, 503))
async def alerts(
    context: ContextDependency,
    state_: Annotated[
        str | None, QueryParameter(name="state", description=f"Any of {', '.join(ALERT_STATES)}.", max_length=40)
    ] = None,
    severity: Annotated[
        str | None, QueryParameter(description=f"Any of {', '.join(ALERT_SEVERITIES)}.", max_length=40)
    ] = None,
    rule: Annotated[str | None, QueryParameter(description="Only this rule's id.", max_length=64)] = None,
    camera: CameraFilter = None,
    escalated: Annotated[bool, QueryParameter(description="Only those that were escalated.")] = False,
    before: Annotated[
        str | None, QueryParameter(description="Raised before this time, RFC 3339.", max_length=64)
    ] = None,
    limit: Annotated[int, QueryParameter(description="Alerts per page.", ge=1, le=500)] = 100,
) -> AlertsReply:
    """List the alerts of the cameras that the caller may see."""
    states = parse_choices("state", state_, ALERT_STATES) or ALERT_STATES
    severities = parse_choices("severity", severity, ALERT_SEVERITIES) or ALERT_SEVERITIES

    def admits(view: AlertView) -> bool:
        alert = view.alert
        return (
            view.state in states
            and alert.severity in severities
            and rule in (None, alert.rule)
            and camera in (None, alert.camera)
            and (alert.escalated > 0 or not escalated)
            and context.principal.can_see(alert.camera)
        )

    app = context.app
    rows = await stored.load_newest(app.redis, context.parse_before(before), limit, admits, app.prefix)
    last = format_rfc3339(rows[-1].alert.raised_at) if len(rows) >= limit else None
    return AlertsReply(alerts=rows, next=last)


@post_action("/alerts/{alert_id:str}/acknowledge", need="review", summary="Acknowledge", responses=ITEM_ERRORS)
async def acknowledge(context: ContextDependency, alert_id: AlertPath) -> AlertView:
    """Take charge of the alert: it is not escalated any further."""
    return await _change_state(context, alert_id, "acknowledged")


@post_action("/alerts/{alert_id:str}/close", need="review", summary="Close", responses=ITEM_ERRORS)
async def close(context: ContextDependency, alert_id: AlertPath) -> AlertView:
    """Close the alert, even if its cause continues."""
    return await _change_state(context, alert_id, "closed")


async def _change_state(context: RequestContext, alert_id: str, state: Literal["acknowledged", "closed"]) -> AlertView:
    app, principal = context.app, context.principal
    view = await stored.load(app.redis, alert_id, app.prefix)
    if view is None or not principal.can_see(view.alert.camera):
        raise not_found("there is no such alert. Remedy: see /api/v1/alerts.")
    author, entry = principal.name or principal.kind, context.build_audit_entry(f"alert.{state}", alert_id[:200])
    outcome = await stored.answer_alert(
        app.redis, view, state, author, app.now(), audit_log.encode_entry(entry), app.prefix
    )
    if outcome != "done":
        raise conflict(f"the alert is {outcome} already. Remedy: read it again.")
    return await stored.load(app.redis, alert_id, app.prefix) or view


class KindReply(Struct, kw_only=True):
    """An event that a rule can match."""

    event: Annotated[EventKind, Meta(examples=["CameraChanged"])]
    filters: Annotated[list[str], Meta(description="In addition to cameras and schedule.", examples=[["states"]])]
    states: Annotated[list[str], Meta(description="Values of `states`.", examples=[["stalled", "backing_off"]])]


class RulesReply(Struct, kw_only=True):
    """The rules in the order of the configuration, and the values that a rule may have."""

    rules: list[AlertRule]
    blank: AlertRule
    """Every default; its id and event are placeholders."""
    kinds: list[KindReply]
    breaches: list[Breach]
    channels: Annotated[list[str], Meta(description="The ids that rules may name.", examples=[["guards"]])]
    quiet_hours: list[Window]
    """In the site's time zone; set in the configuration file."""


class ChannelReply(Struct, kw_only=True):
    """How a channel delivers, without its address and secrets."""

    id: Annotated[str, Meta(examples=["guards"])]
    type: ChannelType
    waiting: Annotated[int, Meta(description="Notifications in its queue.", examples=[0])]
    next_attempt: Annotated[Time | None, Meta(description="Of the first one waiting; null for an empty queue.")]
    sent: Annotated[int, Meta(description="Delivered so far.", examples=[42])]
    last_sent: Time | None
    failed: Annotated[int, Meta(description="Attempts that failed so far.", examples=[3])]
    last_failed: Time | None
    attempts: Annotated[int, Meta(description="Attempts before a notification becomes a dead letter.", examples=[12])]
    dead_letters: Annotated[int, Meta(description="Given up; `crowdperf dead-letters` redrives them.")]
    problem: Annotated[str, Meta(description="Error of the newest attempt; empty after a success.", examples=[""])]


class ChannelsReply(Struct, kw_only=True):
    """The channels, in the order of the configuration."""

    channels: list[ChannelReply]


@get("/alert-rules", need="read", summary="Rules of alerts", responses=errors())
async def rules(context: ContextDependency) -> RulesReply:
    """List the rules. A caller who may see some cameras sees the rules that name only those."""
    visible = [
        rule
        for rule in context.app.config.alert_rules
        if context.principal.cameras is None or (rule.cameras and context.principal.can_see(*rule.cameras))
    ]
    return RulesReply(
        rules=visible,
        blank=AlertRule(id="rule", event="Alert"),
        kinds=[
            KindReply(event=event, filters=list(FILTERS[event]), states=list(STATES.get(event, ())))
            for event in get_args(EventKind)
        ],
        breaches=list(get_args(Breach)),
        channels=[channel.id for channel in context.app.config.alert_channels],
        quiet_hours=list(context.app.config.quiet_hours),
    )


@get("/alert-channels", need="review", summary="How the channels deliver", responses=errors(503))
async def channels(app: AppDependency) -> ChannelsReply:
    """Show queue, deliveries and failures of each channel. Only the configuration file sets channels."""
    configured = app.config.alert_channels
    pipe = app.redis.pipeline(transaction=False)
    for channel in configured:
        pipe.zcard(due_key(channel.id, app.prefix))
        pipe.zrange(due_key(channel.id, app.prefix), 0, 0, withscores=True)
        pipe.hgetall(stats_key(channel.id, app.prefix))
        pipe.xlen(dead_key(DEAD_LETTER_STREAM, channel.id, app.prefix))
    replies = await pipe.execute() if configured else []
    problems = {
        name: text for row in await read_snapshots(app) for name, text in row.texts.get("channel_problem", {}).items()
    }
    figures = zip(*(replies[index::4] for index in range(4)))
    return ChannelsReply(
        channels=[
            _to_channel_reply(channel, problems.get(channel.id, ""), *row) for channel, row in zip(configured, figures)
        ]
    )


def _to_channel_reply(
    channel: ChannelSummary,
    problem: str,
    waiting: int,
    first_due: Any,
    raw_stats: dict[bytes, bytes],
    dead_letters: int,
) -> ChannelReply:
    stats = parse_stats(raw_stats)
    return to_reply(
        ChannelReply,
        channel,
        waiting=waiting,
        next_attempt=format_rfc3339_or_none(first_due[0][1] if first_due else None),
        sent=stats.sent,
        last_sent=format_rfc3339_or_none(stats.sent_at),
        failed=stats.failed,
        last_failed=format_rfc3339_or_none(stats.failed_at),
        dead_letters=dead_letters,
        problem=problem,
    )


router = Router(
    "/",
    tags=["alerts"],
    route_handlers=[
        alerts,
        acknowledge,
        close,
        rules,
        channels,
        build_settings_router("/alert-rules", "alerts.rules", "a rule", AlertRule, "alerts"),
    ],
)
