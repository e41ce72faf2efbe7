"""Rules over events: which alerts are raised, told to whom, and closed. Pure; time comes with the event or `due`.

A rule's condition (a zone over its limit, a camera away) begins and ends; an alert about something that has no end (a
crossing) closes by itself. All alerts of a camera are that camera's state, so that cameras can be split over instances.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.messaging.schema import Alert, AlertChanged, AlertRaised, AnyEvent, Event, PpeObserved
from crowdperf.settings.alerts import AlertRule, MqttChannel
from crowdperf.settings.schedule import find_end, is_active
from crowdperf.settings.worker_config import NotifyConfig
from crowdperf.storage.alerts import AlertDoc, AlertState, AlertUpdate
from crowdperf.workers.notify.matching import RULE_EVENT_TYPES, Signal, match_event
from crowdperf.workers.notify.mqtt_state import READING_EVENT_TYPES, CameraReadings, ReadingsRemoved
from crowdperf.workers.worker_logic import WorkerEvent

VERSION = 1
HOUR_S = 3600.0
MAX_REFS_PER_ALERT = 1000
"""What may hold one alert open at once."""
MAX_ACTIVE_ALERTS = 2000
"""Alerts of one camera that are open or were so lately; beyond it the oldest go, those that are over first."""


class Notification(Struct, frozen=True, kw_only=True):
    """An alert on its way to one channel."""

    id: str
    """The same however often it is sent: receivers dedupe by it."""
    channel: str
    due: float
    """Not before this time, Unix seconds."""
    stage: int
    """0: the alert itself; n: its n-th escalation."""
    alert: AlertDoc
    site: str
    camera_title: str
    note: str = ""


class _ActiveAlert(Struct, kw_only=True):
    """One rule and subject of a camera, from its first signal until it is forgotten."""

    rule: str
    subject: str
    event: str
    ts: float
    detail: str
    ongoing: bool
    """Whether the condition still holds; never for what has no end."""
    refs: list[str] = []
    """What holds it open, where several may at once: it ends with the last."""
    alert: AlertDoc | None = None
    """None while it waits for `min_duration_s`."""
    state: AlertState = "open"
    notified: bool = False
    tell_at: float = 0.0
    escalated: int = 0
    closed_at: float = 0.0
    times: int = 0
    """State changes so far: part of their events' ids."""


class CameraAlertState(Struct, kw_only=True):
    """What is stored per camera."""

    version: int = VERSION
    active: list[_ActiveAlert] = []
    sent: dict[str, list[float]] = {}
    """Rule -> when it notified within the last hour."""
    held: dict[str, int] = {}
    """Rule -> alerts that were not told because of the rate limit."""
    readings: CameraReadings = msgspec.field(default_factory=CameraReadings)


