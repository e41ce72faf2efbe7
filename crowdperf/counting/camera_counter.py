"""All lines and zones of one camera with one serialised state."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
from msgspec import Struct, field

from crowdperf.counting import zone_alerts
from crowdperf.counting.density import DensityGrid, DensityMinute, DensityState
from crowdperf.counting.lines import LineCounter, LineState
from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.counting.zone_alerts import ZoneAlerts
from crowdperf.counting.zones import ZoneCounter, ZoneState
from crowdperf.messaging.schema import Event, QueueNow
from crowdperf.primitives.digest import compute_digest
from crowdperf.settings.camera import Line, Zone


class CountingState(Struct, array_like=True):
    """The serialised counters, by the digest of their line or zone."""

    lines: dict[str, LineState] = {}
    zones: dict[str, ZoneState] = {}
    density: DensityState = field(default_factory=DensityState)
    stale_alerts: list[str] = []
    """Open alerts of zones that were changed or removed."""


class CameraCounter:
    """The counters of one camera.

    Args:
        camera: camera id.
        lines: lines to count.
        zones: zones to count.
        lost_s: seconds for which a lost track may be continued by a new one.
    """

    def __init__(self, camera: str, lines: tuple[Line, ...], zones: tuple[Zone, ...], lost_s: float) -> None:
        self._camera = camera
        self.lines = [LineCounter(camera, line, lost_s) for line in lines]
        self.zones = [ZoneCounter(camera, zone, lost_s) for zone in zones]
        self._zone_alerts = [ZoneAlerts(camera, counter) for counter in self.zones]
        self._density = DensityGrid()
        self._density_minutes: list[DensityMinute] = []
        self._stale_alerts: list[str] = []
        self._clock_s = 0.0
        self._aspect = 16 / 9

    def set_aspect(self, aspect: float) -> None:
        """Set the source's width divided by its height. Paths before and after a change are not comparable."""
        self._aspect = aspect
        counters: list[LineCounter | ZoneCounter | ZoneAlerts] = [*self.lines, *self.zones, *self._zone_alerts]
        for counter in counters:
            counter.set_aspect(aspect)

    def update(self, moment: FrameMoment, samples: list[Sample], ended: list[int]) -> list[Event]:
        """Process one frame.

        Args:
            moment: time and number of the frame.
            samples: one sample per track.
            ended: ids of tracks that ended.

        Returns:
            The events of all counters.
        """
        events: list[Event] = [
            zone_alerts.close_stale_alert(self._camera, alert, moment) for alert in self._stale_alerts
        ]
        self._stale_alerts = []
        self._clock_s = moment.clock_s
        for line in self.lines:
            events += line.update(moment, samples, ended)
        for zone, rule in zip(self.zones, self._zone_alerts):
            changes = zone.update(moment, samples, ended)
            events += changes
            events += rule.update(moment, samples)
            events += zone.add_to_minute(moment, changes)
        done = self._density.add_frame(moment.clock_s, moment.ts, samples, self._aspect)
        if done is not None:
            self._density_minutes.append(done)
        return events

    def break_paths(self, moment: FrameMoment, settled_s: float) -> tuple[list[Event], float]:
        """Discard all paths at the pause before `moment`.

        Tracks that begin until `settled_s` may have been there before. Returns the crossings that the pause settles,
        and the clock time since when others are discarded (infinity for none).
        """
        events: list[Event] = []
        since_s = math.inf
        for line in self.lines:
            settled, given_up_s = line.break_paths(moment, settled_s)
            events += settled
            since_s = min(since_s, given_up_s)
        return events, since_s

    def has_undecided(self) -> bool:
        """Return whether a track has been on a line since the newest pause, so that a crossing may be missed."""
        return any(line.has_undecided() for line in self.lines)

    def settle_undecided(self) -> None:
        """Assign each track on a line to the side where it is now."""
        for line in self.lines:
            line.settle_undecided()

    def get_occupancy(self) -> dict[str, int]:
        """Return zone id -> tracks inside."""
        return {counter.zone.id: counter.occupancy for counter in self.zones}

    def get_queues(self) -> dict[str, QueueNow]:
        """Return zone id -> length and waiting times, for zones of kind `queue`."""
        return {
            counter.zone.id: counter.get_queue(self._clock_s) for counter in self.zones if counter.zone.kind == "queue"
        }

    def take_density(self) -> list[DensityMinute]:
        """Take the finished minutes of the density grid out of the state."""
        done, self._density_minutes = self._density_minutes, []
        return done

    def get_state(self) -> CountingState:
        """Return the state. Call `take_density` before, and store both together."""
        return CountingState(
            {_compute_digest(counter.line): counter.state for counter in self.lines},
            {_compute_digest(counter.zone): counter.state for counter in self.zones},
            self._density.state,
            self._stale_alerts,
        )

    def restore(self, state: CountingState) -> None:
        """Continue from a state. A changed line or zone starts from zero."""
        for line in self.lines:
            line.state = state.lines.get(_compute_digest(line.line), LineState({}, []))
        for zone in self.zones:
            zone.state = state.zones.get(_compute_digest(zone.zone), ZoneState({}))
        known = {_compute_digest(zone.zone) for zone in self.zones}
        self._stale_alerts = list(state.stale_alerts)
        for digest, gone in state.zones.items():
            if digest not in known:
                self._stale_alerts += _iter_open_alerts(gone)
        self._density.state = state.density


def _iter_open_alerts(state: ZoneState) -> Iterator[str]:
    for alert in (state.limit.alert, *(name for t in state.tracks.values() for name in (t.loitering, t.wrong_way))):
        if alert:
            yield alert


def _compute_digest(shape: Line | Zone) -> str:
    """Hash a line or zone with all of its settings."""
    return compute_digest(msgspec.json.encode(shape), 16)
