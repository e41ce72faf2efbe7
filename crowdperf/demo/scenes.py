"""The two scenes of the demo site: lines and zones as in config.json, and casts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from crowdperf.demo.figures import LOOKS
from crowdperf.demo.outlines import FPS, WIDTH
from crowdperf.demo.script import Actor, Cast, CastingRules, Track, Waypoint, build_track
from crowdperf.settings.base import ClassName
from crowdperf.settings.camera import Line, Zone

DEFAULT_SEED = 7
PERSON_ROWS = (292.0, 508.0)
"""The margin cuts nearer people; farther ones are less than 70 of 360 rows tall."""


class Scene(NamedTuple):
    """The content of one clip."""

    name: str
    number: int
    seconds: int
    has_street: bool
    lines: tuple[Line, ...]
    zones: tuple[Zone, ...]
    make_cast: Callable[[Scene, int], list[Track]]

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return self.seconds * FPS


def _make_look_picker(rng: random.Random) -> Callable[[], int]:
    """Return a function that draws all looks in shuffled order, repeatedly, so that doubles are far apart."""
    waiting: list[int] = []

    def draw() -> int:
        if not waiting:
            waiting.extend(rng.sample(range(len(LOOKS)), len(LOOKS)))
        return waiting.pop()

    return draw


def _make_walker(
    rng: random.Random, number: int, look: int, start_s: float, rows: tuple[float, float], rightwards: bool
) -> Actor:
    """Make a person who walks through the picture."""
    y0 = rng.uniform(*rows)
    y1 = min(max(y0 + rng.uniform(-70, 70), rows[0]), rows[1])
    ends = (-60.0, WIDTH + 60.0)
    a, b = ends if rightwards else ends[::-1]
    way: tuple[Waypoint, ...] = (Waypoint(a, y0), Waypoint(b, y1))
    return Actor(number, "person", look, rng.uniform(0.95, 1.05), start_s, rng.uniform(1.25, 1.55), way)


def _make_visitor(
    rng: random.Random, number: int, look: int, start_s: float, rows: tuple[float, float], places: Sequence[Waypoint]
) -> Actor:
    """Make a person who walks to a place, stops there, and walks on or back."""
    place = rng.choice(list(places))
    a = rng.choice((-60.0, WIDTH + 60.0))
    back = a if rng.random() < 0.5 else WIDTH - a
    y0, y1 = (min(max(place.y + rng.uniform(-50, 50), rows[0]), rows[1]) for _ in range(2))
    stop = Waypoint(place.x + rng.uniform(-25, 25), place.y + rng.uniform(-12, 12), rng.uniform(3, 7))
    way = (Waypoint(a, y0), stop, Waypoint(back, y1))
    return Actor(number, "person", look, rng.uniform(0.95, 1.05), start_s, rng.uniform(1.25, 1.5), way)


def _make_bus(number: int, paint: int, start_s: float, rightwards: bool) -> Actor:
    """Make a bus on its side of the street."""
    y = 190.0 if rightwards else 173.0
    ends = (-220.0, WIDTH + 220.0) if rightwards else (WIDTH + 220.0, -220.0)
    return Actor(number, "bus", paint, 1.0, start_s, 5.5, (Waypoint(ends[0], y), Waypoint(ends[1], y)))


def _cast_sparse(scene: Scene, seed: int) -> list[Track]:
    """Cast one to four people at a time, and a bus about every ten seconds."""
    rng = random.Random(f"{scene.name} {seed}")
    looks = _make_look_picker(rng)
    cast = Cast(
        scene.lines, scene.frames, CastingRules(min_visible_s=1.4, max_covered_share=0.1, min_gap_s=1.5, min_gap_px=400)
    )
    for index, (due_s, rightwards) in enumerate(((4, True), (13, False), (27, True), (38, False), (50, True))):
        cast.try_add(_make_bus(index + 1, index % 4, due_s + rng.uniform(0, 1.5), rightwards))
    places = (Waypoint(480, 380), Waypoint(520, 450), Waypoint(430, 340))
    start_s, number = 2.0, 101
    while start_s < 55:
        for _ in range(60):
            if rng.random() < 0.3:
                actor = _make_visitor(rng, number, looks(), start_s, PERSON_ROWS, places)
            else:
                actor = _make_walker(rng, number, looks(), start_s, PERSON_ROWS, number % 2 == 1)
            if leaves_before_end(actor, scene) and cast.try_add(actor):
                number += 1
                break
        start_s += rng.uniform(2.6, 4.4)
    return cast.tracks


def _cast_dense(scene: Scene, seed: int) -> list[Track]:
    """Cast a forecourt where some people stay and a stream passes in both directions."""
    rng = random.Random(f"{scene.name} {seed}")
    looks = _make_look_picker(rng)
    cast = Cast(
        scene.lines,
        scene.frames,
        CastingRules(min_visible_s=0.9, max_covered_share=0.25, min_gap_s=0.6, min_gap_px=60, min_standing_gap_px=45),
    )
    for number, (x, y, faces_left) in enumerate(LINGERERS):
        stay = (Waypoint(x, y, float(scene.seconds + 1)),)
        cast.try_add(Actor(number + 1, "person", looks(), rng.uniform(0.96, 1.04), 0.0, 1.0, stay, faces_left))
    places = (Waypoint(150, 330), Waypoint(480, 330), Waypoint(500, 400), Waypoint(840, 340))
    number, rows = 101, (300.0, PERSON_ROWS[1])
    for _ in range(6000):
        start_s = rng.uniform(1.5, scene.seconds - 11)
        if rng.random() < 0.15:
            actor = _make_visitor(rng, number, looks(), start_s, rows, places)
        else:
            actor = _make_walker(rng, number, looks(), start_s, rows, number % 2 == 1)
        if leaves_before_end(actor, scene) and cast.try_add(actor):
            number += 1
        if number > 101 + 62:
            break
    return cast.tracks


LINGERERS = (
    (70, 262, False),
    (222, 270, True),
    (405, 252, False),
    (572, 258, True),
    (617, 250, True),
    (912, 268, True),
)
"""People who stay on the forecourt, away from the lines and the stops of visitors: x, y, faces left."""


def leaves_before_end(actor: Actor, scene: Scene) -> bool:
    """Return whether the actor is gone a second before the clip ends, so that the clip can loop."""
    whole = build_track(actor, 10 * scene.frames)
    return whole.first + len(whole.walked) < scene.frames - FPS


PEOPLE: list[ClassName] = ["person"]
VEHICLES: list[ClassName] = ["bicycle", "car", "motorcycle", "bus", "truck"]

SPARSE = Scene(
    name="demo_sparse",
    number=1,
    seconds=72,
    has_street=True,
    lines=(
        Line(id="west", name="West side", p1=[0.26, 0.975], p2=[0.32, 0.46], classes=PEOPLE),
        Line(id="east", name="East side", p1=[0.68, 0.46], p2=[0.74, 0.975], classes=PEOPLE),
        Line(id="street", name="Street", p1=[0.5, 0.41], p2=[0.5, 0.25], classes=VEHICLES),
    ),
    zones=(Zone(id="square", name="Square", polygon=[[0.32, 0.5], [0.68, 0.5], [0.74, 0.97], [0.26, 0.97]], limit=3),),
    make_cast=_cast_sparse,
)
DENSE = Scene(
    name="demo_dense",
    number=2,
    seconds=72,
    has_street=False,
    lines=(
        Line(id="gate", name="Gate", p1=[0.31, 0.975], p2=[0.35, 0.44], classes=PEOPLE),
        Line(id="passage", name="Passage", p1=[0.7, 0.44], p2=[0.74, 0.975], classes=PEOPLE),
    ),
    zones=(
        Zone(
            id="forecourt",
            name="Forecourt",
            polygon=[[0.36, 0.43], [0.69, 0.43], [0.73, 0.97], [0.32, 0.97]],
            limit=8,
        ),
        Zone(id="corner", name="Corner", polygon=[[0.02, 0.43], [0.33, 0.43], [0.3, 0.7], [0.02, 0.7]], limit=5),
    ),
    make_cast=_cast_dense,
)
SCENES = {scene.name: scene for scene in (SPARSE, DENSE)}
