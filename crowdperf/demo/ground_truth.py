"""Ground truth of a scene, from its script and sprites alone, never from a detector.

A person or bus is at the bottom centre of its visible extent, as for a perfect detector's box. A crossing is the first
frame on the far side; `in` leads to the positive side of cross(p2 - p1, q - p1), y down.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from crowdperf.demo.outlines import FPS, HEIGHT, WIDTH
from crowdperf.demo.stage import Stage
from crowdperf.geometry import Point, Segment, contains, cross, intersects
from crowdperf.settings.camera import Line, Zone

RENDERER_VERSION = 2
"""Raised when the same seed gives other pictures or another truth."""


class SceneCrossing(Struct, frozen=True, kw_only=True):
    """One crossing of one line."""

    time_s: float
    """Seconds from the clip's first frame."""
    frame: int
    line: str
    direction: Literal["in", "out"]
    class_name: str = msgspec.field(name="class")
    object: int


class SceneTruth(Struct, frozen=True, kw_only=True):
    """The content of `<scene>.truth.json`."""

    scene: str
    number: int
    """Number of the scene in the barcode."""
    seed: int
    renderer: int
    fps: int
    frames: int
    width: int
    height: int
    lines: tuple[Line, ...]
    zones: tuple[Zone, ...]
    crossings: tuple[SceneCrossing, ...]
    """Sorted by time."""
    occupancy: dict[str, list[int]]
    """Zone id -> number inside at second 0, 1, 2, ..."""
    objects: dict[str, int]
    """Class -> number of different objects."""


def find_anchors(stage: Stage) -> list[dict[int, Point]]:
    """Return per frame: object id -> bottom centre of its visible part, normalised."""
    found = []
    for frame in range(stage.scene.frames):
        here = {}
        for one in stage.place_actors(frame):
            if one.box:
                x, y = one.box.bottom_centre
                here[one.track.actor.id] = Point(x / WIDTH, y / HEIGHT)
        found.append(here)
    return found


def compute_truth(stage: Stage, seed: int) -> SceneTruth:
    """Compute the truth of a scene."""
    scene = stage.scene
    kinds: dict[int, str] = {track.actor.id: track.actor.kind for track in stage.tracks}
    places = find_anchors(stage)
    crossings = []
    for frame in range(1, scene.frames):
        for number, now in sorted(places[frame].items()):
            before = places[frame - 1].get(number)
            if before is None:
                continue
            for line in scene.lines:
                p1, p2 = line.get_vertices()
                inwards = cross(p1, p2, now) > 0
                if kinds[number] not in line.classes or inwards == (cross(p1, p2, before) > 0):
                    continue
                if intersects(Segment(p1, p2), Segment(before, now)):
                    crossings.append(
                        SceneCrossing(
                            time_s=frame / FPS,
                            frame=frame,
                            line=line.id,
                            direction="in" if inwards else "out",
                            class_name=kinds[number],
                            object=number,
                        )
                    )
    return SceneTruth(
        scene=scene.name,
        number=scene.number,
        seed=seed,
        renderer=RENDERER_VERSION,
        fps=FPS,
        frames=scene.frames,
        width=WIDTH,
        height=HEIGHT,
        lines=scene.lines,
        zones=scene.zones,
        crossings=tuple(crossings),
        occupancy={zone.id: _count_occupancy(zone, places, kinds) for zone in scene.zones},
        objects={kind: sum(other == kind for other in kinds.values()) for kind in sorted(set(kinds.values()))},
    )


def _count_occupancy(zone: Zone, places: list[dict[int, Point]], kinds: dict[int, str]) -> list[int]:
    polygon = zone.get_points()
    return [
        sum(kinds[number] in zone.classes and contains(polygon, place) for number, place in places[frame].items())
        for frame in range(0, len(places), FPS)
    ]


def encode_truth(truth: SceneTruth) -> bytes:
    """Encode as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(truth), indent=1) + b"\n"


def decode_truth(text: bytes) -> SceneTruth:
    """Decode a truth file, or raise msgspec.DecodeError."""
    return msgspec.json.decode(text, type=SceneTruth)
