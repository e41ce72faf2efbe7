"""Alerts: which events raise them, when, and through which channels people are notified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from crowdperf.settings import base
from crowdperf.settings.base import CameraId, ClassName, ConfigError, Seconds, Settings
from crowdperf.settings.camera import Camera
from crowdperf.settings.schedule import Window

Severity = Literal["info", "warning", "critical"]
EventKind = Literal[
    "Alert",
    "LineCrossed",
    "ZoneChanged",
    "CameraGap",
    "CameraChanged",
    "VisitorChanged",
    "VisitorNotice",
    "AreaMismatch",
    "TailgatingSuspected",
    "RollCallChanged",
    "PpeViolation",
]
Breach = Literal["occupancy", "loitering", "wrong_way"]
EnvName = Annotated[str, Meta(pattern=r"^([A-Z][A-Z0-9_]{0,63})?$", description="the name of an environment variable")]
Port = Annotated[int, Meta(ge=1, le=65535)]
FILTERS: dict[str, tuple[str, ...]] = {
    "Alert": ("zones", "breaches"),
    "LineCrossed": ("lines", "classes"),
    "ZoneChanged": ("zones", "above"),
    "CameraGap": (),
    "CameraChanged": ("states",),
    "VisitorChanged": ("states",),
    "VisitorNotice": ("states",),
    "AreaMismatch": (),
    "TailgatingSuspected": ("lines",),
    "RollCallChanged": (),
    "PpeViolation": ("zones",),
}
"""Event kind -> its filters, besides `cameras` and `schedule`."""
STATES: dict[str, tuple[str, ...]] = {
    "CameraChanged": ("connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"),
    "VisitorChanged": (
        *("invited", "arrived", "checked_in", "on_site", "overstayed", "checked_out", "denied", "no_show", "cancelled"),
    ),
    "VisitorNotice": ("arrived", "sign_out_reminder", "overstayed", "no_show", "watch_listed"),
}
"""Event kind -> the values of its filter `states`."""


class _Channel(Settings, frozen=True, kw_only=True, tag_field="type"):
    id: CameraId
    attempts: Annotated[int, Meta(ge=1, le=100)] = 12
    """A notification becomes a dead letter after this many failures. The pauses double, from 1 s up to 5 min."""
    max_per_minute: Annotated[int, Meta(ge=0, le=6000)] = 60
    """Further notifications wait in the queue; 0 sets no limit."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0


class WebhookChannel(_Channel, frozen=True, kw_only=True, tag="webhook"):
    """A JSON POST, signed by HMAC-SHA256. `url_env` names the variable of a URL that is itself a secret."""

    url: str = ""
    url_env: EnvName = ""
    secret_env: EnvName = ""
    """Variable with the signing key; empty: unsigned."""
    ca_file: str = ""
    """CA certificates to trust instead of the system's."""


class EmailChannel(_Channel, frozen=True, kw_only=True, tag="email"):
    """Mail by SMTP."""

    host: Annotated[str, Meta(min_length=1)]
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: Annotated[str, Meta(pattern=r"^[^@\s]+@[^@\s]+$")]
    to: list[Annotated[str, Meta(pattern=r"^[^@\s]+@[^@\s]+$")]] = field(default_factory=list)
    user: str = ""
    password_env: EnvName = ""
    ca_file: str = ""
    to_host: bool = False
    """Send notifications about a visit to its host too, with the visitor's name."""


class MqttChannel(_Channel, frozen=True, kw_only=True, tag="mqtt"):
    """Alerts, counts and occupancy for an MQTT broker; Home Assistant discovers them."""

    host: Annotated[str, Meta(min_length=1)]
    port: Port = 1883
    tls: bool = False
    ca_file: str = ""
    user: str = ""
    password_env: EnvName = ""
    topic: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_/-]{1,64}$")] = "crowdperf"
    discovery: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_/-]{0,64}$")] = "homeassistant"
    """Home Assistant's discovery prefix; empty: no discovery."""


Channel = WebhookChannel | EmailChannel | MqttChannel
ChannelType = Literal["webhook", "email", "mqtt"]


def get_channel_type(channel: Channel) -> ChannelType:
    """Return the channel's `type` as the configuration names it."""
    if isinstance(channel, WebhookChannel):
        return "webhook"
    return "email" if isinstance(channel, EmailChannel) else "mqtt"


class Escalation(Settings, frozen=True, kw_only=True):
    """Channels to notify when an alert stays unacknowledged for `after_s`."""

    after_s: Seconds
    channels: Annotated[list[str], Meta(min_length=1)]


