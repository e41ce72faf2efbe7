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

from crowdperf.events.schema import Alert, AlertChanged, AlertRaised, AnyEvent, Event, PpeObserved
from crowdperf.rule_slices import NotifySlice
from crowdperf.settings.alerts import AlertRule, MqttChannel
from crowdperf.settings.schedule import allowed, end_of
from crowdperf.storage.alerts import AlertDoc, AlertSet, State
from crowdperf.workers.logic import Taken
from crowdperf.workers.notify.matching import KINDS, Signal, signal
from crowdperf.workers.notify.readings import READ, CameraReadings, ReadingsGone

VERSION = 1
HOUR_S = 3600.0
MOST_REFS = 1000
"""What may hold one alert open at once."""
MOST_ACTIVE = 2000
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


class _Active(Struct, kw_only=True):
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
    state: State = "open"
    notified: bool = False
    tell_at: float = 0.0
    escalated: int = 0
    closed_at: float = 0.0
    times: int = 0
    """State changes so far: part of their events' ids."""


class CameraState(Struct, kw_only=True):
    """What is stored per camera."""

    version: int = VERSION
    active: list[_Active] = []
    sent: dict[str, list[float]] = {}
    """Rule -> when it notified within the last hour."""
    held: dict[str, int] = {}
    """Rule -> alerts that were not told because of the rate limit."""
    readings: CameraReadings = msgspec.field(default_factory=CameraReadings)


