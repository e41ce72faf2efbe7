"""What lines and zones cost per frame, and how far the counts on real clips are from the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench import clips
from bench.harness import Row, microseconds
from crowdperf.counting.camera_counter import CameraCounter
from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.evaluation.clip import CLIP_START_S
from crowdperf.settings.camera import Line, Zone

PEOPLE = 20
FPS = 10.0
FRAMES = 400
BUDGET_US = 500.0
"""Half a per cent of a core for a camera at ten frames a second."""
ERROR_LIMIT = 0.12
"""Sum over lines and directions of |counted - true|, as a share of the true crossings (vtest: 3 of 13 to 20 a line)."""


def walkers() -> list[list[Sample]]:
    """Samples of people who walk to and fro over the whole picture."""
    random = np.random.default_rng(5)
    place, speed = random.uniform(0.1, 0.9, (PEOPLE, 2)), random.uniform(-0.15, 0.15, (PEOPLE, 2))
    frames = []
    for _ in range(FRAMES):
        place += speed / FPS
        speed[(place < 0.05) | (place > 0.95)] *= -1
        frames.append(
            [Sample(n, float(x) * 16 / 9, float(y), float(y) - 0.05, 0.1, 0, True) for n, (x, y) in enumerate(place, 1)]
        )
    return frames


def shapes(lines: int, bends: int, zones: int) -> tuple[tuple[Line, ...], tuple[Zone, ...]]:
    """Lines of `bends` bends from top to bottom, and zones in a row."""
    heights = np.linspace(0.1, 0.9, bends + 2)
    drawn = tuple(
        Line(
            id=f"l{n}",
            points=[[(n + 1) / (lines + 1) + 0.02 * (k % 2), float(y)] for k, y in enumerate(heights)],
        )
        for n in range(lines)
    )
    width = 1 / max(1, zones)
    rooms = tuple(
        Zone(
            id=f"z{n}",
            polygon=[[n * width, 0.2], [(n + 1) * width, 0.2], [(n + 1) * width, 0.8], [n * width, 0.8]],
            limit=3,
            loiter_s=5.0,
            way=[1.0, 0.0],
        )
        for n in range(zones)
    )
    return drawn, rooms


def cost(lines: int, bends: int, zones: int, repetitions: int) -> float:
    """Median microseconds per frame of all counters of a camera."""
    drawn, rooms = shapes(lines, bends, zones)
    counter = CameraCounter("bench", drawn, rooms, 1.5)
    counter.set_aspect(16 / 9)
    frames, turn = walkers(), 0

    def update() -> None:
        nonlocal turn
        samples = frames[turn % FRAMES if turn // FRAMES % 2 == 0 else FRAMES - 1 - turn % FRAMES]
        counter.update(FrameMoment(turn / FPS, CLIP_START_S + turn / FPS, 1, turn + 1), samples, [])
        counter.take_density()
        turn += 1

    return sorted(microseconds(update, 100) for _ in range(repetitions))[repetitions // 2]


def rows(short: bool) -> list[Row]:
    """Cost rows, then count_error, count_recall and count_precision per scene and analysed rate."""
    repetitions = 5 if short else 15
    found = [
        _cost_row(f"counting_update/{PEOPLE}", lambda: cost(2, 0, 1, repetitions), repetitions),
        _cost_row(f"counting_update_polylines/{PEOPLE}", lambda: cost(4, 6, 4, repetitions), repetitions),
    ]
    model = None
    for scene in clips.scenes():
        if short and scene.name not in ("highway", "one_by_one"):
            continue
        model = model or clips.detector()
        whole = clips.detections(scene, model)
        for every in scene.rates:
            wrong, recall, precision = clips.errors(scene, whole[::every], every)
            name = f"{scene.name}" if every == scene.rates[0] else f"{scene.name}@{scene.fps / every:.3g}fps"
            found.append(
                Row(
                    name=f"count_error/{name}",
                    value=wrong,
                    unit="share",
                    limit_or_peer=f"limit {ERROR_LIMIT:g}",
                    ratio=wrong / ERROR_LIMIT,
                )
            )
            for kind, value in (("recall", recall), ("precision", precision)):
                found.append(
                    Row(
                        name=f"count_{kind}/{name}",
                        value=value,
                        unit="share",
                        limit_or_peer="limit 0.8",
                        ratio=value / 0.8,
                        better="higher",
                    )
                )
    return found


def _cost_row(name: str, measure: Callable[[], float], repetitions: int) -> Row:
    value = measure()
    return Row(
        name=name,
        value=value,
        unit="us/frame",
        limit_or_peer=f"limit {BUDGET_US:g}",
        ratio=value / BUDGET_US,
        repetitions=repetitions,
    )
