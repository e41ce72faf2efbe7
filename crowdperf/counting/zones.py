"""Zone occupancy: how many tracks are inside a polygon.

A confirmed track is inside once its feet (bottom centre) have been there for `settle_s` without a break, and outside in
the same way. A track that is merely unseen stays where it was: somebody who stands still, or behind a pillar, leaves
only when the tracker gives the track up. Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from crowdperf.counting.frame import Moment, Sample
from crowdperf.events.schema import Direction, ZoneChanged
from crowdperf.geometry import Point, contains
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Zone

ROUNDING_S = 1e-6
"""Three frames at 10 frames a second are 0.3 s, whatever binary fractions make of it."""


class ZoneTrack(Struct, array_like=True):
    """One track at one zone."""

    inside: bool = False
    """Counted."""
    klass: int = 0
    """Class under which it was counted."""
    other_since_s: float | None = None
    """Since when its samples contradict `inside`."""


class ZoneCounter:
    """Occupancy of one zone of one camera."""

    def __init__(self, camera: str, zone: Zone) -> None:
        self._camera = camera
        self.zone = zone
        self._classes = frozenset(CLASSES.index(name) for name in zone.classes)
        self._polygon = zone.points()
        self.tracks: dict[int, ZoneTrack] = {}
        self._aspect = 16 / 9

    def set_aspect(self, aspect: float) -> None:
        """The source's width divided by its height."""
        self._aspect = aspect

    @property
    def occupancy(self) -> int:
        """Tracks inside now."""
        return sum(track.inside for track in self.tracks.values())

    def update(self, moment: Moment, samples: Iterable[Sample], ended: Iterable[int]) -> list[ZoneChanged]:
        """Take one frame; returns the changes of occupancy."""
        events: list[ZoneChanged] = []
        started: dict[str, int] = {"in": 0, "out": 0}
        for sample in samples:
            track = self.tracks.get(sample.track)
            if track is None:
                track = self.tracks[sample.track] = ZoneTrack()
            if contains(self._polygon, Point(sample.x / self._aspect, sample.bottom)) == track.inside:
                track.other_since_s = None
                continue
            if track.other_since_s is None:
                track.other_since_s = moment.clock_s
            if not sample.confirmed or moment.clock_s - track.other_since_s < self.zone.settle_s - ROUNDING_S:
                continue
            if not track.inside and sample.klass not in self._classes:
                continue
            if not track.inside:
                track.klass = sample.klass
            track.inside = not track.inside
            track.other_since_s = None
            events.append(self._event(moment, sample.track, track, started))
        for track_id in ended:
            track = self.tracks.pop(track_id, None)
            if track is not None and track.inside:
                track.inside = False
                events.append(self._event(moment, track_id, track, started))
        return events

    def _event(self, moment: Moment, track_id: int, track: ZoneTrack, started: dict[str, int]) -> ZoneChanged:
        change: Direction = "in" if track.inside else "out"
        ordinal, started[change] = started[change], started[change] + 1
        where = f"{self._camera}:{moment.epoch}:{moment.sequence}"
        return ZoneChanged(
            # "zone_" keeps the id apart from that of a line which bears the same name.
            id=f"{where}:{self.zone.id}:zone_{change}:{ordinal}",
            camera=self._camera,
            ts=moment.ts,
            zone=self.zone.id,
            change=change,
            klass=CLASSES[track.klass],
            track=track_id,
            occupancy=self.occupancy,
            epoch=moment.epoch,
            sequence=moment.sequence,
        )