class AlertLogic:
    """The notify worker's rules, of all cameras."""

    def __init__(self, slice_: NotifySlice) -> None:
        self._site = slice_.site
        self._zone = zoneinfo.ZoneInfo(slice_.site.timezone)
        self._alerts = slice_.alerts
        self._rules = {rule.id: rule for rule in slice_.alerts.rules if rule.enabled}
        self._configured = {camera.camera_id: camera for camera in slice_.cameras}
        self._cameras: dict[str, CameraState] = {}
        self._with_readings = any(isinstance(channel, MqttChannel) for channel in slice_.alerts.channels)
        named = {rule.event for rule in self._rules.values()} | (set(READ) if self._with_readings else set())
        self.wants: tuple[type[Event], ...] = (AlertChanged, *(kind for kind in KINDS if kind.__name__ in named))

    # -- the worker's interface (workers.base.Logic) --

    def parts(self, event: Taken) -> tuple[str, ...]:
        """The camera; what is said of an area comes from whichever camera saw the cause, and belongs to none."""
        return ("" if isinstance(event, Alert) and event.area else event.camera,)

    def handle(self, event: Taken, part: str = "") -> Iterator[Struct]:
        """Take one event; yields AlertRaised, AlertChanged, AlertSet, Notification and Reading."""
        assert not isinstance(event, PpeObserved)
        (camera,) = self.parts(event)
        own = self._cameras.setdefault(camera, CameraState())
        if isinstance(event, AlertChanged):
            self._answered(own, event)
            return
        if self._with_readings:
            yield from own.readings.take(event, self._zone)
        for rule in self._rules.values():
            found = signal(rule, event, self._configured.get(event.camera))
            if found is not None:
                yield from self._on_signal(own, rule, event, camera, found)

    def due(self, camera: str, now: float) -> Iterable[Struct]:
        """What has become due: conditions that lasted, quiet hours that ended, escalations, ends."""
        own = self._cameras.get(camera)
        if own is None:
            return []
        effects: list[Struct] = list(own.readings.pass_time(camera, now, self._zone))
        for active in list(own.active):
            rule = self._rules.get(active.rule)
            if rule is None:
                # The rule is gone, or switched off: what it has opened must not stay open for ever.
                effects += self._close(camera, active, now) if active.alert and active.state != "closed" else []
                own.active.remove(active)
                continue
            effects += self._due(own, rule, active, camera, now)
            if active.state == "closed" and now - active.closed_at >= rule.dedupe_s:
                own.active.remove(active)
        return effects

    def state(self, camera: str) -> bytes:
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
        own = self._cameras[camera] = msgspec.convert(raw, CameraState)
        own.sent = {rule: sent for rule, sent in own.sent.items() if rule in self._rules}
        own.held = {rule: held for rule, held in own.held.items() if rule in self._rules}

    def keeps(self, camera: str) -> bool:
        """Whether the camera is configured; what is about no camera always is."""
        return not camera or camera in self._configured

    def forget(self, camera: str, now: float) -> Iterator[Struct]:
        """What a camera that is gone has opened must not stay open for ever."""
        own = self._cameras.pop(camera, CameraState())
        for active in own.active:
            if active.alert and active.state != "closed":
                yield from self._close(camera, active, now)
        yield ReadingsGone(camera)

    def clear(self) -> None:
        """Forget every camera."""
        self._cameras.clear()

    # -- signals --

    def _on_signal(
        self, own: CameraState, rule: AlertRule, event: AnyEvent, camera: str, found: Signal
    ) -> Iterator[Struct]:
        active = next((row for row in own.active if (row.rule, row.subject) == (rule.id, found.subject)), None)
        if found.kind == "end":
            if active is not None and active.ongoing:
                active.refs = [ref for ref in active.refs if ref != found.ref]
                if active.refs:
                    return
                active.ongoing = False
                if active.alert is None:
                    own.active.remove(active)
                elif active.state != "closed":
                    yield from self._close(camera, active, event.ts)
            return
        if active is not None and (active.alert is None or active.state != "closed"):
            yield from self._again(active, event, found)
            return
        if not allowed(rule.schedule, event.ts, self._zone):
            return
        if active is not None and event.ts - active.closed_at < rule.dedupe_s:
            active.ongoing, active.refs = found.kind == "start", [found.ref]
            yield from self._reopen(active, event, camera, found)
            return
        if active is not None:
            yield from self._tell_what_waits(own, rule, active, event.ts)
            own.active.remove(active)
        active = _Active(
            rule=rule.id,
            subject=found.subject,
            event=event.id,
            ts=event.ts,
            detail=found.detail,
            ongoing=found.kind == "start",
            refs=[found.ref],
        )
        yield from self._make_room(own, camera, event.ts)
        own.active.append(active)
        if found.kind == "pulse" or rule.min_duration_s == 0:
            yield from self._raise(own, rule, active, camera, event.ts)

    def _make_room(self, own: CameraState, camera: str, now: float) -> Iterator[Struct]:
        if len(own.active) < MOST_ACTIVE:
            return
        oldest = min(own.active, key=lambda row: (row.state != "closed", row.ts))
        if oldest.alert and oldest.state != "closed":
            yield from self._close(camera, oldest, now)
        own.active.remove(oldest)

    def _again(self, active: _Active, event: AnyEvent, found: Signal) -> Iterator[Struct]:
        """The same thing while it is open: counted, not told again."""
        if found.kind == "start" and found.ref not in active.refs:
            active.refs = [*active.refs, found.ref][-MOST_REFS:]
            active.ongoing = True
        if active.alert is None:
            active.detail = found.detail
            return
        count = active.alert.count + (found.kind == "pulse")
        active.alert = msgspec.structs.replace(active.alert, count=count, last_at=event.ts, detail=found.detail)
        yield AlertSet(active.alert)

    def _reopen(self, active: _Active, event: AnyEvent, camera: str, found: Signal) -> Iterator[Struct]:
        """The same thing shortly after its end: the same alert, open again, nothing is sent."""
        assert active.alert is not None
        active.state = "open"
        active.alert = msgspec.structs.replace(
            active.alert, count=active.alert.count + 1, last_at=event.ts, detail=found.detail
        )
        yield AlertSet(active.alert, "open")
        yield self._changed(camera, active, "open", event.ts)

    def _raise(self, own: CameraState, rule: AlertRule, active: _Active, camera: str, now: float) -> Iterator[Struct]:
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
        yield AlertSet(alert, "open")
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
        active.tell_at = self._tell_at(rule, now)

    def _tell_at(self, rule: AlertRule, now: float) -> float:
        if rule.severity == "critical" or not rule.observe_quiet_hours:
            return now
        return end_of(self._alerts.quiet_hours, now, self._zone)

    def _tell(self, own: CameraState, rule: AlertRule, active: _Active, now: float) -> Iterator[Struct]:
        active.notified = True
        if now - active.tell_at > self._alerts.max_age_s:
            return
        recent = own.sent[rule.id] = [at for at in own.sent.get(rule.id, []) if now - at < HOUR_S]
        if len(recent) >= rule.max_per_hour:
            own.held[rule.id] = own.held.get(rule.id, 0) + 1
            return
        recent.append(now)
        held = own.held.pop(rule.id, 0)
        note = (
            f"{held} earlier alerts of this rule were not sent: more than {rule.max_per_hour} an hour." if held else ""
        )
        yield from self._notifications(rule.channels, active, 0, now, note)

    def _tell_what_waits(self, own: CameraState, rule: AlertRule, active: _Active, now: float) -> Iterator[Struct]:
        """What has ended before its turn came is told all the same, but for what quiet hours have held back."""
        if active.alert is not None and not active.notified and active.tell_at == active.alert.raised_at:
            yield from list(self._tell(own, rule, active, now)) or [AlertSet(active.alert)]

    def _notifications(
        self, channels: list[str], active: _Active, stage: int, now: float, note: str
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

    def _due(self, own: CameraState, rule: AlertRule, active: _Active, camera: str, now: float) -> Iterator[Struct]:
        if active.alert is None:
            if now - active.ts < rule.min_duration_s:
                return
            if now - active.ts > rule.min_duration_s + self._alerts.max_age_s:
                own.active.remove(active)
                return
            yield from self._raise(own, rule, active, camera, now)
        assert active.alert is not None
        if active.state == "closed":
            yield from self._tell_what_waits(own, rule, active, now)
            return
        if not active.ongoing and now - active.alert.last_at >= rule.close_after_s:
            yield from self._close(camera, active, now)
            return
        if active.state != "open":
            return
        if not active.notified and now >= active.tell_at:
            effects = list(self._tell(own, rule, active, now))
            # Without a notification there is still a change to store: the alert itself says so.
            yield from effects or [AlertSet(active.alert)]
        for stage, step in enumerate(rule.escalate, 1):
            if stage > active.escalated and active.notified and now - active.alert.raised_at >= step.after_s:
                if self._tell_at(rule, now) > now:
                    return
                active.escalated = stage
                active.alert = msgspec.structs.replace(active.alert, escalated=stage)
                yield AlertSet(active.alert)
                yield self._changed(camera, active, "open", now, stage)
                note = f"Nobody has acknowledged this for {step.after_s / 60:.0f} min."
                yield from self._notifications(step.channels, active, stage, now, note)

    def _close(self, camera: str, active: _Active, now: float) -> Iterator[Struct]:
        assert active.alert is not None
        active.state, active.closed_at, active.ongoing = "closed", now, False
        yield AlertSet(active.alert, "closed", now)
        yield self._changed(camera, active, "closed", now)

    def _changed(self, camera: str, active: _Active, state: State, now: float, escalated: int = 0) -> AlertChanged:
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

    def _answered(self, own: CameraState, event: AlertChanged) -> None:
        """A person's answer; the worker's own changes come back as well, and are known already."""
        for active in own.active:
            if event.by and active.alert is not None and active.alert.id == event.alert:
                active.state = event.state
                if event.state == "closed":
                    active.closed_at, active.ongoing = event.ts, False
