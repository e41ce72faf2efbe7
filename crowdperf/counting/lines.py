"""Line counters: who walked over a line, which way, and when.

The rules, each the answer to a known way of counting wrongly:

* A sample inside the dead band along the line decides nothing. A crossing lies between two samples outside it, whose
  path between them meets the line itself, bends included: walking past its end is no crossing.
* A crossing is pending until a second sample on the far side, or the end of the track there; a return cancels it. It
  carries the moment of its first sample beyond the line.
* Only confirmed tracks count; what a track did before it was confirmed counts as soon as it is.
* The same way again within the cooldown is the same crossing.
* A track that begins, or comes back, where another one has just vanished goes on with that one's side and crossings,
  and must leave a wider band: a car that stands on the line while its id changes is counted once.
* No path goes on across a pause. A crossing that was sampled on the far side is settled by it as by the end of a track.
  What is given up before the pause, and who is in the band after it, decide how far the camera's gap reaches.

Pure: no I/O and no clock. All positions are in picture heights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct, field

from crowdperf.counting.polyline import Polyline
from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.messaging.schema import Direction, LineCrossed
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Line

REJOIN_DISTANCE = 0.5
"""A new track this close (share of its height) to where another vanished near the line is the same object."""
JITTER_BAND = 0.06
"""Minimum half-width of the dead band, as a share of the object's height: the jitter of a standing person's box."""
MAX_UNSEEN_SPEED = 1.0
"""Maximum speed of an unseen person, in heights per second."""
INHERITED_BAND = 0.25
"""Half-width of the dead band for such a track, as a share of its height."""
NEVER = float("-inf")


class TrackCrossing(Struct, frozen=True, array_like=True):
    """A step over the line: to which side, when, and its ordinal among those of its frame to that side."""

    side: int
    moment: FrameMoment
    ordinal: int


class LineTrack(Struct, array_like=True):
    """The state of one track at one line."""

    placed: bool = False
    """True after a sample outside the band."""
    net: int = 0
    """Crossings since that sample, those to the positive side less those to the negative one."""
    steps: list[TrackCrossing | None] = field(default_factory=lambda: [None, None])
    """The last of them to the negative and to the positive side."""
    seen_s: float = NEVER
    last_x: float = 0.0
    last_y: float = 0.0
    """The newest sample, in the band or not."""
    class_id: int = 0
    confirmed: bool = False
    inherited: bool = False
    pending: TrackCrossing | None = None
    """Waits for a second sample outside the band."""
    settled: list[TrackCrossing] = field(default_factory=list)
    """Crossings with a second far sample whose track is not confirmed yet."""
    counted_s: list[float] = field(default_factory=lambda: [NEVER, NEVER])
    """When it last crossed to the negative and to the positive side."""
    height: float = 0.0
    """The newest sample's."""
    undecided: bool = False
    """True for a track whose path contains a pause and that has been in the band since. Its origin side is unknown."""


class LineState(Struct, array_like=True):
    """The serialised state of a line counter."""

    tracks: dict[int, LineTrack] = {}
    vanished: list[LineTrack] = []
    clock_s: float = NEVER
    """The newest frame's."""
    resumed_s: float = NEVER
    """The first frame after the newest pause."""
    settled_s: float = NEVER
    """Tracks that begin until then may have been there during that pause."""