class AlertRule(Settings, frozen=True, kw_only=True):
    """One alert rule. An empty filter matches everything."""

    id: CameraId
    name: str = ""
    event: EventKind
    cameras: list[str] = field(default_factory=list)
    zones: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    classes: list[ClassName] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    """Alert only: the kinds of zone alert that match."""
    above: Annotated[int, Meta(ge=0)] | None = None
    """ZoneChanged only: match more people inside than this; null takes each zone's `limit`."""
    schedule: list[Window] = field(default_factory=list)
    """On the site's clock; empty: always."""
    min_duration_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """Shorter conditions raise no alert."""
    severity: Severity = "warning"
    channels: list[str] = field(default_factory=list)
    """Empty: the dashboard only."""
    observe_quiet_hours: bool = True
    """Critical alerts never do."""
    dedupe_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """The same condition within this time reopens the same alert and sends nothing."""
    max_per_hour: Annotated[int, Meta(ge=1, le=3600)] = 20
    """Notifications of this rule per camera; the next one reports how many were suppressed."""
    close_after_s: Seconds = 3600.0
    """An alert without an end event, such as a crossing, closes after this time."""
    escalate: list[Escalation] = field(default_factory=list)
    enabled: bool = True
    """False: the rule raises nothing, and its open alerts close."""

    @property
    def title(self) -> str:
        """Display name of the rule."""
        return self.name or self.id


class Alerts(Settings, frozen=True, kw_only=True):
    """Rules, channels and quiet hours."""

    rules: list[AlertRule] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    quiet_hours: list[Window] = field(default_factory=list)
    """On the site's clock; notifications wait until they end."""
    allow_private: list[str] = field(default_factory=list)
    """Networks (10.1.2.0/24) and host names in private ranges that webhooks may reach."""
    max_age_s: Seconds = 21_600.0
    """Older events raise no alert, as after a long outage of the worker."""


def validate_alerts(alerts: Alerts, cameras: Sequence[Camera]) -> None:
    """Raise ConfigError unless references, addresses and filters of the alert settings fit."""
    where = "$.alerts"
    base.require_unique(f"{where}.rules", [rule.id for rule in alerts.rules])
    base.require_unique(f"{where}.channels", [channel.id for channel in alerts.channels])
    for entry in alerts.allow_private:
        if "/" in entry and not base.is_network(entry):
            raise ConfigError(f"{where}.allow_private: {entry!r} is not a network. Remedy: write it like 10.1.2.0/24.")
    for index, channel in enumerate(alerts.channels):
        _validate_channel(f"{where}.channels[{index}]", channel)
    names = {channel.id for channel in alerts.channels}
    for index, rule in enumerate(alerts.rules):
        rule_path = f"{where}.rules[{index}]"
        _validate_filters(rule_path, rule, cameras)
        channels = [*rule.channels, *(name for step in rule.escalate for name in step.channels)]
        base.require_known(rule_path, "channel", channels, names)


def _validate_channel(where: str, channel: Channel) -> None:
    if isinstance(channel, WebhookChannel):
        if bool(channel.url) == bool(channel.url_env):
            raise ConfigError(f"{where} needs either url or url_env. Remedy: set one of them.")
        if channel.url:
            validate_webhook_url(where, channel.url)
        return
    if not base.is_host(channel.host):
        raise ConfigError(
            f"{where}.host {channel.host!r} is no host name. Remedy: write it like mail.example, without empty parts."
        )
    if not isinstance(channel, EmailChannel):
        return
    if not (channel.to or channel.to_host):
        raise ConfigError(f"{where}.to is empty. Remedy: name at least one recipient, or set to_host.")
    for name, address in [("sender", channel.sender), *(("to", address) for address in channel.to)]:
        if not base.is_mail_address(address):
            raise ConfigError(
                f"{where}.{name} {address!r} is no address that mail servers accept. Remedy: write it like "
                "office@site.example, in ASCII letters and with a single dot between words."
            )


def validate_webhook_url(where: str, url: str) -> None:
    """Raise ConfigError unless `url` is an http(s) URL without credentials; the message never holds it."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and base.is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if not valid or "@" in parts.netloc or any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise ConfigError(
            f"{where}: the URL is not http(s)://host/path. Remedy: correct it, without user and password."
        )


def _validate_filters(where: str, rule: AlertRule, cameras: Sequence[Camera]) -> None:
    filters = FILTERS[rule.event]
    for name, value in (
        ("zones", rule.zones),
        ("lines", rule.lines),
        ("classes", rule.classes),
        ("states", rule.states),
        ("breaches", rule.breaches),
        ("above", [] if rule.above is None else [rule.above]),
    ):
        if value and name not in filters:
            raise ConfigError(
                f"{where}.{name} does not fit the event {rule.event}. Remedy: remove it; its filters are: "
                f"{', '.join(('cameras', *filters))}."
            )
    base.require_known(where, "camera", rule.cameras, {camera.id for camera in cameras})
    matched = [camera for camera in cameras if not rule.cameras or camera.id in rule.cameras]
    base.require_known(where, "zone", rule.zones, {zone.id for camera in matched for zone in camera.zones})
    base.require_known(where, "line", rule.lines, {line.id for camera in matched for line in camera.lines})
    if rule.event in STATES:
        base.require_known(where, "state", rule.states, STATES[rule.event])
