"""Alerts: which events matter to whom, when, and by which channel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

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
"""Which filters an event kind has, besides `cameras` and `schedule`."""
STATES: dict[str, tuple[str, ...]] = {
    "CameraChanged": ("connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"),
    "VisitorChanged": (
        *("invited", "arrived", "checked_in", "on_site", "overstayed", "checked_out", "denied", "no_show", "cancelled"),
    ),
    "VisitorNotice": ("arrived", "sign_out_reminder", "overstayed", "no_show"),
}
"""What `states` may name, per event kind."""


class _Channel(Settings, frozen=True, kw_only=True, tag_field="type"):
    id: CameraId
    attempts: Annotated[int, Meta(ge=1, le=100)] = 12
    """After so many failures a notification goes to the dead letters. The pauses double, from 1 s up to 5 min."""
    max_per_minute: Annotated[int, Meta(ge=0, le=6000)] = 60
    """More than this wait in the queue; 0 sets no limit."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0


class WebhookChannel(_Channel, frozen=True, kw_only=True, tag="webhook"):
    """A POST of JSON, signed by HMAC-SHA256. A URL that is a secret itself is named by `url_env`."""

    url: str = ""
    url_env: EnvName = ""
    secret_env: EnvName = ""
    """The variable with the signing key; unsigned where empty."""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""


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
    """What is about a visit goes to that visit's host too, with the visitor's name."""


class MqttChannel(_Channel, frozen=True, kw_only=True, tag="mqtt"):
    """Alerts, counts and occupancy to an MQTT broker; Home Assistant finds them by itself."""

    host: Annotated[str, Meta(min_length=1)]
    port: Port = 1883
    tls: bool = False
    ca_file: str = ""
    user: str = ""
    password_env: EnvName = ""
    topic: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_/-]{1,64}$")] = "crowdperf"
    discovery: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_/-]{0,64}$")] = "homeassistant"
    """Home Assistant's discovery prefix; empty publishes no discovery."""


Channel = WebhookChannel | EmailChannel | MqttChannel
ChannelType = Literal["webhook", "email", "mqtt"]


def get_channel_type(channel: Channel) -> ChannelType:
    """As `type` names it in the configuration."""
    if isinstance(channel, WebhookChannel):
        return "webhook"
    return "email" if isinstance(channel, EmailChannel) else "mqtt"


class Escalation(Settings, frozen=True, kw_only=True):
    """Who hears of an alert that nobody has acknowledged for so long."""

    after_s: Seconds
    channels: Annotated[list[str], Meta(min_length=1)]


class AlertRule(Settings, frozen=True, kw_only=True):
    """One rule. A filter that is empty admits everything."""

    id: CameraId
    name: str = ""
    event: EventKind
    cameras: list[str] = field(default_factory=list)
    zones: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    classes: list[ClassName] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)
    """Alert (a zone's limit, loitering or way is broken): which of them."""
    above: Annotated[int, Meta(ge=0)] | None = None
    """ZoneChanged: more than so many inside; null takes each zone's `limit`."""
    schedule: list[Window] = field(default_factory=list)
    """On the site's clock; empty: always."""
    min_duration_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """What is over sooner raises nothing."""
    severity: Severity = "warning"
    channels: list[str] = field(default_factory=list)
    """Empty: the dashboard alone."""
    observe_quiet_hours: bool = True
    """Critical alerts never do."""
    dedupe_s: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """The same thing again within this time opens the same alert again, and sends nothing."""
    max_per_hour: Annotated[int, Meta(ge=1, le=3600)] = 20
    """Notifications of this rule per camera; what is over it is counted and told with the next one."""
    close_after_s: Seconds = 3600.0
    """An alert about what has no end, such as a crossing, closes by itself."""
    escalate: list[Escalation] = field(default_factory=list)
    enabled: bool = True
    """False: it raises nothing, and what it has opened closes."""

    @property
    def title(self) -> str:
        """The name people see."""
        return self.name or self.id


