"""What a zone warns of: too many people, somebody who stays too long, somebody who walks the wrong way.

Each alert is opened once and closed once, under one id. Pure: no I/O and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from crowdperf.counting.frame import Moment, Sample
from crowdperf.counting.limits import Change, Limit
from crowdperf.counting.zones import ZoneCounter, ZoneTrack
from crowdperf.events.schema import Alert, Rule
from crowdperf.settings.base import CLASSES

ASTRAY = 1.0
"""Whoever comes back this far (in its own heights) against the permitted way walks the wrong way."""
OPPOSITE = 0.5
"""Cosine: a movement counts as against the way within 60 degrees of straight back."""


class ZoneRules:
    """The rules of one zone, over its counter."""

    def __init__(self, camera: str, counter: ZoneCounter) -> None:
        self._camera = camera
        self._counter = counter
        zone = counter.zone
        self._limit = None if zone.limit is None else Limit(zone.limit, zone.limit_clear, zone.limit_s)
        self._aspect = 16 / 9

    def set_aspect(self, aspect: float) -> None:
        """The source's width divided by its height."""
        self._aspect = aspect

    def update(self, moment: Moment, samples: Iterable[Sample]) -> list[Alert]:
        """Take one frame, after the counter has taken it."""
        zone = self._counter.zone
        alerts: list[Alert] = []
        if zone.loiter_s is not None or zone.way is not None:
            for track_id, track in self._counter.left.items():
                alerts += self._release(moment, track_id, track)
        if zone.loiter_s is not None:
            alerts += self._loitering(moment, zone.loiter_s)
        if zone.way is not None:
            alerts += self._astray(moment, samples, zone.way)
        if self._limit is not None:
            alerts += self._crowded(moment, self._limit)
        return alerts

    def _crowded(self, moment: Moment, limit: Limit) -> list[Alert]:
        limit.state = self._counter.state.limit
        occupancy = self._counter.occupancy
        change = limit.update(occupancy, moment.clock_s)
        if change is None:
            return []
        if change == "opened":
            limit.open(self._id(moment, "occupancy", change, 0), moment.ts, occupancy)
        state = limit.state
        alert = self._alert(
            moment, "occupancy", change, state.alert, state.opened_at, max(state.peak, occupancy), limit.above
        )
        if change == "closed":
            limit.close()
        return [alert]

    def _loitering(self, moment: Moment, loiter_s: float) -> list[Alert]:
        alerts: list[Alert] = []
        for track_id, track in self._counter.inside():
            stayed_s = moment.clock_s - track.since_s
            if track.loitering or stayed_s <= loiter_s:
                continue
            track.loitering, track.alert_at = self._id(moment, "loitering", "opened", track_id), moment.ts
            alerts.append(
                self._alert(
                    moment, "loitering", "opened", track.loitering, moment.ts, stayed_s, loiter_s, track_id, track.klass
                )
            )
        return alerts

    def _astray(self, moment: Moment, samples: Iterable[Sample], way: list[float]) -> list[Alert]:
        alerts: list[Alert] = []
        wx, wy = way[0] * self._aspect, way[1]
        length = math.hypot(wx, wy)
        wx, wy = wx / length, wy / length
        for sample in samples:
            track = self._counter.state.tracks.get(sample.track)
            if track is None or not track.inside or track.astray:
                continue
            dx, dy = track.x - track.best_x, track.y - track.best_y
            along = dx * wx + dy * wy
            if along >= 0:
                track.best_x, track.best_y = track.x, track.y
            elif -along >= ASTRAY * sample.height and -along >= OPPOSITE * math.hypot(dx, dy):
                track.astray, track.astray_at = self._id(moment, "wrong_way", "opened", sample.track), moment.ts
                stayed_s = moment.clock_s - track.since_s
                alerts.append(
                    self._alert(
                        moment, "wrong_way", "opened", track.astray, moment.ts, stayed_s, 0.0, sample.track, track.klass
                    )
                )
        return alerts

    def _release(self, moment: Moment, track_id: int, track: ZoneTrack) -> list[Alert]:
        """Close what is open of a track that has left."""
        stayed_s = max(0.0, moment.clock_s - track.since_s)
        alerts: list[Alert] = []
        if track.loitering:
            alerts.append(
                self._alert(
                    moment,
                    "loitering",
                    "closed",
                    track.loitering,
                    track.alert_at,
                    stayed_s,
                    self._counter.zone.loiter_s or 0.0,
                    track_id,
                    track.klass,
                )
            )
        if track.astray:
            alerts.append(
                self._alert(
                    moment, "wrong_way", "closed", track.astray, track.astray_at, stayed_s, 0.0, track_id, track.klass
                )
            )
        track.loitering = track.astray = ""
        return alerts

    def _id(self, moment: Moment, rule: str, state: str, track: int) -> str:
        return f"{self._camera}:{moment.epoch}:{moment.sequence}:{self._counter.zone.id}:{rule}_{state}:{track}"

    def _alert(
        self,
        moment: Moment,
        rule: Rule,
        state: Change,
        alert: str,
        opened_at: float,
        value: float,
        limit: float,
        track: int = 0,
        klass: int | None = None,
    ) -> Alert:
        return Alert(
            id=self._id(moment, rule, state, track),
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
            klass="" if klass is None else CLASSES[klass],
            epoch=moment.epoch,
            sequence=moment.sequence,
        )


def closed(camera: str, alert: str, moment: Moment) -> Alert:
    """The end of an alert whose zone was changed or removed while it was open."""
    zone, opened = alert.split(":")[3:5]
    rule = opened.removesuffix("_opened")
    return Alert(
        id=f"{alert}:closed",
        camera=camera,
        ts=moment.ts,
        rule=msgspec.convert(rule, Rule),
        state="closed",
        alert=alert,
        zone=zone,
        epoch=moment.epoch,
        sequence=moment.sequence,
    )
