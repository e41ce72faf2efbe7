"""Alerts of a zone: occupancy above a limit, loitering, and walking the wrong way.

Each alert is opened once and closed once, under one id. Pure: no I/O and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.counting.threshold import Threshold, ThresholdChange
from crowdperf.counting.zones import ZoneCounter, ZoneTrack
from crowdperf.messaging.schema import Alert, ZoneRuleKind
from crowdperf.settings.base import CLASSES

MIN_WRONG_WAY_HEIGHTS = 1.0
"""A person walks the wrong way after this distance against the permitted direction, in heights of the person."""
MIN_OPPOSITE_COSINE = 0.5
"""Cosine of the largest angle, 60 degrees, between a movement and the direction opposite to the permitted one."""


class ZoneAlerts:
    """The alert rules of one zone, evaluated on its counter."""

    def __init__(self, camera: str, counter: ZoneCounter) -> None:
        self._camera = camera
        self._counter = counter
        zone = counter.zone
        self._threshold = None if zone.limit is None else Threshold(zone.limit, zone.limit_clear, zone.limit_s)
        self._aspect = 16 / 9

    def set_aspect(self, aspect: float) -> None:
        """Set the source's width divided by its height."""
        self._aspect = aspect

    def update(self, moment: FrameMoment, samples: Iterable[Sample]) -> list[Alert]:
        """Process one frame, after the counter has processed it."""
        zone = self._counter.zone
        alerts: list[Alert] = []
        if zone.loiter_s is not None or zone.way is not None:
            for track_id, track in self._counter.left_tracks.items():
                alerts += self._close_for_track(moment, track_id, track)
        if zone.loiter_s is not None:
            alerts += self._check_loitering(moment, zone.loiter_s)
        if zone.way is not None:
            alerts += self._check_wrong_way(moment, samples, zone.way)
        if self._threshold is not None:
            alerts += self._check_limit(moment, self._threshold)
        return alerts

    def _check_limit(self, moment: FrameMoment, threshold: Threshold) -> list[Alert]:
        threshold.state = self._counter.state.limit
        occupancy = self._counter.occupancy
        change = threshold.update(occupancy, moment.clock_s)
        if change is None:
            return []
        if change == "opened":
            threshold.open(self._build_id(moment, "occupancy", change, 0), moment.ts, occupancy)
        state = threshold.state
        alert = self._build_alert(
            moment, "occupancy", change, state.alert, state.opened_at, max(state.peak, occupancy), threshold.above
        )
        if change == "closed":
            threshold.close()
        return [alert]

    def _check_loitering(self, moment: FrameMoment, loiter_s: float) -> list[Alert]:
        alerts: list[Alert] = []
        for track_id, track in self._counter.iter_inside():
            stayed_s = moment.clock_s - track.since_s
            if track.loitering or stayed_s <= loiter_s:
                continue
            track.loitering, track.loitering_at = self._build_id(moment, "loitering", "opened", track_id), moment.ts
            alerts.append(self._build_track_alert(moment, "loitering", "opened", track_id, track))
        return alerts

    def _check_wrong_way(self, moment: FrameMoment, samples: Iterable[Sample], way: list[float]) -> list[Alert]:
        alerts: list[Alert] = []
        wx, wy = way[0] * self._aspect, way[1]
        length = math.hypot(wx, wy)
        wx, wy = wx / length, wy / length
        for sample in samples:
            track = self._counter.state.tracks.get(sample.track)
            if track is None or not track.inside or track.wrong_way:
                continue
            dx, dy = track.x - track.best_x, track.y - track.best_y
            along = dx * wx + dy * wy
            if along >= 0:
                track.best_x, track.best_y = track.x, track.y
            elif -along >= MIN_WRONG_WAY_HEIGHTS * sample.height and -along >= MIN_OPPOSITE_COSINE * math.hypot(dx, dy):
                track.wrong_way = self._build_id(moment, "wrong_way", "opened", sample.track)
                track.wrong_way_at = moment.ts
                alerts.append(self._build_track_alert(moment, "wrong_way", "opened", sample.track, track))
        return alerts

    def _close_for_track(self, moment: FrameMoment, track_id: int, track: ZoneTrack) -> list[Alert]:
        """Close the open alerts of a track that has left."""
        rules: tuple[tuple[ZoneRuleKind, str], ...] = (("loitering", track.loitering), ("wrong_way", track.wrong_way))
        alerts = [self._build_track_alert(moment, rule, "closed", track_id, track) for rule, alert in rules if alert]
        track.loitering = track.wrong_way = ""
        return alerts

    def _build_track_alert(
        self, moment: FrameMoment, rule: ZoneRuleKind, state: ThresholdChange, track_id: int, track: ZoneTrack
    ) -> Alert:
        if rule == "loitering":
            alert, opened_at, limit = track.loitering, track.loitering_at, self._counter.zone.loiter_s or 0.0
        else:
            alert, opened_at, limit = track.wrong_way, track.wrong_way_at, 0.0
        stayed_s = max(0.0, moment.clock_s - track.since_s)
        described = self._build_alert(moment, rule, state, alert, opened_at, stayed_s, limit, track_id)
        return replace(described, class_name=CLASSES[track.class_id])

    def _build_id(self, moment: FrameMoment, rule: str, state: str, track: int) -> str:
        return f"{self._camera}:{moment.epoch}:{moment.sequence}:{self._counter.zone.id}:{rule}_{state}:{track}"

    def _build_alert(
        self,
        moment: FrameMoment,
        rule: ZoneRuleKind,
        state: ThresholdChange,
        alert: str,
        opened_at: float,
        value: float,
        limit: float,
        track: int = 0,
    ) -> Alert:
        return Alert(
            id=self._build_id(moment, rule, state, track),
            camera=self._camera,
            ts=moment.ts,
            rule=rule,
            state=state,
            alert=alert,
            zone=self._counter.zone.id,
            value=round(value, 1),
            limit=limit,
            opened_at=opened_at,
            track=track,
            epoch=moment.epoch,
            sequence=moment.sequence,
        )


def close_stale_alert(camera: str, alert: str, moment: FrameMoment) -> Alert:
    """Close an alert whose zone was changed or removed while it was open.

    Args:
        camera: camera id.
        alert: id of the open alert.
        moment: time and number of the frame.

    Returns:
        The closing event.
    """
    zone, opened = alert.split(":")[3:5]
    rule = opened.removesuffix("_opened")
    return Alert(
        id=f"{alert}:closed",
        camera=camera,
        ts=moment.ts,
        rule=msgspec.convert(rule, ZoneRuleKind),
        state="closed",
        alert=alert,
        zone=zone,
        epoch=moment.epoch,
        sequence=moment.sequence,
    )