class LineCounter:
    """The counter of one line of one camera.

    Args:
        camera: camera id.
        line: line to count.
        memory_s: seconds for which a vanished track may be continued by a new one.
    """

    def __init__(self, camera: str, line: Line, memory_s: float) -> None:
        self._camera = camera
        self.line = line
        self._classes = frozenset(CLASSES.index(name) for name in line.classes)
        self._memory_s = memory_s + line.cooldown_s
        self._in = 1 if line.in_side == "positive" else -1
        self._centre = line.anchor == "centre"
        self.state = LineState({}, [])
        self._steps = [0, 0]
        """Steps over the line in the newest frame, to the negative and to the positive side."""
        self.set_aspect(16 / 9)

    def set_aspect(self, aspect: float) -> None:
        """Set the source's width divided by its height."""
        self._polyline = Polyline(self.line.get_vertices(), aspect)

    def update(self, moment: FrameMoment, samples: Iterable[Sample], ended: Iterable[int]) -> list[LineCrossed]:
        """Process one frame.

        Args:
            moment: time and number of the frame.
            samples: one sample per track.
            ended: ids of tracks that ended.

        Returns:
            The crossings that became certain, in the order of `samples`, then of `ended`.
        """
        events: list[LineCrossed] = []
        self._follow(moment, samples)
        tracks = self.state.tracks
        for sample in samples:
            track = tracks[sample.track]
            share = INHERITED_BAND if track.inherited else JITTER_BAND
            if self._polyline.distance(track.last_x, track.last_y) <= max(self.line.hysteresis, share * sample.height):
                continue
            self._settle(track)
            if track.settled and track.confirmed:
                events += self._count(sample.track, track)
        for track_id in ended:
            events += self._end(track_id)
        self._forget_vanished(moment.clock_s)
        return events

    def break_paths(self, moment: FrameMoment, settled_s: float) -> tuple[list[LineCrossed], float]:
        """Discard all paths at the pause before `moment`: the direction of tracks in it is unknown.

        Tracks that begin until `settled_s` are taken for those that were there before. Returns the crossings that the
        pause settles, and the clock time since when others that had begun are discarded (infinity for none).
        """
        state = self.state
        events: list[LineCrossed] = []
        since_s = math.inf
        for track_id, track in state.tracks.items():
            # Beyond the line, in the band or past it, with one sample outside the band.
            if track.pending is not None and not track.net:
                track.settled.append(track.pending)
                track.pending = None
            if track.confirmed:
                events += self._count(track_id, track)
            since_s = min(since_s, self._given_up(track))
            track.placed = track.inherited = False
            track.net, track.steps, track.pending = 0, [None, None], None
            track.undecided = True
        state.vanished.clear()
        state.resumed_s, state.settled_s = moment.clock_s, settled_s
        return events, since_s

    def _given_up(self, track: LineTrack) -> float:
        """Return the clock time of a crossing that the pause discards, or may discard; infinity without one."""
        if track.class_id not in self._classes:
            return math.inf
        begun = [*track.settled, *((track.pending, *track.steps) if track.net else ())]
        times = [crossing.moment.clock_s for crossing in begun if crossing is not None]
        unseen_s = self.state.clock_s - track.seen_s
        if unseen_s > 0 and track.confirmed and track.placed:
            away = self._polyline.distance(track.last_x, track.last_y)
            if away <= (REJOIN_DISTANCE + MAX_UNSEEN_SPEED * unseen_s) * track.height:
                times.append(track.seen_s)
        return min(times, default=math.inf)

    def has_undecided(self) -> bool:
        """Return whether a track is in the band since the newest pause, so that a crossing may be missed."""
        resumed_s = self.state.resumed_s
        return any(
            track.undecided and track.seen_s >= resumed_s and track.class_id in self._classes
            for track in self.state.tracks.values()
        )

    def settle_undecided(self) -> None:
        """Assign each track in the band to the side where it is now. Later crossings count."""
        for track in self.state.tracks.values():
            if track.undecided:
                track.undecided = False
                track.placed = track.seen_s >= self.state.resumed_s
                track.net, track.steps = 0, [None, None]

    def _follow(self, moment: FrameMoment, samples: Iterable[Sample]) -> None:
        """Advance each track by one step, and join tracks of the same object."""
        tracks = self.state.tracks
        self._steps = [0, 0]
        newborn: list[Sample] = []
        returned: list[Sample] = []
        for sample in samples:
            y = sample.centre if self._centre else sample.bottom
            track = tracks.get(sample.track)
            if track is None:
                newborn.append(sample)
                track = tracks[sample.track] = LineTrack(undecided=moment.clock_s <= self.state.settled_s)
            else:
                if track.seen_s < self.state.clock_s:
                    returned.append(sample)
                if track.placed:
                    self._step(track, moment, track.last_x, track.last_y, sample.x, y)
            track.seen_s, track.last_x, track.last_y = moment.clock_s, sample.x, y
            track.class_id, track.confirmed, track.height = sample.class_id, sample.confirmed, sample.height
        if newborn:
            self._take_over(newborn, moment, moment.clock_s - self._memory_s)
        if returned:
            # Only from a track that was in the previous frame and was just counted: both are one object.
            self._take_over(returned, moment, self.state.clock_s, moment.clock_s - self._memory_s)
        self.state.clock_s = moment.clock_s

    def _step(self, track: LineTrack, moment: FrameMoment, x0: float, y0: float, x1: float, y1: float) -> None:
        """Add a step from one point to another to the track's path."""
        net = self._polyline.count_crossings(x0, y0, x1, y1)
        if net:
            way = net > 0
            track.net += net
            track.steps[way] = TrackCrossing(1 if way else -1, moment, self._steps[way])
            self._steps[way] += 1

    def _settle(self, track: LineTrack) -> None:
        """Evaluate the path of a track since its last sample outside the band."""
        pending, net, track.net = track.pending, track.net, 0
        step, track.steps = track.steps[net > 0], [None, None]
        track.placed, track.inherited, track.undecided = True, False, False
        if not net:
            if pending is not None:
                track.settled.append(pending)
                track.pending = None
            return
        if pending is not None:
            track.pending = None
            if step is None or pending.side != step.side:
                return
            track.settled.append(pending)
        track.pending = step

    def _count(self, track_id: int, track: LineTrack) -> list[LineCrossed]:
        """Build events of the settled crossings, without those within the cooldown or of other classes."""
        settled, track.settled = track.settled, []
        events: list[LineCrossed] = []
        for crossing in settled:
            way = (crossing.side + 1) // 2
            previous, track.counted_s[way] = track.counted_s[way], crossing.moment.clock_s
            if crossing.moment.clock_s - previous < self.line.cooldown_s or track.class_id not in self._classes:
                continue
            direction: Direction = "in" if crossing.side == self._in else "out"
            moment = crossing.moment
            where = f"{self._camera}:{moment.epoch}:{moment.sequence}"
            events.append(
                LineCrossed(
                    id=f"{where}:{self.line.id}:{direction}:{crossing.ordinal}",
                    camera=self._camera,
                    ts=moment.ts,
                    line=self.line.id,
                    direction=direction,
                    class_name=CLASSES[track.class_id],
                    track=track_id,
                    epoch=moment.epoch,
                    sequence=moment.sequence,
                )
            )
        return events

    def _end(self, track_id: int) -> list[LineCrossed]:
        track = self.state.tracks.pop(track_id, None)
        if track is None or not track.confirmed:
            return []
        if track.pending is not None:
            track.settled.append(track.pending)
            track.pending = None
        events = self._count(track_id, track)
        self.state.vanished.append(track)
        return events

    def _take_over(
        self, samples: list[Sample], moment: FrameMoment, since_s: float, counted_since_s: float = NEVER
    ) -> None:
        """Give each of these tracks the history of the track that vanished there last.

        Only tracks last seen since `since_s`, whose last crossing, where it matters, is not before `counted_since_s`.
        """
        absent = [
            track
            for track in (*self.state.tracks.values(), *self.state.vanished)
            if track.confirmed
            and track.placed
            and since_s <= track.seen_s < moment.clock_s
            and max(track.counted_s) >= counted_since_s
        ]
        for sample in samples:
            track = self.state.tracks[sample.track]
            reach = REJOIN_DISTANCE * sample.height
            if not absent or self._polyline.distance(track.last_x, track.last_y) > 2 * reach:
                continue
            near = [other for other in absent if _distance(other, track) <= reach]
            if not near:
                continue
            # The one seen last: it has continued any earlier track here.
            previous = max(near, key=lambda other: other.seen_s)
            absent = [other for other in absent if other is not previous]
            self.state.vanished = [other for other in self.state.vanished if other is not previous]
            track.placed, track.net, track.steps = True, previous.net, list(previous.steps)
            self._step(track, moment, previous.last_x, previous.last_y, track.last_x, track.last_y)
            track.counted_s = list(previous.counted_s)
            track.inherited, track.undecided = True, False

    def _forget_vanished(self, clock_s: float) -> None:
        if self.state.vanished:
            oldest = clock_s - self._memory_s
            self.state.vanished = [track for track in self.state.vanished if track.seen_s >= oldest]


def _distance(first: LineTrack, second: LineTrack) -> float:
    return math.hypot(first.last_x - second.last_x, first.last_y - second.last_y)