class Alerts(Settings, frozen=True, kw_only=True):
    """Rules and channels."""

    rules: list[AlertRule] = field(default_factory=list)
    channels: list[Channel] = field(default_factory=list)
    quiet_hours: list[Window] = field(default_factory=list)
    """On the site's clock: notifications wait until they end."""
    allow_private: list[str] = field(default_factory=list)
    """Networks (10.1.2.0/24) and host names that webhooks may reach inside private ranges."""
    max_age_s: Seconds = 21_600.0
    """Events older than this raise nothing: the worker was away for too long."""


def validate_alerts(source: str, alerts: Alerts, cameras: Sequence[Camera]) -> None:
    """Raise ConfigError where a reference, an address or a filter does not fit."""
    where = f"{source}: $.alerts"
    _require_unique(f"{where}.rules", [rule.id for rule in alerts.rules])
    _require_unique(f"{where}.channels", [channel.id for channel in alerts.channels])
    for entry in alerts.allow_private:
        if "/" in entry and not _is_network(entry):
            raise ConfigError(f"{where}.allow_private: {entry!r} is no network. Remedy: write it like 10.1.2.0/24.")
    for index, channel in enumerate(alerts.channels):
        _validate_channel(f"{where}.channels[{index}]", channel)
    names = {channel.id for channel in alerts.channels}
    for index, rule in enumerate(alerts.rules):
        at = f"{where}.rules[{index}]"
        _validate_filters(at, rule, cameras)
        wanted = [*rule.channels, *(name for step in rule.escalate for name in step.channels)]
        _require_known(at, "channel", wanted, names)


def _validate_channel(where: str, channel: Channel) -> None:
    if isinstance(channel, WebhookChannel):
        if bool(channel.url) == bool(channel.url_env):
            raise ConfigError(f"{where} needs either url or url_env. Remedy: set one of them.")
        if channel.url:
            validate_webhook_url(where, channel.url)
    if isinstance(channel, EmailChannel) and not (channel.to or channel.to_host):
        raise ConfigError(f"{where}.to is empty. Remedy: name at least one recipient, or set to_host.")


def validate_webhook_url(where: str, url: str) -> None:
    """Raise ConfigError unless it is an http(s) URL without credentials; the message never holds the URL."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or "@" in parts.netloc or any(ord(letter) <= 32 for letter in url):
        raise ConfigError(
            f"{where}: the URL is not http(s)://host/path. Remedy: correct it, without user and password."
        )


def _validate_filters(where: str, rule: AlertRule, cameras: Sequence[Camera]) -> None:
    fitting = FILTERS[rule.event]
    for name, value in (
        ("zones", rule.zones),
        ("lines", rule.lines),
        ("classes", rule.classes),
        ("states", rule.states),
        ("breaches", rule.breaches),
        ("above", [] if rule.above is None else [rule.above]),
    ):
        if value and name not in fitting:
            raise ConfigError(
                f"{where}.{name} does not fit the event {rule.event}. Remedy: remove it; its filters are: "
                f"{', '.join(('cameras', *fitting))}."
            )
    _require_known(where, "camera", rule.cameras, {camera.id for camera in cameras})
    looked_at = [camera for camera in cameras if not rule.cameras or camera.id in rule.cameras]
    _require_known(where, "zone", rule.zones, {zone.id for camera in looked_at for zone in camera.zones})
    _require_known(where, "line", rule.lines, {line.id for camera in looked_at for line in camera.lines})
    if rule.event in STATES:
        _require_known(where, "state", rule.states, set(STATES[rule.event]))


def _require_known(where: str, kind: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where}: there is no {kind} {name!r}. Remedy: use one of: {', '.join(sorted(known)) or 'none'}."
            )


def _require_unique(where: str, ids: list[str]) -> None:
    if len(ids) > len(set(ids)):
        raise ConfigError(f"{where}: an id of {ids} is used twice. Remedy: rename one.")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