class AlertLogic:
    """The notify worker's rules, of all cameras."""

    def __init__(self, config: NotifyConfig) -> None:
        self._site = config.site
        self._timezone = zoneinfo.ZoneInfo(config.site.timezone)
        self._alerts = config.alerts
        self._rules = {rule.id: rule for rule in config.alerts.rules if rule.enabled}
        self._configured = {camera.camera_id: camera for camera in config.cameras}
        self._cameras: dict[str, CameraAlertState] = {}
        self._publishes_readings = any(isinstance(channel, MqttChannel) for channel in config.alerts.channels)
        named = {rule.event for rule in self._rules.values()} | (
            set(READING_EVENT_TYPES) if self._publishes_readings else set()
        )
        self.event_types: tuple[type[Event], ...] = (
            AlertChanged,
            *(kind for kind in RULE_EVENT_TYPES if kind.__name__ in named),
        )

    # -- the worker's interface (workers.base.Logic) --

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """The camera; what is said of an area comes from whichever camera saw the cause, and belongs to none."""
        return ("" if isinstance(event, Alert) and event.area else event.camera,)

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterator[Struct]:
        """Take one event; yields AlertRaised, AlertChanged, AlertSet, Notification and Reading."""
        assert not isinstance(event, PpeObserved)
        (camera,) = self.partition_keys(event)
        own = self._cameras.setdefault(camera, CameraAlertState())
        if isinstance(event, AlertChanged):
            self._apply_user_change(own, event)
            return
        if self._publishes_readings:
            yield from own.readings.update(event, self._timezone)
        for rule in self._rules.values():
            found = match_event(rule, event, self._configured.get(event.camera))
            if found is not None:
                yield from self._handle_signal(own, rule, event, camera, found)

    def advance_time(self, camera: str, now: float) -> Iterable[Struct]:
        """What has become due: conditions that lasted, quiet hours that ended, escalations, ends."""
        own = self._cameras.get(camera)
        if own is None:
            return []
        effects: list[Struct] = list(own.readings.advance_time(camera, now, self._timezone))
        for active in list(own.active):
            rule = self._rules.get(active.rule)
            if rule is None:
                # The rule is gone, or switched off: what it has opened must not stay open for ever.
                effects += self._close(camera, active, now) if active.alert and active.state != "closed" else []
                own.active.remove(active)
                continue
            effects += self._advance_alert(own, rule, active, camera, now)
            if active.state == "closed" and now - active.closed_at >= rule.dedupe_s:
                own.active.remove(active)
        return effects

    def dump_state(self, camera: str) -> bytes:
        """The camera's state."""
        return msgspec.msgpack.encode(self._cameras[camera])

    def restore(self, camera: str, state: bytes) -> None:
        """Continue there.

        Raises:
            ValueError: another version.
        """
        raw: Any = msgspec.msgpack.decode(state)
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            raise ValueError(f"alerts of another version than {VERSION}")
        own = self._cameras[camera] = msgspec.convert(raw, CameraAlertState)
        own.sent = {rule: sent for rule, sent in own.sent.items() if rule in self._rules}
        own.held = {rule: held for rule, held in own.held.items() if rule in self._rules}

    def is_configured(self, camera: str) -> bool:
        """Whether the camera is configured; what is about no camera always is."""
        return not camera or camera in self._configured

    def forget(self, camera: str, now: float) -> Iterator[Struct]:
        """What a camera that is gone has opened must not stay open for ever."""
        own = self._cameras.pop(camera, CameraAlertState())
        for active in own.active:
            if active.alert and active.state != "closed":
                yield from self._close(camera, active, now)
        yield ReadingsRemoved(camera)

    def clear(self) -> None:
        """Forget every camera."""
        self._cameras.clear()

    # -- signals --

    def _handle_signal(
        self, camera_state: CameraAlertState, rule: AlertRule, event: AnyEvent, camera: str, signal: Signal
    ) -> Iterator[Struct]:
        active = next(
            (row for row in camera_state.active if (row.rule, row.subject) == (rule.id, signal.subject)), None
        )
        if signal.kind == "end":
            if active is not None and active.ongoing:
                active.refs = [ref for ref in active.refs if ref != signal.ref]
                if active.refs:
                    return
                active.ongoing = False
                if active.alert is None:
                    camera_state.active.remove(active)
                elif active.state != "closed":
                    yield from self._close(camera, active, event.ts)
            return
        if active is not None and (active.alert is None or active.state != "closed"):
            yield from self._count_repeat(active, event, signal)
            return
        if not is_active(rule.schedule, event.ts, self._timezone):
            return
        if active is not None and event.ts - active.closed_at < rule.dedupe_s:
            active.ongoing, active.refs = signal.kind == "start", [signal.ref]
            yield from self._reopen(active, event, camera, signal)
            return
        if active is not None:
            yield from self._notify_pending(camera_state, rule, active, event.ts)
            camera_state.active.remove(active)
        active = _ActiveAlert(
            rule=rule.id,
            subject=signal.subject,
            event=event.id,
            ts=event.ts,
            detail=signal.detail,
            ongoing=signal.kind == "start",
            refs=[signal.ref],
        )
        yield from self._evict_oldest(camera_state, camera, event.ts)
        camera_state.active.append(active)
        if signal.kind == "pulse" or rule.min_duration_s == 0:
            yield from self._raise_alert(camera_state, rule, active, camera, event.ts)

    def _evict_oldest(self, camera_state: CameraAlertState, camera: str, now: float) -> Iterator[Struct]:
        if len(camera_state.active) < MAX_ACTIVE_ALERTS:
            return
        oldest = min(camera_state.active, key=lambda row: (row.state != "closed", row.ts))
        if oldest.alert and oldest.state != "closed":
            yield from self._close(camera, oldest, now)
        camera_state.active.remove(oldest)

    def _count_repeat(self, active: _ActiveAlert, event: AnyEvent, signal: Signal) -> Iterator[Struct]:
        """The same thing while it is open: counted, not told again."""
        if signal.kind == "start" and signal.ref not in active.refs:
            active.refs = [*active.refs, signal.ref][-MAX_REFS_PER_ALERT:]
            active.ongoing = True
        if active.alert is None:
            active.detail = signal.detail
            return
        count = active.alert.count + (signal.kind == "pulse")
        active.alert = msgspec.structs.replace(active.alert, count=count, last_at=event.ts, detail=signal.detail)
        yield AlertUpdate(active.alert)

    def _reopen(self, active: _ActiveAlert, event: AnyEvent, camera: str, signal: Signal) -> Iterator[Struct]:
        """The same thing shortly after its end: the same alert, open again, nothing is sent."""
        assert active.alert is not None
        active.state = "open"
        active.alert = msgspec.structs.replace(
            active.alert, count=active.alert.count + 1, last_at=event.ts, detail=signal.detail
        )
        yield AlertUpdate(active.alert, "open")
        yield self._build_change(camera, active, "open", event.ts)

    def _raise_alert(
        self, camera_state: CameraAlertState, rule: AlertRule, active: _ActiveAlert, camera: str, now: float
    ) -> Iterator[Struct]:
        alert = active.alert = AlertDoc(
            id=f"{rule.id}:{active.event}",
            rule=rule.id,
            severity=rule.severity,
            camera=camera,
            subject=active.subject,
            title=rule.title,
            detail=active.detail,
            event=active.event,
            raised_at=now,
            last_at=now,
            count=1,
        )
        yield AlertUpdate(alert, "open")
        yield AlertRaised(
            id=f"{alert.id}:raised",
            camera=camera,
            ts=now,
            alert=alert.id,
            rule=rule.id,
            severity=rule.severity,
            subject=active.subject,
            title=f"{rule.title}: {active.detail}",
        )
        active.tell_at = self._get_notify_time(rule, now)

    def _get_notify_time(self, rule: AlertRule, now: float) -> float:
        if rule.severity == "critical" or not rule.observe_quiet_hours:
            return now
        return find_end(self._alerts.quiet_hours, now, self._timezone)

    def _notify(
        self, camera_state: CameraAlertState, rule: AlertRule, active: _ActiveAlert, now: float
    ) -> Iterator[Struct]:
        active.notified = True
        if now - active.tell_at > self._alerts.max_age_s:
            return
        recent = camera_state.sent[rule.id] = [at for at in camera_state.sent.get(rule.id, []) if now - at < HOUR_S]
        if len(recent) >= rule.max_per_hour:
            camera_state.held[rule.id] = camera_state.held.get(rule.id, 0) + 1
            return
        recent.append(now)
        held = camera_state.held.pop(rule.id, 0)
        note = (
            f"{held} earlier alerts of this rule were not sent: more than {rule.max_per_hour} an hour." if held else ""
        )
        yield from self._build_notifications(rule.channels, active, 0, now, note)

    def _notify_pending(
        self, camera_state: CameraAlertState, rule: AlertRule, active: _ActiveAlert, now: float
    ) -> Iterator[Struct]:
        """What has ended before its turn came is told all the same, but for what quiet hours have held back."""
        if active.alert is not None and not active.notified and active.tell_at == active.alert.raised_at:
            yield from list(self._notify(camera_state, rule, active, now)) or [AlertUpdate(active.alert)]

    def _build_notifications(
        self, channels: list[str], active: _ActiveAlert, stage: int, now: float, note: str
    ) -> Iterator[Notification]:
        alert = active.alert
        assert alert is not None
        configured = self._configured.get(alert.camera)
        for channel in dict.fromkeys(channels):
            yield Notification(
                id=f"{alert.id}:{stage}",
                channel=channel,
                due=now,
                stage=stage,
                alert=alert,
                site=self._site.name,
                camera_title=configured.title if configured else alert.camera,
                note=note,
            )

    # -- time --

    def _advance_alert(
        self, camera_state: CameraAlertState, rule: AlertRule, active: _ActiveAlert, camera: str, now: float
    ) -> Iterator[Struct]:
        if active.alert is None:
            if now - active.ts < rule.min_duration_s:
                return
            if now - active.ts > rule.min_duration_s + self._alerts.max_age_s:
                camera_state.active.remove(active)
                return
            yield from self._raise_alert(camera_state, rule, active, camera, now)
        assert active.alert is not None
        if active.state == "closed":
            yield from self._notify_pending(camera_state, rule, active, now)
            return
        if not active.ongoing and now - active.alert.last_at >= rule.close_after_s:
            yield from self._close(camera, active, now)
            return
        if active.state != "open":
            return
        if not active.notified and now >= active.tell_at:
            effects = list(self._notify(camera_state, rule, active, now))
            # Without a notification there is still a change to store: the alert itself says so.
            yield from effects or [AlertUpdate(active.alert)]
        for stage, step in enumerate(rule.escalate, 1):
            if stage > active.escalated and active.notified and now - active.alert.raised_at >= step.after_s:
                if self._get_notify_time(rule, now) > now:
                    return
                active.escalated = stage
                active.alert = msgspec.structs.replace(active.alert, escalated=stage)
                yield AlertUpdate(active.alert)
                yield self._build_change(camera, active, "open", now, stage)
                note = f"Nobody has acknowledged this for {step.after_s / 60:.0f} min."
                yield from self._build_notifications(step.channels, active, stage, now, note)

    def _close(self, camera: str, active: _ActiveAlert, now: float) -> Iterator[Struct]:
        assert active.alert is not None
        active.state, active.closed_at, active.ongoing = "closed", now, False
        yield AlertUpdate(active.alert, "closed", now)
        yield self._build_change(camera, active, "closed", now)

    def _build_change(
        self, camera: str, active: _ActiveAlert, state: AlertState, now: float, escalated: int = 0
    ) -> AlertChanged:
        assert active.alert is not None
        active.times += 1
        alert = active.alert.id
        return AlertChanged(
            id=f"{alert}:{state}:{active.times}",
            camera=camera,
            ts=now,
            alert=alert,
            rule=active.rule,
            state=state,
            escalated=escalated,
        )

    def _apply_user_change(self, camera_state: CameraAlertState, event: AlertChanged) -> None:
        """A person's answer; the worker's own changes come back as well, and are known already."""
        for active in camera_state.active:
            if event.by and active.alert is not None and active.alert.id == event.alert:
                active.state = event.state
                if event.state == "closed":
                    active.closed_at, active.ongoing = event.ts, False
