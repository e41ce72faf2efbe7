"""The bus: its visible half taken out of bus.jpg, straightened to a side view, cleared of lettering, and mirrored."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from crowdperf.demo import pictures
from crowdperf.demo.figures import Layer, Sprite, draw_mask, premultiply, to_sprite

BUS_SIDE_CORNERS = ((400, 317), (775, 332.4), (775, 655), (400, 695))
"""The bus's side in bus.jpg, between cornice and skirt: clockwise from the top left."""
END, GLASS_TOP, GLASS_BOTTOM, SKIRT = 495, 100, 264, 392
"""Of the straightened side, in pixels: its rear end, both edges of the windows, and the lower edge."""
WHEEL, ARCH = (442, 365), 60
BUS_PAINTS: tuple[tuple[int, int, int] | None, ...] = (None, (60, 62, 150), (70, 120, 60), (70, 150, 190))
"""Colour of the body, BGR; None leaves the original blue."""


def _straighten_side() -> Layer:
    """The rear half, shape (430, 495, 3), 0..1."""
    target = np.array([(60, 100), (510, 100), (510, 400), (60, 400)], np.float32)
    matrix = cv2.getPerspectiveTransform(np.array(BUS_SIDE_CORNERS, np.float32), target)
    side = cv2.warpPerspective(pictures.read_bus_picture(), matrix, (END, 430), flags=cv2.INTER_AREA)
    return np.asarray(side.astype(np.float32) / 255, np.float32)


def _remove_lettering(side: Layer) -> Layer:
    """The half without lettering, bollards and passers-by: each is overpainted by the clean part beside it."""
    clean = side.copy()
    panel = cv2.GaussianBlur(side[:, 223:231].mean(axis=1, keepdims=True), (1, 0), 0.1, sigmaY=1.5).reshape(-1, 1, 3)
    clean[GLASS_BOTTOM:SKIRT, :END] = panel[GLASS_BOTTOM:SKIRT]
    y, x = np.mgrid[0:430, 0:END]
    wheel = (x - WHEEL[0]) ** 2 + (y - WHEEL[1]) ** 2 < ARCH**2
    # The right of the wheel is behind a passer-by: the left of it, mirrored, takes its place.
    visible = np.where(x > WHEEL[0], 2 * WHEEL[0] - x, x)
    clean[wheel] = side[y, visible][wheel]
    pane = cv2.resize(side[150:245, 62:214], (238, 95), interpolation=cv2.INTER_LINEAR)
    clean[150:245, 252:490] = pane
    for left, right in ((62, 214), (206, 490)):
        clean[101:126, left:right] = np.repeat(clean[128:132, left:right].mean(axis=0, keepdims=True), 25, axis=0)
    clean[GLASS_TOP:GLASS_BOTTOM, 474:END] = cv2.resize(side[GLASS_TOP:GLASS_BOTTOM, 20:34], (END - 474, 164))
    clean[80:GLASS_TOP, 455:END] = clean[80:GLASS_TOP, 440:441]
    return np.asarray(clean, np.float32)


def _draw_bus_mask() -> Layer:
    """Mask of the rear half."""
    outline = (
        (-5, 44), (225, 44), (400, 45), (425, 49), (445, 60), (456, 76), (482, 78), (491, 86), (494, 100), (494, 388),
        (-5, 391),
    )  # fmt: skip
    body = draw_mask(outline, (430, END), (0, 0))
    wheel = np.zeros((430, END), np.uint8)
    cv2.circle(wheel, WHEEL, 47, 255, -1, cv2.LINE_AA)
    return np.maximum(body, wheel.astype(np.float32) / 255)


@lru_cache(maxsize=8)
def _compose_bus(paint: tuple[int, int, int] | None) -> Layer:
    """The whole bus as a premultiplied layer."""
    colour = _remove_lettering(_straighten_side())
    if paint:
        blue = np.clip((colour[..., 0] - colour[..., 2]) * 4 - 0.6, 0, 1)[..., None]
        blue[:60] = 0
        tone = colour.mean(axis=2, keepdims=True) / 0.38
        colour = colour + (np.clip(tone * np.array(paint, np.float32) / 255, 0, 1) - colour) * blue
    half = premultiply(np.asarray(colour, np.float32), _draw_bus_mask())
    rear, middle = half[:, 218:], half[:, 50:218]
    return np.ascontiguousarray(np.concatenate([rear[:, ::-1], middle, middle[:, ::-1], rear], axis=1)[40:414])


@lru_cache(maxsize=32)
def render_bus(paint: int, height: int, mirrored: bool) -> Sprite:
    """The bus in one of `PAINTS`, `height` pixels tall from road to roof."""
    layer = _compose_bus(BUS_PAINTS[paint])
    width = round(layer.shape[1] * height / layer.shape[0])
    small = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)
    if mirrored:
        small = small[:, ::-1]
    return to_sprite(np.asarray(small, np.float32), width / 2)
