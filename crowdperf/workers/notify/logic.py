"""Alert rules: which alerts are raised, notified, escalated and closed. Pure: time comes from events or `advance_time`.

The condition of a rule (a zone over its limit, a lost camera) begins and ends. An alert about an instant (a crossing)
closes by itself. All alerts of a camera are in that camera's state, so cameras can be split over instances.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from crowdperf.messaging.schema import Alert, AlertChanged, AlertRaised, AnyEvent, Event, PpeObserved
from crowdperf.settings.alerts import AlertRule, MqttChannel
from crowdperf.settings.schedule import Schedule
from crowdperf.settings.worker_config import NotifyConfig
from crowdperf.storage.alerts import AlertDoc, AlertState, AlertUpdate, AlertView
from crowdperf.workers.notify.matching import INSTANTS, RULE_EVENT_TYPES, Signal, match_event
from crowdperf.workers.notify.mqtt_state import READING_EVENT_TYPES, CameraReadings, ReadingsRemoved
from crowdperf.workers.worker_logic import WorkerEvent, WorkerLogic, decode_state

VERSION = 1
HOUR_S = 3600.0
MAX_REFS_PER_ALERT = 1000
"""Maximum number of conditions that hold one alert open."""
MAX_ACTIVE_ALERTS = 2000
"""Open and recently closed alerts of one camera. Beyond it the oldest are dropped, closed ones first."""


class Notification(Struct, frozen=True, kw_only=True):
    """An alert for one channel."""

    id: str
    """The same at each attempt: receivers use it to drop duplicates."""
    channel: str
    due: float
    """Earliest time of delivery, Unix seconds."""
    stage: int
    """0 for the alert itself, n for its n-th escalation."""
    alert: AlertDoc
    site: str
    camera_title: str
    note: str = ""


class _ActiveAlert(Struct, kw_only=True):
    """One rule and subject of a camera, from its first signal until it is dropped."""

    rule: str
    subject: str
    event: str
    ts: float
    detail: str
    ongoing: bool
    """True while the condition holds; always False for an instant."""
    refs: list[str] = []
    """Ids of the conditions that hold it open. It ends with the last one."""
    alert: AlertDoc | None = None
    """None while the condition is younger than `min_duration_s`."""
    state: AlertState = "open"
    notified: bool = False
    tell_at: float = 0.0
    escalated: int = 0
    closed_at: float = 0.0
    times: int = 0
    """Number of state changes, part of their event ids."""


class CameraAlertState(Struct, kw_only=True):
    """The stored state of one camera."""

    version: int = VERSION
    active: list[_ActiveAlert] = []
    sent: dict[str, list[float]] = {}
    """Rule -> times of its notifications within the last hour."""
    held: dict[str, int] = {}
    """Rule -> number of alerts without a notification because of the rate limit."""
    readings: CameraReadings = msgspec.field(default_factory=CameraReadings)


class AlertLogic(WorkerLogic):
    """The alert rules of all cameras."""

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

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """Return the event's camera, or an empty key for an area: any camera may cause its events."""
        return ("" if isinstance(event, Alert) and event.area else event.camera,)

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterator[Struct]:
        """Process one event; yield AlertRaised, AlertChanged, AlertUpdate, Notification and Reading."""
        assert not isinstance(event, PpeObserved)
        (camera,) = self.partition_keys(event)
        camera_state = self._cameras.setdefault(camera, CameraAlertState())
        if isinstance(event, AlertChanged):
            _apply_user_change(camera_state, event)
            return
        if self._publishes_readings:
            yield from camera_state.readings.update(event, self._timezone)
        for rule in self._rules.values():
            signal = match_event(rule, event, self._configured.get(event.camera))
            if signal is not None:
                yield from self._handle_signal(camera_state, rule, event, camera, signal)

    def advance_time(self, camera: str, now: float) -> Iterable[Struct]:
        """Run what is due: conditions that lasted, ended quiet hours, escalations and closings."""
        camera_state = self._cameras.get(camera)
        if camera_state is None:
            return []
        effects: list[Struct] = list(camera_state.readings.advance_time(camera, now, self._timezone))
        for active in list(camera_state.active):
            rule = self._rules.get(active.rule)
            if rule is None:
                # The rule was removed or disabled: close its alerts.
                effects += _close(active, now)
                camera_state.active.remove(active)
                continue
            effects += self._advance_alert(camera_state, rule, active, camera, now)
            if active.state == "closed" and now - active.closed_at >= rule.dedupe_s:
                camera_state.active.remove(active)
        return effects

    def dump_state(self, camera: str) -> bytes:
        return msgspec.msgpack.encode(self._cameras[camera])

    def restore(self, camera: str, state: bytes) -> None:
        camera_state = self._cameras[camera] = decode_state(state, CameraAlertState, VERSION)
        camera_state.sent = {rule: sent for rule, sent in camera_state.sent.items() if rule in self._rules}
        camera_state.held = {rule: held for rule, held in camera_state.held.items() if rule in self._rules}

    def rebuild(self, camera: str, documents: Sequence[Struct]) -> None:
        """Begin with the camera's alerts that are not closed; what is not notified by now stays so."""
        views = [row for row in documents if isinstance(row, AlertView) and row.alert.camera == camera]
        self._cameras[camera] = CameraAlertState(active=[self._rebuild_alert(view) for view in views])

    def _rebuild_alert(self, view: AlertView) -> _ActiveAlert:
        alert, rule = view.alert, self._rules.get(view.alert.rule)
        return _ActiveAlert(
            rule=alert.rule,
            subject=alert.subject,
            event=alert.event,
            ts=alert.raised_at,
            detail=alert.detail,
            ongoing=rule is not None and rule.event not in INSTANTS,
            alert=alert,
            state=view.state,
            notified=True,
            tell_at=alert.raised_at,
            escalated=alert.escalated,
            # Larger than any number of changes before, so that no id comes twice.
            times=int(alert.last_at),
        )

    def is_configured(self, camera: str) -> bool:
        """Return whether the camera is configured. The partition without a camera always is."""
        return not camera or camera in self._configured

    def forget(self, camera: str, now: float) -> Iterator[Struct]:
        """Close the open alerts of a removed camera."""
        camera_state = self._cameras.pop(camera, CameraAlertState())
        for active in camera_state.active:
            yield from _close(active, now)
        yield ReadingsRemoved(camera)

    def clear(self) -> None:
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
                yield from _close(active, event.ts)
            return
        if active is not None and (active.alert is None or active.state != "closed"):
            yield from _count_repeat(active, event, signal)
            return
        if not Schedule(rule.schedule, self._timezone).is_active(event.ts):
            return
        if active is not None and event.ts - active.closed_at < rule.dedupe_s:
            active.ongoing, active.refs = signal.kind == "start", [signal.ref]
            yield from _reopen(active, event, signal)
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
        if len(camera_state.active) >= MAX_ACTIVE_ALERTS:
            oldest = min(camera_state.active, key=lambda row: (row.state != "closed", row.ts))
            yield from _close(oldest, event.ts)
            camera_state.active.remove(oldest)
        camera_state.active.append(active)
        if signal.kind == "pulse" or rule.min_duration_s == 0:
            yield from self._raise_alert(rule, active, camera, event.ts)

    def _raise_alert(self, rule: AlertRule, active: _ActiveAlert, camera: str, now: float) -> Iterator[Struct]:
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
        return Schedule(self._alerts.quiet_hours, self._timezone).find_end(now)

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
        """Notify an alert that ended too early, except during quiet hours."""
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
            yield from self._raise_alert(rule, active, camera, now)
        assert active.alert is not None
        if active.state == "closed":
            yield from self._notify_pending(camera_state, rule, active, now)
            return
        if not active.ongoing and now - active.alert.last_at >= rule.close_after_s:
            yield from _close(active, now)
            return
        if active.state != "open":
            return
        if not active.notified and now >= active.tell_at:
            effects = list(self._notify(camera_state, rule, active, now))
            # Without a notification the state has still changed: an AlertUpdate stores it.
            yield from effects or [AlertUpdate(active.alert)]
        for stage, step in enumerate(rule.escalate, 1):
            if stage > active.escalated and active.notified and now - active.alert.raised_at >= step.after_s:
                if self._get_notify_time(rule, now) > now:
                    return
                active.escalated = stage
                active.alert = replace(active.alert, escalated=stage)
                yield AlertUpdate(active.alert)
                yield _build_change(active, "open", now, stage)
                note = f"Not acknowledged for {step.after_s / 60:.0f} min."
                yield from self._build_notifications(step.channels, active, stage, now, note)


