"""Scripts of the actors: who walks where and when. Pure: a seed decides everything.

An actor follows way points at a steady pace with pauses. Its position is known for every frame, so that picture and
truth come from one script. Random candidates are accepted only if everyone near a line stays visible, because no
counter can count what the camera cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.demo.outlines import BUS_M, FPS, HEIGHT, PERSON_M, WIDTH, compute_distance, compute_pixels_per_metre
from crowdperf.geometry import Box, Point, Segment, cross, intersects
from crowdperf.settings.camera import Line

STEP_M = 0.78
POINTS_PER_LEG = 40
"""A leg is cut into pieces: the metres per pixel change along the way."""


class Waypoint(NamedTuple):
    """A way point in pixels, and the pause there in seconds."""

    x: float
    y: float
    pause_s: float = 0.0


class Actor(NamedTuple):
    """One person or bus."""

    id: int
    kind: Literal["person", "bus"]
    look: int
    size: float
    """Height relative to others of the same kind."""
    start_s: float
    pace: float
    """Metres per second."""
    waypoints: tuple[Waypoint, ...]
    faces_left: bool = False
    """Direction of an actor who never moves."""


class Track(NamedTuple):
    """An actor's script by frame, from its start to its end."""

    actor: Actor
    first: int
    """Frame of row 0."""
    ground: NDArray[np.float64]
    """Shape (n, 2): pixel under the figure's axis."""
    walked: NDArray[np.float64]
    """Shape (n,): metres walked."""
    left: NDArray[np.bool_]
    """Shape (n,): True where it faces left."""

    def compute_height(self, row: int) -> float:
        """Return the pixels from the ground to the top at a row."""
        metres = PERSON_M if self.actor.kind == "person" else BUS_M
        return metres * self.actor.size * compute_pixels_per_metre(float(self.ground[row, 1]))

    def find_row(self, frame: int) -> int | None:
        """Return the row of a frame, None where the actor is absent."""
        row = frame - self.first
        return row if 0 <= row < len(self.walked) else None

    def estimate_box(self, row: int) -> Box:
        """Estimate the extent of the actor in pixels."""
        (x, y), height = self.ground[row], self.compute_height(row)
        half = height * (0.17 if self.actor.kind == "person" else 1.2)
        return Box(x - half, y - height, x + half, y)

    def compute_covered_share(self, row: int, others: Sequence[Track]) -> float:
        """Compute the largest share (0..1) of the actor's box that is behind one nearer actor's box."""
        x1, y1, x2, y2 = self.estimate_box(row)
        worst = 0.0
        for other in others:
            there = other.find_row(self.first + row)
            if there is None or other.ground[there, 1] < self.ground[row, 1]:
                continue
            a1, b1, a2, b2 = other.estimate_box(there)
            overlap = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            worst = max(worst, overlap / ((x2 - x1) * (y2 - y1)))
        return worst


class ScriptedCrossing(NamedTuple):
    """An actor's axis passes a line."""

    frame: int
    line: str
    inwards: bool


def build_track(actor: Actor, frames: int) -> Track:
    """Build the script of one actor, cut to the clip."""
    points = [
        (a.x + (b.x - a.x) * i / POINTS_PER_LEG, a.y + (b.y - a.y) * i / POINTS_PER_LEG)
        for a, b in pairwise(actor.waypoints)
        for i in range(POINTS_PER_LEG)
    ]
    points.append((actor.waypoints[-1].x, actor.waypoints[-1].y))
    metres = list(accumulate((compute_distance(a, b) for a, b in pairwise(points)), initial=0.0))
    clock, previous, known_t, known_m = 0.0, 0.0, [], []
    for reached, waypoint in zip(metres[::POINTS_PER_LEG], actor.waypoints):
        clock += (reached - previous) / actor.pace
        known_t += [clock, clock + waypoint.pause_s]
        known_m += [reached, reached]
        clock += waypoint.pause_s
        previous = reached
    first = max(0, round(actor.start_s * FPS))
    count = max(0, min(frames - first, int(clock * FPS) + 1))
    walked = np.interp(np.arange(count) / FPS, known_t, known_m)
    way = np.array(points)
    ground = np.stack([np.interp(walked, metres, way[:, axis]) for axis in (0, 1)], axis=1)
    left = np.empty(count, np.bool_)
    facing = actor.faces_left if len(points) < 2 else points[1][0] < points[0][0]
    for row in range(count):
        step = ground[row, 0] - ground[row - 1, 0] if row else 0.0
        facing = bool(step < 0) if abs(step) > 0.05 else facing
        left[row] = facing
    return Track(actor, first, ground, walked, left)


