"""Sprites of people and of the bus, cut out of photographs.

People are cut along their outlines, recoloured, and posed along a step. The visible half of the bus in bus.jpg is
straightened to a side view, cleared of lettering, and mirrored.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.demo import outlines

POSES_PER_STEP = 10
Layer = NDArray[np.float32]
"""Shape (height, width, 4), BGR premultiplied with alpha, then alpha, all 0..1."""
Tint = tuple[int, int, int] | None
"""BGR of a cloth's middle tone; None keeps the photographed colour."""


class FigureLook(NamedTuple):
    """A photographed figure and its colours."""

    figure: str
    coat: Tint = None
    trousers: Tint = None
    grey_head: bool = False


class Sprite(NamedTuple):
    """A picture ready for blending: premultiplied BGR and alpha as uint8, and its axis."""

    colour: NDArray[np.uint8]
    """Shape (height, width, 3)."""
    alpha: NDArray[np.uint8]
    """Shape (height, width)."""
    axis: float
    """The x of the figure's axis, in pixels from the sprite's left edge."""
    extent: tuple[int, int, int, int]
    """Columns and rows x0, y0, x1, y1 (exclusive) in which alpha is at least one half; y1 is the ground."""


def to_sprite(layer: Layer, axis: float) -> Sprite:
    """Convert a premultiplied layer to a sprite."""
    pixels = np.clip(layer * 255 + 0.5, 0, 255).astype(np.uint8)
    solid = pixels[..., 3] >= 128
    columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
    extent = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Sprite(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]), axis, extent)


LOOKS = (
    FigureLook("sheepskin"),
    FigureLook("dark"),
    FigureLook("sheepskin", coat=(96, 70, 52), trousers=(66, 66, 70), grey_head=True),
    FigureLook("dark", coat=(58, 66, 122), trousers=(60, 50, 45)),
    FigureLook("sheepskin", coat=(62, 64, 136)),
    FigureLook("dark", coat=(132, 118, 96), trousers=(46, 48, 52), grey_head=True),
    FigureLook("sheepskin", coat=(74, 98, 72), trousers=(48, 52, 66)),
    FigureLook("dark", coat=(168, 164, 160), trousers=(110, 82, 52)),
    FigureLook("sheepskin", coat=(66, 66, 70), trousers=(96, 112, 130)),
    FigureLook("dark", coat=(78, 132, 158), trousers=(92, 58, 40)),
    FigureLook("sheepskin", coat=(176, 178, 182), trousers=(40, 40, 44), grey_head=True),
    FigureLook("dark", coat=(96, 62, 84), trousers=(80, 86, 92), grey_head=True),
)


def _draw_mask(
    outline: outlines.Outline, shape: tuple[int, int], offset: tuple[float, float], feather: float = 0.9
) -> Layer:
    """Draw a soft-edged polygon of shape `shape`, 0..1; `offset` is the coordinate of pixel (0, 0)."""
    points = np.round((np.asarray(outline) - offset) * 16).astype(np.int32)
    filled = np.zeros(shape, np.uint8)
    cv2.fillPoly(filled, [points], 255, cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(filled.astype(np.float32) / 255, (0, 0), feather), np.float32)


def premultiply(colour: Layer, alpha: Layer) -> Layer:
    """Combine a colour picture 0..1 and its mask to a layer."""
    return np.dstack([colour * alpha[..., None], alpha]).astype(np.float32)


def composite_over(top: Layer, bottom: Layer) -> Layer:
    """Apply Porter and Duff's `over` to premultiplied layers."""
    return top + bottom * (1 - top[..., 3:])


def _tint_cloth(colour: Layer, alpha: Layer, tint: tuple[int, int, int], lift: float) -> Layer:
    """Replace the hue of a cloth and keep its tones; `lift` brightens black cloth first."""
    tone = colour @ np.array([0.114, 0.587, 0.299], np.float32) + lift
    weight = float(alpha.sum()) or 1.0
    relative = tone / (float((tone * alpha).sum()) / weight)
    cloth = np.clip(np.clip(relative, 0, 2.2)[..., None] * (np.array(tint, np.float32) / 255), 0, 1)
    return np.asarray(colour + (cloth - colour) * alpha[..., None], np.float32)


def _crop_photograph(crop: tuple[int, int, int, int]) -> Layer:
    """Crop bus.jpg, 0..1."""
    x0, y0, x1, y1 = crop
    return np.asarray(outlines.read_bus_picture()[y0:y1, x0:x1] / np.float32(255), np.float32)


