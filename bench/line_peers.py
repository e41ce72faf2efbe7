"""How others count lines: supervision's LineZone and Ultralytics' ObjectCounter, on the tracks of `YOLO.track`."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from crowdperf.demo.outlines import FPS
from crowdperf.evaluation.matching import Passage
from crowdperf.settings.camera import Line

Counter = Callable[[Any, int], list[Passage]]
"""Takes the result of a frame and its number; returns what has crossed."""
PACKAGES = {"line_zone": "supervision", "object_counter": "shapely"}


def make_counter(kind: str, lines: Sequence[Line], size: tuple[int, int], weights: Path) -> Counter | None:
    """Return a counter of one camera's lines; None where its package is not installed.

    Args:
        kind: a key of `PACKAGES`.
        lines: of the camera.
        size: width and height of its pictures.
        weights: that ObjectCounter is made with. It never runs them.
    """
    if importlib.util.find_spec(PACKAGES[kind]) is None:
        return None
    return _line_zones(lines, size) if kind == "line_zone" else _object_counters(lines, size, weights)


def _line_zones(lines: Sequence[Line], size: tuple[int, int]) -> Counter:
    import supervision

    def make(line: Line) -> Any:
        start, end = (supervision.Point(x * size[0], y * size[1]) for x, y in (line.p1, line.p2))
        anchor = supervision.Position.CENTER if line.anchor == "centre" else supervision.Position.BOTTOM_CENTER
        # What it calls `in` is the other side.
        return supervision.LineZone(end, start, triggering_anchors=[anchor])

    zones = [(line, make(line)) for line in lines]

    def count(result: Any, frame: int) -> list[Passage]:
        seen = supervision.Detections.from_ultralytics(result)
        if seen.tracker_id is None or seen.class_id is None:
            return []
        found = []
        for line, zone in zones:
            inwards, outwards = zone.trigger(seen[[result.names[kind] in line.classes for kind in seen.class_id]])
            ways = ["in"] * int(inwards.sum()) + ["out"] * int(outwards.sum())
            found += [Passage(frame / FPS, line.id, way) for way in ways]
        return found

    return count


def _object_counters(lines: Sequence[Line], size: tuple[int, int], weights: Path) -> Counter:
    from ultralytics.solutions import ObjectCounter

    whole = ObjectCounter(model=str(weights), show=False, verbose=False)
    counters = []
    for line in lines:
        one = copy.copy(whole)
        one.region = [(x * size[0], y * size[1]) for x, y in (line.p1, line.p2)]
        one.initialize_region()
        one.track_history, one.counted_ids = type(whole.track_history)(list), set()
        one.classwise_count = copy.deepcopy(whole.classwise_count)
        counters.append((line, one))

    def count(result: Any, frame: int) -> list[Passage]:
        found: list[Passage] = []
        for line, one in counters:
            for track, kind, box in _tracks(result):
                if result.names[kind] not in line.classes:
                    continue
                history, before = one.track_history[track], (one.in_count, one.out_count)
                one.store_tracking_history(track, box)
                one.count_objects(history[-1], track, history[-2] if len(history) > 1 else None, kind)
                forwards, back = one.in_count - before[0], one.out_count - before[1]
                found += [Passage(frame / FPS, line.id, name_direction(line, size, bool(forwards)))] * (forwards + back)
        return found

    return count


def _tracks(result: Any) -> Iterable[tuple[int, int, Any]]:
    boxes = result.boxes
    if boxes is None or not boxes.is_track:
        return []
    return zip(boxes.id.int().tolist(), boxes.cls.int().tolist(), boxes.xyxy.cpu())


def name_direction(line: Line, size: tuple[int, int], forwards: bool) -> str:
    """Return what crowdperf calls a step to the right over an upright line, or downwards over a level one."""
    x, y = (line.p2[0] - line.p1[0]) * size[0], (line.p2[1] - line.p1[1]) * size[1]
    inwards = (-y if abs(x) < abs(y) else x) > 0
    return "in" if inwards == forwards else "out"
