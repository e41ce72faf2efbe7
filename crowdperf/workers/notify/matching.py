"""Match events with alert rules. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from crowdperf.messaging import schema
from crowdperf.messaging.schema import Alert, AnyEvent, LineCrossed, ZoneChanged
from crowdperf.settings.alerts import AlertRule
from crowdperf.settings.worker_config import NotifiedCamera

RULE_EVENT_TYPES: tuple[type[schema.Event], ...] = (
    *(Alert, LineCrossed, ZoneChanged, schema.CameraGap, schema.CameraChanged, schema.VisitorChanged),
    *(schema.VisitorNotice, schema.AreaMismatch, schema.TailgatingSuspected, schema.RollCallChanged),
    schema.PpeViolation,
)
"""Events that rules can use."""
INSTANTS = ("LineCrossed", "CameraGap", "VisitorChanged", "VisitorNotice", "TailgatingSuspected")
"""Those without an end."""

NOTICE_TEXTS = {
    "arrived": "your visitor has arrived",
    "sign_out_reminder": "your visitor's time is nearly over: please see to the sign-out",
    "overstayed": "your visitor has not signed out, and the time is over",
    "no_show": "your visitor did not come",
    "watch_listed": "a visitor who is on site was put on the watch-list",
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
    if camera is None:
        camera = NotifiedCamera(camera_id=event.camera, title=event.camera, lines={}, zones={}, limits={})
    match event:
        case Alert():
            return _match_zone_alert(rule, event, camera)
        case LineCrossed():
            return _match_crossing(rule, event, camera)
        case ZoneChanged():
            return _match_zone_change(rule, event, camera)
        case schema.PpeViolation() if not rule.zones or event.zone in rule.zones:
            place = f" in {camera.zones.get(event.zone, event.zone)}" if event.zone else ""
            detail = f"{camera.title}: somebody without {event.items.replace(',', ' and ')}{place}"
            return _build_condition(event.state == "opened", event.violation, detail)
        case schema.CameraGap() if event.end - event.start >= rule.min_duration_s:
            lasted = f"{event.end - event.start:.1f} s ({event.cause})"
            return Signal("pulse", "", f"{camera.title}: pictures missing, and maybe crossings, for {lasted}")
        case schema.CameraChanged():
            wanted = rule.states or ["stalled", "backing_off", "misconfigured"]
            reason = f": {event.detail}" if event.detail else ""
            detail = f"{camera.title} is {event.state.replace('_', ' ')}{reason}"
            return _build_condition(event.state in wanted, "", detail)
        case _:
            return _match_visitor_event(rule, event, camera)


def _build_condition(begins: bool, subject: str, detail: str, ref: str = "") -> Signal:
    return Signal("start" if begins else "end", subject, detail, ref)


def _match_visitor_event(rule: AlertRule, event: AnyEvent, camera: NotifiedCamera) -> Signal | None:
    """Match an event about visitors, which contains ids and no names."""
    match event:
        case schema.VisitorChanged():
            if event.state in (rule.states or ["overstayed", "denied"]) and event.state != event.previous:
                state = event.state.replace("_", " ")
                return Signal("pulse", f"visit:{event.visit}", f"visit {event.visit} is {state}")
        case schema.VisitorNotice():
            if not rule.states or event.notice in rule.states:
                return Signal("pulse", f"visit:{event.visit}:{event.notice}", NOTICE_TEXTS[event.notice])
        case schema.AreaMismatch():
            door = f"; most likely door: {event.door}" if event.door else ""
            detail = f"{event.area}: cameras count {event.counted}, the list says {event.expected}{door}"
            return _build_condition(event.state == "opened", f"area:{event.area}", detail)
        case schema.TailgatingSuspected():
            if not rule.lines or event.line in rule.lines:
                passed = f"{event.crossings} passed {camera.lines.get(event.line, event.line)}"
                within = f"within {event.window_s:.0f} s, {event.check_ins} checked in"
                return Signal("pulse", event.line, f"{camera.title}: {passed} {within}")
        case schema.RollCallChanged(state="started" | "ended"):
            what = "drill" if event.drill else "evacuation"
            return _build_condition(event.state == "started", event.roll_call, f"{what} {event.state}")
    return None


def _match_crossing(rule: AlertRule, event: LineCrossed, camera: NotifiedCamera) -> Signal | None:
    if (rule.lines and event.line not in rule.lines) or (rule.classes and event.class_name not in rule.classes):
        return None
    name = camera.lines.get(event.line, event.line)
    return Signal("pulse", event.line, f"{camera.title}: {event.class_name} {event.direction} at {name}")


def _match_zone_alert(rule: AlertRule, event: Alert, camera: NotifiedCamera) -> Signal | None:
    if (rule.zones and event.zone not in rule.zones) or (rule.breaches and event.rule not in rule.breaches):
        return None
    place = event.zone or event.area
    name = camera.zones.get(place, place)
    what = {
        "occupancy": f"{event.value:g} in {name}, more than {event.limit:g}",
        "loitering": f"somebody has been in {name} for {event.value:.0f} s, longer than {event.limit:g} s",
        "wrong_way": f"somebody goes the wrong way in {name}",
    }[event.rule]
    return _build_condition(event.state == "opened", f"{place}/{event.rule}", f"{camera.title}: {what}", event.alert)


def _match_zone_change(rule: AlertRule, event: ZoneChanged, camera: NotifiedCamera) -> Signal | None:
    limit = camera.limits.get(event.zone) if rule.above is None else rule.above
    if (rule.zones and event.zone not in rule.zones) or limit is None:
        return None
    name = camera.zones.get(event.zone, event.zone)
    detail = f"{camera.title}: {event.occupancy} in {name}, more than {limit}"
    return _build_condition(event.occupancy > limit, event.zone, detail)
