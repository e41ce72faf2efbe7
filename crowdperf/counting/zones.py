"""Zone occupancy: which tracks are inside a polygon, for how long, and the figures of each minute.

* A confirmed track is inside once its feet (bottom centre) have been there for `settle_s` without a break, and outside
  in the same way.
* An unseen track stays where it was, for instance behind a pillar. It leaves when the tracker ends it.
* A track that begins inside, where another one was just lost, continues that stay. A changed id therefore makes neither
  two people nor two short stays.

Pure: no I/O and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.counting.threshold import ROUNDING_TOLERANCE_S, ThresholdState
from crowdperf.geometry import Point, contains
from crowdperf.messaging.schema import Direction, QueueNow, ZoneChanged, ZoneMinute
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Zone

REJOIN_DISTANCE = 0.5
REJOIN_DISTANCE_PER_S = 0.5
"""Maximum distance between a lost track and its continuation, in shares of its height, and its growth per second."""
MAX_FEET_Y = 1 - 1e-6
MINUTE_S = 60
MAX_STEP_S = 5.0
"""A longer pause between two frames is not counted as observed."""
SERVED_MEAN_WEIGHT = 0.2
"""Weight of the newest waiting time in the running mean."""


class ZoneTrack(Struct, array_like=True):
    """The state of one track at one zone."""

    inside: bool = False
    """True while it is counted."""
    class_id: int = 0
    """The class under which it was counted."""
    other_since_s: float | None = None
    """Clock time since when its samples contradict `inside`."""
    since_s: float = 0.0
    """Clock time of its first sample inside."""
    seen_s: float = 0.0
    x: float = 0.0
    y: float = 0.0
    """Position of the newest sample, picture heights."""
    born_s: float = 0.0
    born_x: float = 0.0
    born_y: float = 0.0
    """Position of the first sample."""
    loitering: str = ""
    """Id of the open loitering alert."""
    loitering_at: float = 0.0
    wrong_way: str = ""
    """Id of the open wrong way alert."""
    wrong_way_at: float = 0.0
    best_x: float = 0.0
    best_y: float = 0.0
    """The position inside that is farthest along the permitted direction."""


class MinuteTally(Struct, array_like=True):
    """The current minute."""

    minute: int = 0
    """Minutes since 1970."""
    entries: int = 0
    exits: int = 0
    maximum: int = 0
    person_s: float = 0.0
    observed_s: float = 0.0
    dwells: list[float] = field(default_factory=list)


class ZoneState(Struct, array_like=True):
    """The serialised state of a zone counter."""

    tracks: dict[int, ZoneTrack] = {}
    limit: ThresholdState = field(default_factory=ThresholdState)
    tally: MinuteTally = field(default_factory=MinuteTally)
    clock_s: float | None = None
    served_s: float = 0.0


class ZoneCounter:
    """The occupancy counter of one zone of one camera.

    Args:
        camera: camera id.
        zone: zone to count.
        memory_s: seconds for which a lost track may be continued by a new one.
    """

    def __init__(self, camera: str, zone: Zone, memory_s: float) -> None:
        self._camera = camera
        self.zone = zone
        self._classes = frozenset(CLASSES.index(name) for name in zone.classes)
        self._polygon = zone.get_points()
        self._memory_s = memory_s
        self.state = ZoneState({})
        self.left_tracks: dict[int, ZoneTrack] = {}
        """Tracks that left in the newest frame."""
        self._aspect = 16 / 9

    def set_aspect(self, aspect: float) -> None:
        """Set the source's width divided by its height."""
        self._aspect = aspect

    @property
    def occupancy(self) -> int:
        """Return the number of tracks inside."""
        return sum(track.inside for track in self.state.tracks.values())

    def iter_inside(self) -> Iterator[tuple[int, ZoneTrack]]:
        """Iterate over id and state of every track inside."""
        return ((track_id, track) for track_id, track in self.state.tracks.items() if track.inside)

    def get_queue(self, clock_s: float) -> QueueNow:
        """Return length and waiting times of the queue."""
        waits = [clock_s - track.since_s for _, track in self.iter_inside()]
        waiting = [wait for wait in waits if wait >= self.zone.queue_after_s]
        return QueueNow(len(waiting), round(max(waiting, default=0.0), 1), round(self.state.served_s, 1))

    def update(self, moment: FrameMoment, samples: Iterable[Sample], ended: Iterable[int]) -> list[ZoneChanged]:
        """Process one frame.

        Args:
            moment: time and number of the frame.
            samples: one sample per track.
            ended: ids of tracks that ended.

        Returns:
            The changes of occupancy.
        """
        events: list[ZoneChanged] = []
        started: dict[str, int] = {"in": 0, "out": 0}
        tracks = self.state.tracks
        self.left_tracks = {}
        for sample in samples:
            track = tracks.get(sample.track)
            if track is None:
                track = ZoneTrack(born_s=moment.clock_s, born_x=sample.x, born_y=sample.bottom)
                tracks[sample.track] = track
            track.seen_s, track.x, track.y = moment.clock_s, sample.x, sample.bottom
            # Feet below the lower edge of the picture count as on it, inside a zone that reaches it.
            feet = Point(sample.x / self._aspect, min(sample.bottom, MAX_FEET_Y))
            if contains(self._polygon, feet) == track.inside:
                track.other_since_s = None
                continue
            if track.other_since_s is None:
                track.other_since_s = moment.clock_s
            if not sample.confirmed or moment.clock_s - track.other_since_s < self.zone.settle_s - ROUNDING_TOLERANCE_S:
                continue
            if track.inside:
                events.append(self._leave(moment, sample.track, track, track.other_since_s, started))
            elif sample.class_id in self._classes and not self._continue_stay(sample, track):
                track.class_id, track.since_s = sample.class_id, track.other_since_s
                track.inside, track.best_x, track.best_y = True, sample.x, sample.bottom
                events.append(self._build_event(moment, sample.track, track, started))
            track.other_since_s = None
        for track_id in ended:
            track = tracks.get(track_id)
            if track is not None and track.inside:
                events.append(self._leave(moment, track_id, track, track.seen_s, started))
            tracks.pop(track_id, None)
        return events

    def add_to_minute(self, moment: FrameMoment, changes: Iterable[ZoneChanged]) -> list[ZoneMinute]:
        """Count the frame of the last `update`, with its changes, and return the minute that it ends.

        The first frame of a minute closes the previous one, so a camera that stops closes its minute when it resumes.
        A minute in which the zone was empty gives no event.
        """
        state, occupancy = self.state, self.occupancy
        done: list[ZoneMinute] = []
        minute = int(moment.ts // MINUTE_S)
        if minute != state.tally.minute:
            # Tracks inside at the previous frame were inside at the start of this minute too.
            before = state.tally
            carried = occupancy - sum(1 if change.change == "in" else -1 for change in changes)
            if before.maximum or before.entries or before.exits:
                done.append(self._build_minute(before, carried, moment))
            state.tally = MinuteTally(minute=minute, maximum=carried)
        tally = state.tally
        if state.clock_s is not None and moment.clock_s - state.clock_s <= MAX_STEP_S:
            tally.observed_s += moment.clock_s - state.clock_s
            tally.person_s += occupancy * (moment.clock_s - state.clock_s)
        state.clock_s = moment.clock_s
        tally.maximum = max(tally.maximum, occupancy)
        for change in changes:
            tally.maximum = max(tally.maximum, change.occupancy)
            if change.change == "in":
                tally.entries += 1
            else:
                tally.exits += 1
                tally.dwells.append(round(change.dwell_s, 1))
        return done

    def _build_minute(self, tally: MinuteTally, occupancy: int, moment: FrameMoment) -> ZoneMinute:
        return ZoneMinute(
            id=f"{self._camera}:{self.zone.id}:minute:{tally.minute}",
            camera=self._camera,
            ts=float(tally.minute * MINUTE_S),
            zone=self.zone.id,
            occupancy=occupancy,
            maximum=tally.maximum,
            mean=round(tally.person_s / tally.observed_s, 3) if tally.observed_s else float(occupancy),
            observed_s=round(tally.observed_s, 1),
            entries=tally.entries,
            exits=tally.exits,
            dwells=",".join(f"{dwell:g}" for dwell in tally.dwells),
            longest_wait_s=self.get_queue(moment.clock_s).longest_s if self.zone.kind == "queue" else 0.0,
        )

    def _continue_stay(self, sample: Sample, track: ZoneTrack) -> bool:
        """Continue the stay of a track that was lost where this one began. Return whether there is one."""
        if track.other_since_s != track.born_s:
            return False
        best, nearest = 0, math.inf
        for other_id, other in self.iter_inside():
            gap_s = track.born_s - other.seen_s
            if not 0 < gap_s <= self._memory_s:
                continue
            away = math.hypot(other.x - track.born_x, other.y - track.born_y)
            if away <= (REJOIN_DISTANCE + REJOIN_DISTANCE_PER_S * gap_s) * sample.height and away < nearest:
                best, nearest = other_id, away
        if not best:
            return False
        lost = self.state.tracks.pop(best)
        lost.seen_s, lost.x, lost.y, lost.other_since_s = track.seen_s, track.x, track.y, None
        self.state.tracks[sample.track] = lost
        return True

    def _leave(
        self, moment: FrameMoment, track_id: int, track: ZoneTrack, until_s: float, started: dict[str, int]
    ) -> ZoneChanged:
        track.inside = False
        self.left_tracks[track_id] = track
        dwell_s = max(0.0, until_s - track.since_s)
        if dwell_s >= self.zone.queue_after_s:
            served = self.state.served_s
            self.state.served_s = served + SERVED_MEAN_WEIGHT * (dwell_s - served) if served else dwell_s
        return self._build_event(moment, track_id, track, started, dwell_s)

    def _build_event(
        self, moment: FrameMoment, track_id: int, track: ZoneTrack, started: dict[str, int], dwell_s: float = 0.0
    ) -> ZoneChanged:
        change: Direction = "in" if track.inside else "out"
        ordinal, started[change] = started[change], started[change] + 1
        where = f"{self._camera}:{moment.epoch}:{moment.sequence}"
        return ZoneChanged(
            # "zone_" keeps the id distinct from that of a line with the same id.
            id=f"{where}:{self.zone.id}:zone_{change}:{ordinal}",
            camera=self._camera,
            ts=moment.ts,
            zone=self.zone.id,
            change=change,
            class_name=CLASSES[track.class_id],
            track=track_id,
            occupancy=self.occupancy,
            epoch=moment.epoch,
            sequence=moment.sequence,
            dwell_s=round(dwell_s, 3),
        )
