"""Nearly empty video: the demo's backdrops with sensor noise, slow light, and one person now and then.

A frame is a pure function of scene, seed and number, as the demo's are. There is no barcode: its blocks would move in
every picture of a scene where nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crowdperf.demo.outlines import HEIGHT, MARGIN, WIDTH
from crowdperf.demo.scenes import DENSE, SPARSE, Scene
from crowdperf.demo.script import Actor, Track, Waypoint, build_track
from crowdperf.demo.stage import Stage

VERSION = 1
"""Raised when the same seed gives other pictures or another truth."""
NOISE = 3.0
"""Standard deviation of the sensor noise, of 255."""
LIGHT = 0.12
"""Greatest change of the light; it swings once a clip, so that a repeated clip does not flash."""
COUNT = 6


def _cast_passer(scene: Scene, seed: int) -> list[Track]:
    """Cast one person who walks through; nobody in every third scene."""
    if scene.number % 3 == 2:
        return []
    rng = np.random.default_rng(seed)
    ends = (-60.0, WIDTH + 60.0) if scene.number % 2 else (WIDTH + 60.0, -60.0)
    row, start_s = float(rng.uniform(330, 470)), float(rng.uniform(5, 40))
    way = (Waypoint(ends[0], row), Waypoint(ends[1], row + 20))
    return [build_track(Actor(1, "person", scene.number % 12, 1.0, start_s, 1.4, way), scene.frames)]


def make_scenes() -> Sequence[Scene]:
    """Return the scenes: the square and the forecourt in turn, with the lines of the demo."""
    return [
        (SPARSE, DENSE)[number % 2]._replace(name=f"quiet_{number}", number=number, make_cast=_cast_passer)
        for number in range(COUNT)
    ]


class QuietStage(Stage):
    """A nearly empty scene."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene, scene.number)
        # Noise is drawn once and shifted at random: a drawing for each picture would take most of the time.
        noise = np.random.default_rng(scene.number).normal(0, NOISE, (HEIGHT * 2, WIDTH * 2, 1))
        self._noise = noise.astype(np.float32)

    def render_frame(self, index: int) -> NDArray[np.uint8]:
        """Render frame `index` as a sensor sees it."""
        picture = super().render_frame(index)
        picture[HEIGHT - MARGIN :] = self.backdrop[HEIGHT - MARGIN :]
        gain = 1 + LIGHT * math.sin(2 * math.pi * (index / self.scene.frames + self.scene.number / COUNT))
        rng = np.random.default_rng((self.scene.number, index))
        y, x = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        lit = picture * np.float32(gain) + self._noise[y : y + HEIGHT, x : x + WIDTH]
        return np.asarray(np.clip(lit + 0.5, 0, 255).astype(np.uint8))
