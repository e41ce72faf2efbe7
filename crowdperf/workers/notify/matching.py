"""Match events with alert rules. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from crowdperf.messaging.schema import (
    Alert,
    AnyEvent,
    AreaMismatch,
    CameraChanged,
    CameraGap,
    Event,
    LineCrossed,
    PpeViolation,
    RollCallChanged,
    TailgatingSuspected,
    VisitorChanged,
    VisitorNotice,
    ZoneChanged,
)
from crowdperf.settings.alerts import AlertRule
from crowdperf.settings.worker_config import NotifiedCamera

RULE_EVENT_TYPES: tuple[type[Event], ...] = (
    Alert,
    LineCrossed,
    ZoneChanged,
    CameraGap,
    CameraChanged,
    VisitorChanged,
    VisitorNotice,
    AreaMismatch,
    TailgatingSuspected,
    RollCallChanged,
    PpeViolation,
)
"""Events that rules can use."""

NOTICE_TEXTS = {
    "arrived": "your visitor has arrived",
    "sign_out_reminder": "your visitor's time is nearly over: please see to the sign-out",
    "overstayed": "your visitor has not signed out, and the time is over",
    "no_show": "your visitor did not come",
}


class Signal(Struct, frozen=True):
    """The effect of an event on one rule.

    start: a condition begins. end: it ends. pulse: an instant, without an end.
    """

    kind: Literal["start", "end", "pulse"]
    subject: str
    detail: str
    ref: str = ""
    """Id of the condition, where several may hold at once."""


def match_event(rule: AlertRule, event: AnyEvent, camera: NotifiedCamera | None) -> Signal | None:
    """Match an event with a rule.

    Args:
        rule: the rule.
        event: any event.
        camera: configuration of the event's camera; None for a removed one.

    Returns:
        The signal, or None where the rule does not apply.
    """
    if rule.event != type(event).__name__ or (rule.cameras and event.camera not in rule.cameras):
        return None
    where = camera.title if camera else event.camera
    if isinstance(event, Alert):
        return _match_zone_alert(rule, event, where, camera)
    if isinstance(event, PpeViolation):
        if rule.zones and event.zone not in rule.zones:
            return None
        place = camera.zones.get(event.zone, event.zone) if camera and event.zone else event.zone
        detail = f"{where}: somebody without {event.items.replace(',', ' and ')}" + (f" in {place}" if place else "")
        return Signal("start" if event.state == "opened" else "end", event.violation, detail)
    if isinstance(event, LineCrossed):
        return _match_crossing(rule, event, where, camera)
    if isinstance(event, ZoneChanged):
        return _match_zone_change(rule, event, where, camera)
    if isinstance(event, CameraGap):
        lasted = event.end - event.start
        if lasted < rule.min_duration_s:
            return None
        return Signal(
            "pulse", "", f"{where}: pictures missing, and maybe crossings, for {lasted:.1f} s ({event.cause})"
        )
    if isinstance(event, CameraChanged):
        wanted = rule.states or ["stalled", "backing_off", "misconfigured"]
        detail = f"{where} is {event.state.replace('_', ' ')}" + (f": {event.detail}" if event.detail else "")
        return Signal("start" if event.state in wanted else "end", "", detail)
    return _match_visitor_event(rule, event, where, camera)


def _match_visitor_event(
    rule: AlertRule, event: AnyEvent, camera_title: str, camera: NotifiedCamera | None
) -> Signal | None:
    """Match an event about visitors, which contains ids and no names."""
    if isinstance(event, VisitorChanged):
        if event.state not in (rule.states or ["overstayed", "denied"]) or event.state == event.previous:
            return None
        return Signal("pulse", f"visit:{event.visit}", f"visit {event.visit} is {event.state.replace('_', ' ')}")
    if isinstance(event, VisitorNotice):
        if rule.states and event.notice not in rule.states:
            return None
        return Signal("pulse", f"visit:{event.visit}:{event.notice}", NOTICE_TEXTS[event.notice])
    if isinstance(event, AreaMismatch):
        door = f"; most likely door: {event.door}" if event.door else ""
        detail = f"{event.area}: cameras count {event.counted}, the list says {event.expected}{door}"
        return Signal("start" if event.state == "opened" else "end", f"area:{event.area}", detail)
    if isinstance(event, TailgatingSuspected):
        if rule.lines and event.line not in rule.lines:
            return None
        name = camera.lines.get(event.line, event.line) if camera else event.line
        detail = (
            f"{camera_title}: {event.crossings} passed {name} within {event.window_s:.0f} s, "
            f"{event.check_ins} checked in"
        )
        return Signal("pulse", event.line, detail)
    if isinstance(event, RollCallChanged) and event.state in ("started", "ended"):
        what = "drill" if event.drill else "evacuation"
        return Signal("start" if event.state == "started" else "end", event.roll_call, f"{what} {event.state}")
    return None


def _match_crossing(
    rule: AlertRule, event: LineCrossed, camera_title: str, camera: NotifiedCamera | None
) -> Signal | None:
    if (rule.lines and event.line not in rule.lines) or (rule.classes and event.class_name not in rule.classes):
        return None
    name = camera.lines.get(event.line, event.line) if camera else event.line
    return Signal("pulse", event.line, f"{camera_title}: {event.class_name} {event.direction} at {name}")


def _match_zone_alert(rule: AlertRule, event: Alert, camera_title: str, camera: NotifiedCamera | None) -> Signal | None:
    if (rule.zones and event.zone not in rule.zones) or (rule.breaches and event.rule not in rule.breaches):
        return None
    place = event.zone or event.area
    name = camera.zones.get(place, place) if camera else place
    what = {
        "occupancy": f"{event.value:g} in {name}, more than {event.limit:g}",
        "loitering": f"somebody has been in {name} for {event.value:.0f} s, longer than {event.limit:g} s",
        "wrong_way": f"somebody goes the wrong way in {name}",
    }[event.rule]
    kind: Literal["start", "end"] = "start" if event.state == "opened" else "end"
    return Signal(kind, f"{place}/{event.rule}", f"{camera_title}: {what}", event.alert)


def _match_zone_change(
    rule: AlertRule, event: ZoneChanged, camera_title: str, camera: NotifiedCamera | None
) -> Signal | None:
    if rule.zones and event.zone not in rule.zones:
        return None
    limit = rule.above if rule.above is not None else camera.limits.get(event.zone) if camera else None
    if limit is None:
        return None
    name = camera.zones.get(event.zone, event.zone) if camera else event.zone
    kind: Literal["start", "end"] = "start" if event.occupancy > limit else "end"
    return Signal(kind, event.zone, f"{camera_title}: {event.occupancy} in {name}, more than {limit}")