def find_crossings(script: Track, lines: Sequence[Line]) -> list[ScriptedCrossing]:
    """Find the crossings of the lines that count this kind, sorted by time."""
    found = []
    for line in lines:
        if script.actor.kind not in line.classes:
            continue
        p1, p2 = line.get_vertices()
        places = [Point(x / WIDTH, y / HEIGHT) for x, y in script.ground]
        for row in range(1, len(places)):
            before, now = cross(p1, p2, places[row - 1]), cross(p1, p2, places[row])
            if (before > 0) != (now > 0) and intersects(Segment(p1, p2), Segment(places[row - 1], places[row])):
                found.append(ScriptedCrossing(script.first + row, line.id, now > 0))
    return sorted(found)


class CastingRules(NamedTuple):
    """Conditions for accepting a candidate."""

    min_visible_s: float
    """A person who crosses a line is visible this long before and after."""
    max_covered_share: float
    """Maximum covered share of the person meanwhile."""
    min_gap_s: float
    """Two crossings of one line with a smaller gap in time ..."""
    min_gap_px: float
    """... are at least this many pixels apart."""
    min_standing_gap_px: float = 0.0
    """Minimum horizontal distance between two people who stand at the same time."""


class Cast:
    """The accepted actors of a scene.

    Args:
        lines: lines of the scene.
        frames: frames of the clip.
        rules: conditions for accepting an actor.
    """

    def __init__(self, lines: Sequence[Line], frames: int, rules: CastingRules) -> None:
        self.lines, self.frames, self.rules = lines, frames, rules
        self.tracks: list[Track] = []
        self._crossings: list[list[ScriptedCrossing]] = []
        self._standing: list[dict[int, float]] = []

    def try_add(self, actor: Actor) -> bool:
        """Add the actor if it and all others stay visible at the lines; return whether it was added."""
        script = build_track(actor, self.frames)
        mine = find_crossings(script, self.lines)
        if actor.kind == "person":
            if any(self._is_crowded(script, moment) for moment in mine) or self._stands_before_another(script):
                return False
            if self._is_hidden(script, mine, self.tracks):
                return False
            for other, theirs in zip(self.tracks, self._crossings):
                if other.actor.kind == "person" and self._is_hidden(other, theirs, [script]):
                    return False
        self.tracks.append(script)
        self._crossings.append(mine)
        self._standing.append(find_standing_frames(script))
        return True

    def _is_hidden(self, script: Track, crossings: list[ScriptedCrossing], others: Sequence[Track]) -> bool:
        reach = round(self.rules.min_visible_s * FPS)
        for moment in crossings:
            for frame in range(moment.frame - reach, moment.frame + reach + 1):
                row = script.find_row(frame)
                if row is not None and script.compute_covered_share(row, others) > self.rules.max_covered_share:
                    return True
        return False

    def _is_crowded(self, script: Track, crossing: ScriptedCrossing) -> bool:
        """Return whether another actor crosses the same line at nearly the same time and place."""
        row = script.find_row(crossing.frame)
        for other, theirs in zip(self.tracks, self._crossings):
            for one in theirs:
                there = other.find_row(one.frame)
                if one.line != crossing.line or row is None or there is None:
                    continue
                near = abs(float(other.ground[there, 1] - script.ground[row, 1])) < self.rules.min_gap_px
                if near and abs(one.frame - crossing.frame) < self.rules.min_gap_s * FPS:
                    return True
        return False

    def _stands_before_another(self, script: Track) -> bool:
        """Return whether two actors would hide each other while both stand."""
        return any(
            frame in theirs and abs(theirs[frame] - x) < self.rules.min_standing_gap_px
            for frame, x in find_standing_frames(script).items()
            for theirs in self._standing
        )


def find_standing_frames(script: Track) -> dict[int, float]:
    """Return frame -> x of the frames in which the actor does not walk."""
    still = np.flatnonzero(np.diff(script.walked) < 0.01)
    return {script.first + int(row): float(script.ground[row, 0]) for row in still}