@lru_cache(maxsize=64)
def _cut_legs(look: FigureLook) -> tuple[Layer, Layer]:
    """Cut rear and front leg of a look, on the canvas of the legs."""
    figure = _get_figure(look)
    x0, y0, x1, y1 = figure.legs_crop
    shape, offset = (y1 - y0, x1 - x0), (x0, y0)
    source = _crop_photograph(figure.legs_crop)
    legs = []
    for leg in figure.legs:
        alpha = _draw_mask(leg.outline, shape, offset)
        hidden: Layer = np.maximum.reduce([_draw_mask(part, shape, offset, 2.0) for part in leg.hidden])
        colour = _paint_hidden_part(source, alpha, hidden)
        if look.trousers:
            cloth = alpha * (np.arange(y0, y1) < leg.shoe_y)[:, None]
            colour = _tint_cloth(colour, cloth.astype(np.float32), look.trousers, 0.12)
        legs.append(premultiply(colour, alpha))
    return legs[0], legs[1]


@lru_cache(maxsize=64)
def _cut_body(look: FigureLook) -> Layer:
    """Cut coat and head of a look, on the figure's canvas."""
    figure = _get_figure(look)
    x0, y0, x1, y1 = figure.crop
    shape, offset = (y1 - y0, x1 - x0), (x0, y0)
    source = _crop_photograph(figure.crop)
    alpha, head = _draw_mask(figure.body, shape, offset), _draw_mask(figure.head, shape, offset, 1.2)
    colour: Layer = source
    if look.coat:
        cloth = alpha * (1 - head)
        if not figure.light_coat:
            # Hands, neck and the red pullover are the only warm pixels of the black coat.
            warm = np.clip((source[..., 2] - source[..., 0]) * 8 - 0.7, 0, 1)
            cloth = cloth * (1 - np.asarray(cv2.GaussianBlur(warm, (0, 0), 0.8), np.float32))
        colour = _tint_cloth(source, cloth.astype(np.float32), look.coat, 0.0 if figure.light_coat else 0.16)
    if not look.grey_head:
        return premultiply(colour, alpha)
    # The neck stays: only what lies above the chin makes room for the other head.
    rows = np.arange(offset[1], offset[1] + shape[0])[:, None]
    wide = np.asarray(cv2.dilate(head, np.ones((9, 9), np.uint8)), np.float32)
    bare = alpha * (1 - wide * np.clip((figure.chin[1] - 8 - rows) / 4, 0, 1))
    scale = figure.head_scale
    move = np.array(
        [
            [scale, 0, figure.chin[0] - offset[0] - scale * outlines.GREY_CHIN[0]],
            [0, scale, figure.chin[1] - offset[1] - scale * outlines.GREY_CHIN[1]],
        ],
        np.float32,
    )
    # Stadium light is dimmer and warmer than the street's.
    picture = np.clip(outlines.read_touchline_picture() / 255 * np.array((1.5, 1.3, 1.2)), 0, 1)
    cut = premultiply(picture.astype(np.float32), _draw_mask(outlines.GREY_HEAD, (720, 1280), (0, 0), 3.0))
    soft = cv2.GaussianBlur(cut, (0, 0), 1.2)
    other = np.asarray(cv2.warpAffine(soft, move, (shape[1], shape[0]), flags=cv2.INTER_AREA), np.float32)
    return composite_over(other, premultiply(colour, bare.astype(np.float32)))


def _paint_hidden_part(source: Layer, alpha: Layer, hidden: Layer) -> Layer:
    """Paint the hidden part of a leg in the colour that the leg has in the same row."""
    visible = alpha * (1 - hidden)
    amount = visible.sum(axis=1)
    known = np.flatnonzero(amount > 8)
    mean = (source[known] * visible[known][..., None]).sum(axis=1) / amount[known, None]
    rows = np.stack([np.interp(np.arange(len(source)), known, mean[:, c]) for c in range(3)], axis=1)
    rows = np.asarray(cv2.GaussianBlur(rows.astype(np.float32), (1, 0), 0.1, sigmaY=4), np.float32)
    share = np.clip(hidden * 1.3, 0, 1)[..., None]
    return np.asarray(source * (1 - share) + rows[:, None, :] * share, np.float32)


def _get_figure(look: FigureLook) -> outlines.Figure:
    return outlines.SHEEPSKIN if look.figure == "sheepskin" else outlines.DARK


