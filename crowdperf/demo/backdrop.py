"""The static part of a scene: house, street and paving. The house front comes from bus.jpg."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.demo import outlines
from crowdperf.demo.figures import Layer
from crowdperf.demo.outlines import FOCAL, HEIGHT, HORIZON, SCALE, WIDTH, compute_pixels_per_metre

FRONT_CORNERS = ((225, 10), (600, 98.5), (600, 244), (225, 195))
"""One storey of the house in bus.jpg, clockwise from the top left."""
AWNING_COLOURS = ((70, 86, 132), (92, 104, 84), (118, 92, 72), (80, 110, 140))
"""BGR."""
ROAD_ROWS = (160, 201)
"""Rows of the carriageway, where there is one."""


def _render_storey(height: int) -> Layer:
    """Render one bay of the upper storey, shape (height, width, 3), 0..1."""
    target = np.array([(0, 0), (520, 0), (520, 225), (0, 225)], np.float32)
    matrix = cv2.getPerspectiveTransform(np.array(FRONT_CORNERS, np.float32), target)
    front = cv2.warpPerspective(outlines.read_bus_picture(), matrix, (520, 225), flags=cv2.INTER_AREA)
    # A sign reaches into the bay: plain wall takes its place.
    front[135:180, 248:272] = front[135:180, 70:94]
    bay = front[:, 66:272]
    small = cv2.resize(bay, (round(206 * height / 225), height), interpolation=cv2.INTER_AREA)
    return np.asarray(small / 255, np.float32)


def _draw_house(picture: Layer, base: int, shift: int) -> None:
    """Draw upper storey and shops down to row `base`, in place; `shift` moves the bays."""
    storey = round(4.0 * compute_pixels_per_metre(base))
    bay = _render_storey(storey)
    width = bay.shape[1]
    top = base - storey
    for i, left in enumerate(range(-shift % width - width, WIDTH, width)):
        x0, x1 = max(left, 0), min(left + width, WIDTH)
        if x1 <= x0:
            continue
        picture[:top, x0:x1] = bay[storey - top :, x0 - left : x1 - left] if top <= storey else 0.5
        _draw_shop(picture[top:base], left, width, i)
    picture[top - 3 : top + 2] = np.array((0.62, 0.68, 0.72), np.float32)


def _draw_shop(strip: Layer, left: int, width: int, index: int) -> None:
    """Draw one shop window or door under the storey."""
    height = strip.shape[0]
    x0, x1 = max(left, 0), min(left + width, WIDTH)
    wall = np.array((0.60, 0.70, 0.76), np.float32)
    strip[:, x0:x1] = wall * np.linspace(0.92, 0.8, height, dtype=np.float32)[:, None, None]
    a, b = max(left + width // 8, 0), min(left + width - width // 8, WIDTH)
    if b <= a:
        return
    glass = np.linspace(0.36, 0.16, height - height // 4, dtype=np.float32)[:, None, None]
    sheen = 0.05 * np.sin(np.arange(a, b) / 9 + index)[None, :, None]
    lower = height - (3 if index % 3 == 1 else height // 6)
    strip[height // 4 : lower, a:b] = ((glass + sheen) * np.array((1.0, 0.92, 0.86)))[: lower - height // 4]
    frame = np.array((0.2, 0.24, 0.26), np.float32)
    for x in (a, (a + b) // 2, b - 2):
        strip[height // 4 : lower, x : x + 2] = frame
    if index % 3 != 1:
        colour = np.array(AWNING_COLOURS[index % len(AWNING_COLOURS)], np.float32) / 255
        reach = height // 5
        strip[height // 5 : height // 5 + reach, a - 2 if a > 2 else a : b + 2] = (
            colour * np.linspace(1.25, 0.9, reach, dtype=np.float32)[:, None, None]
        )
        strip[height // 5 + reach : height // 5 + reach + 3, a:b] *= 0.6


def _render_paving(rng: np.random.Generator, top: int, tone: tuple[float, float, float]) -> Layer:
    """Render stone slabs in perspective from row `top` down, antialiased: (HEIGHT - top, WIDTH, 3)."""
    y, x = np.mgrid[top * 3 : HEIGHT * 3, 0 : WIDTH * 3].astype(np.float32) / 3
    across = (x - WIDTH / 2) / (SCALE * (y - HORIZON)) / 0.75
    along = FOCAL / (SCALE * (y - HORIZON)) / 0.75
    row = np.floor(along).astype(np.int32)
    column = np.floor(across + 0.5 * (row % 2)).astype(np.int32)
    tones = rng.normal(1.0, 0.028, (64, 64)).astype(np.float32)
    slab = tones[row % 64, column % 64]
    joint = np.minimum(np.abs((along + 0.5) % 1 - 0.5), np.abs((across + 0.5 * (row % 2) + 0.5) % 1 - 0.5))
    slab *= 1 - 0.2 * np.clip(1 - joint / 0.025, 0, 1)
    slab *= np.where(row % 7 == 0, 0.9, 1.0)
    small = cv2.resize(slab, (WIDTH, HEIGHT - top), interpolation=cv2.INTER_AREA)
    return np.asarray(small[..., None] * np.array(tone, np.float32), np.float32)


def _draw_street(picture: Layer, rng: np.random.Generator) -> None:
    """Draw pavement, carriageway and kerbs across the picture, in place."""
    picture[150 : ROAD_ROWS[0]] = np.array((0.62, 0.65, 0.67), np.float32)
    picture[157 : ROAD_ROWS[0]] *= 0.82
    asphalt = rng.normal(0.34, 0.012, (ROAD_ROWS[1] - ROAD_ROWS[0], WIDTH, 1)).astype(np.float32)
    picture[ROAD_ROWS[0] : ROAD_ROWS[1]] = cv2.GaussianBlur(asphalt, (0, 0), 0.8)[..., None] * np.array(
        (1.03, 1.0, 0.98)
    )
    for left in range(-20, WIDTH, 120):
        picture[179:181, max(left, 0) : left + 60] = 0.72
    picture[ROAD_ROWS[1] : ROAD_ROWS[1] + 3] = 0.3
    picture[ROAD_ROWS[1] + 3 : ROAD_ROWS[1] + 8] = np.array((0.70, 0.73, 0.75), np.float32)


def _draw_planters(picture: Layer, rng: np.random.Generator, y: int, lefts: tuple[int, ...]) -> None:
    """Draw low boxes with shrubs standing on row `y`, in place.

    Bollards would be taken for people at this size.
    """
    unit = compute_pixels_per_metre(y)
    width, box, shrub = round(2.6 * unit), round(0.4 * unit), round(0.35 * unit)
    for x in lefts:
        shade = picture[y - 3 : y + 4, x - 6 : x + width + 2]
        shade *= 0.72
        picture[y - box : y, x : x + width] = np.linspace(0.60, 0.46, box, dtype=np.float32)[:, None, None]
        picture[y - box : y - box + 2, x : x + width] = 0.7
        leaves = rng.normal(0.30, 0.13, (shrub, width, 1)).astype(np.float32)
        leaves = cv2.GaussianBlur(leaves, (0, 0), 0.8)[..., None] * np.array((0.62, 1.08, 0.78), np.float32)
        edge = shrub * (0.55 + 0.3 * np.sin(np.arange(width) / 5.0 + x) + rng.normal(0, 0.06, width))
        edge[0] = edge[-1] = 0
        grown = np.arange(shrub, 0, -1)[:, None] <= np.maximum(edge, 3)[None, :]
        target = picture[y - box - shrub : y - box, x : x + width]
        target[grown] = leaves[grown]


def draw_backdrop(street: bool, seed: int) -> NDArray[np.uint8]:
    """Draw the empty scene, shape (HEIGHT, WIDTH, 3) BGR: a square by a street, or a forecourt."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    base = 150 if street else 186
    _draw_house(picture, base, 20 if street else 61)
    top = ROAD_ROWS[1] + 8 if street else base
    picture[top:] = _render_paving(rng, top, (0.66, 0.71, 0.745) if street else (0.70, 0.715, 0.72))
    if street:
        _draw_street(picture, rng)
        _draw_planters(picture, rng, 221, (60, 300, 540, 780))
    else:
        picture[base : base + 10] *= np.linspace(0.55, 1, 10, dtype=np.float32)[:, None, None]
        _draw_planters(picture, rng, 200, (215, 330, 575, 690))
    # Afternoon light from the right, a little darker towards the lower corners.
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None, None]
    picture *= 0.98 + 0.05 * x - 0.05 * x**2 - 0.04 * np.maximum(y, 0) ** 2
    picture += rng.normal(0, 0.008, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8))
