"""What it costs to look at regions only, how much of the pictures that is, and what it does to the counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bench import clips
from bench.clips import Scene
from bench.harness import Row, microseconds
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.regions import canvases
from crowdperf.inference.regions.packing import pack
from crowdperf.inference.regions.planner import LookPlanner
from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import letterbox

PEOPLE = 20
BUDGET_US = 1000.0
"""All that is not the model may take so long for a picture with 20 people."""
REGION_BUDGET_US = 50.0
"""Of the packer for a region: ten of them take half of the budget of a picture."""
SPEC = RingSpec(640, 360, "yuv420p", 1920, 1080, 4, 10.0, 0)


class Walkers:
    """Pictures of 640x360 with people who walk on a grey ground, and their true boxes."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self._place = random.uniform([20, 20], [600, 280], (PEOPLE, 2))
        self._step = random.uniform(-3, 3, (PEOPLE, 2))
        self._noise = random.normal(0, 2, SPEC.frame_bytes).astype(np.int8)
        self.time_s = 0.0

    def step(self) -> tuple[NDArray[np.uint8], Detections]:
        """Return the next picture, 0.1 s later, and the boxes in it."""
        self.time_s += 0.1
        self._place += self._step
        self._step[(self._place < 10) | (self._place > [610, 290])] *= -1
        picture = (120 + self._noise).astype(np.uint8)
        luma = picture[: 640 * 360].reshape(360, 640)
        boxes = np.concatenate([self._place, self._place + np.array([24, 60])], axis=1)
        for x1, y1, x2, y2 in boxes.astype(int).tolist():
            luma[max(0, y1) : y2, max(0, x1) : x2] = 40
        clipped = np.clip(boxes, 0, [640, 360] * 2).astype(np.float32)
        return picture, Detections(clipped, np.full(PEOPLE, 0.9, np.float32), np.zeros(PEOPLE, np.uint8))


def measure_planning() -> float:
    """Return microseconds of a picture from its luma to its merged detections, without the model."""
    walkers, planner, box = Walkers(), LookPlanner(640, 360), letterbox(SPEC)
    out = np.empty((2, canvases.build_canvas_spec(box).frame_bytes), np.uint8)
    shown = [walkers.step() for _ in range(100)]
    turn = 0

    def analyse() -> None:
        nonlocal turn
        picture, found = shown[turn % len(shown)]
        turn += 1
        plan = planner.plan(canvases.measure_luma(picture, SPEC, planner.cells), turn / 10)
        tiles = canvases.arrange([plan.regions], box)
        canvases.paint([picture], tiles, box, out)
        planner.merge(plan, found, turn / 10)

    return microseconds(analyse, len(shown))


def measure_change() -> float:
    """Return microseconds of the comparison of a still picture of 640x360 with the one before."""
    picture = np.full(SPEC.frame_bytes, 120, np.uint8)
    planner = LookPlanner(640, 360)
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))

    def compare() -> None:
        plan = planner.plan(canvases.measure_luma(picture, SPEC, planner.cells), 0.1)
        planner.merge(plan, nothing, 0.1)

    return microseconds(compare, 200)


def measure_packing() -> float:
    """Return microseconds of the packer for a region, of 40 on their canvases."""
    random = np.random.default_rng(2)
    sizes = [(int(width), int(height)) for width, height in random.integers(40, 200, (40, 2))]
    return microseconds(lambda: pack(sizes, 640, 384), 20) / len(sizes)


def rows(short: bool) -> list[Row]:
    """Cost rows, then per scene the share looked at, and recall and precision beside whole pictures."""
    found = [
        _cost_row("regions_change/640x360", "us/picture", measure_change, 0.2 * BUDGET_US),
        _cost_row(f"regions_plan_and_merge/{PEOPLE}", "us/picture", measure_planning, BUDGET_US),
        _cost_row("regions_pack/40", "us/region", measure_packing, REGION_BUDGET_US),
    ]
    model = clips.detector()
    for scene in chain(clips.scenes(), clips.demo_scenes()):
        if short and scene.name not in ("highway", "one_by_one"):
            continue
        found += list(_compare_counts(scene, model))
    return found


def _compare_counts(scene: Scene, model: Detector) -> Iterator[Row]:
    """Yield the share that is looked at, and the counts of both ways in one run."""
    every = scene.rates[0]
    whole = clips.errors(scene, clips.detect(scene, model, every).frames, every)
    seen = clips.detect(scene, model, every, "regions")
    regions, share = clips.errors(scene, seen.frames, every), seen.look_share
    yield Row(
        name=f"regions_share/{scene.name}", value=share, unit="share", limit_or_peer="peer: whole pictures", ratio=share
    )
    for kind, ours, theirs in zip(("recall", "precision"), regions[1:], whole[1:], strict=True):
        yield Row(
            name=f"regions_{kind}/{scene.name}",
            value=ours,
            unit="share",
            limit_or_peer=f"peer: whole pictures {theirs:.3f}",
            ratio=ours / theirs,
            better="higher",
        )


def _cost_row(name: str, unit: str, measure: Callable[[], float], limit: float) -> Row:
    value = sorted(measure() for _ in range(5))[2]
    return Row(name=name, value=value, unit=unit, limit_or_peer=f"limit {limit:g}", ratio=value / limit, repetitions=5)