def _count_repeat(active: _ActiveAlert, event: AnyEvent, signal: Signal) -> Iterator[Struct]:
    """Count a repetition while the alert is open, without a new notification."""
    if signal.kind == "start" and signal.ref not in active.refs:
        active.refs = [*active.refs, signal.ref][-MAX_REFS_PER_ALERT:]
        active.ongoing = True
    if active.alert is None:
        active.detail = signal.detail
        return
    count = active.alert.count + (signal.kind == "pulse")
    active.alert = replace(active.alert, count=count, last_at=event.ts, detail=signal.detail)
    yield AlertUpdate(active.alert)


def _reopen(active: _ActiveAlert, event: AnyEvent, signal: Signal) -> Iterator[Struct]:
    """Open the same alert again shortly after its end, without a new notification."""
    assert active.alert is not None
    active.state = "open"
    active.alert = replace(active.alert, count=active.alert.count + 1, last_at=event.ts, detail=signal.detail)
    yield AlertUpdate(active.alert, "open")
    yield _build_change(active, "open", event.ts)


def _close(active: _ActiveAlert, now: float) -> Iterator[Struct]:
    """Close an alert that was raised and is not closed yet."""
    if active.alert is not None and active.state != "closed":
        active.state, active.closed_at, active.ongoing = "closed", now, False
        yield AlertUpdate(active.alert, "closed", now)
        yield _build_change(active, "closed", now)


def _build_change(active: _ActiveAlert, state: AlertState, now: float, escalated: int = 0) -> AlertChanged:
    alert = active.alert
    assert alert is not None
    active.times += 1
    event_id = f"{alert.id}:{state}:{active.times}"
    return AlertChanged(
        id=event_id, camera=alert.camera, ts=now, alert=alert.id, rule=active.rule, state=state, escalated=escalated
    )


def _apply_user_change(camera_state: CameraAlertState, event: AlertChanged) -> None:
    """Apply a user's answer. The worker's own changes return too and are ignored."""
    for active in camera_state.active:
        if event.by and active.alert is not None and active.alert.id == event.alert:
            active.state = event.state
            if event.state == "closed":
                active.closed_at, active.ongoing = event.ts, False