@lru_cache(maxsize=256)
def pose_figure(look: FigureLook, pose: int) -> tuple[Layer, float]:
    """Pose a look: return the layer, cropped to its extent, and the x of its axis."""
    figure = _get_figure(look)
    x0, y0, x1, y1 = figure.crop
    share = 0.5 - 0.5 * math.cos(2 * math.pi * pose / POSES_PER_STEP)
    body = _cut_body(look)
    left, top, right, bottom = figure.legs_crop
    lower: NDArray[np.float32] = np.zeros((bottom - top, right - left, 4), np.float32)
    for leg, layer in zip(figure.legs, _cut_legs(look)):
        angle = leg.swing[0] + (leg.swing[1] - leg.swing[0]) * share
        turn = cv2.getRotationMatrix2D((leg.hip[0] - left, leg.hip[1] - top), angle, 1.0)
        turned = cv2.warpAffine(layer, turn, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
        lower = composite_over(np.asarray(turned, np.float32), lower)
    scale, dx, dy = figure.legs_move
    move = np.array([[scale, 0, scale * left + dx - x0], [0, scale, scale * top + dy - y0]], np.float32)
    moved = cv2.warpAffine(lower, move, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    whole = composite_over(body, np.asarray(moved, np.float32))
    rows = np.flatnonzero((whole[..., 3] >= 0.5).any(axis=1))
    columns = np.flatnonzero((whole[..., 3] > 0.02).any(axis=0))
    cut = whole[rows[0] - 2 : rows[-1] + 2, columns[0] : columns[-1] + 1]
    return cut, figure.hip_x - x0 - float(columns[0])


@lru_cache(maxsize=4096)
def render_person(look: FigureLook, pose: int, height: int, mirrored: bool) -> Sprite:
    """Render a person.

    Args:
        look: figure and colours.
        pose: one of `POSES_PER_STEP` poses.
        height: height when standing, pixels.
        mirrored: True for a person who faces left.

    Returns:
        The sprite.
    """
    layer, axis = pose_figure(look, pose)
    scale = height / _get_figure(look).height
    size = (max(1, round(layer.shape[1] * scale)), max(1, round(layer.shape[0] * scale)))
    small = np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA), np.float32)
    axis *= size[0] / layer.shape[1]
    if mirrored:
        small, axis = small[:, ::-1], size[0] - axis
    return to_sprite(small, axis)


BUS_SIDE_CORNERS = ((400, 317), (775, 332.4), (775, 655), (400, 695))
"""The bus's side in bus.jpg, between cornice and skirt: clockwise from the top left."""
END, GLASS_TOP, GLASS_BOTTOM, SKIRT = 495, 100, 264, 392
"""Of the straightened side, in pixels: its rear end, both edges of the windows, and the lower edge."""
WHEEL, ARCH = (442, 365), 60
BUS_PAINTS: tuple[tuple[int, int, int] | None, ...] = (None, (60, 62, 150), (70, 120, 60), (70, 150, 190))
"""Colour of the body, BGR; None keeps the original blue."""


def _straighten_side() -> Layer:
    """Straighten the rear half, shape (430, 495, 3), 0..1."""
    target = np.array([(60, 100), (510, 100), (510, 400), (60, 400)], np.float32)
    matrix = cv2.getPerspectiveTransform(np.array(BUS_SIDE_CORNERS, np.float32), target)
    side = cv2.warpPerspective(outlines.read_bus_picture(), matrix, (END, 430), flags=cv2.INTER_AREA)
    return np.asarray(side.astype(np.float32) / 255, np.float32)


def _remove_lettering(side: Layer) -> Layer:
    """Paint lettering, bollards and passers-by over with the clean part next to them."""
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
    """Draw the mask of the rear half."""
    outline = (
        (-5, 44), (225, 44), (400, 45), (425, 49), (445, 60), (456, 76), (482, 78), (491, 86), (494, 100), (494, 388),
        (-5, 391),
    )  # fmt: skip
    body = _draw_mask(outline, (430, END), (0, 0))
    wheel = np.zeros((430, END), np.uint8)
    cv2.circle(wheel, WHEEL, 47, 255, -1, cv2.LINE_AA)
    return np.maximum(body, wheel.astype(np.float32) / 255)


@lru_cache(maxsize=8)
def _compose_bus(paint: tuple[int, int, int] | None) -> Layer:
    """Compose the whole bus as a premultiplied layer."""
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
    """Render the bus.

    Args:
        paint: index into `BUS_PAINTS`.
        height: pixels from road to roof.
        mirrored: True for a bus that drives left.

    Returns:
        The sprite.
    """
    layer = _compose_bus(BUS_PAINTS[paint])
    width = round(layer.shape[1] * height / layer.shape[0])
    small = cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA)
    if mirrored:
        small = small[:, ::-1]
    return to_sprite(np.asarray(small, np.float32), width / 2)
