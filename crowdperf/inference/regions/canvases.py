"""Copy regions of ring pictures onto canvases, and map what was found there back. Pure but for the arrays it fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.regions.packing import Placement, pack
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import PAD_VALUE, Letterbox

GREY_LUMA = 16 + round(PAD_VALUE * 219 / 255)
"""What PAD_VALUE is in limited range."""
GREY_CHROMA = 128


class Tile(NamedTuple):
    """A region on a canvas."""

    owner: int
    """Which of the pictures it belongs to."""
    region: tuple[int, int, int, int]
    """Corners x1 y1 x2 y2, in pixels of the model's picture."""
    placement: Placement


def measure_luma(frame: NDArray[np.uint8], spec: RingSpec, cells: tuple[int, int]) -> NDArray[np.uint8]:
    """Compute the mean luma of each cell: uint8 (rows, columns).

    Args:
        frame: uint8 (spec.frame_bytes,), as it lies in the ring.
        spec: of the ring.
        cells: columns and rows.

    Returns:
        The means.
    """
    if spec.pix_fmt == "yuv420p":
        luma = frame[: spec.width * spec.height].reshape(spec.height, spec.width)
        return np.asarray(cv2.resize(luma, cells, interpolation=cv2.INTER_AREA))
    small = cv2.resize(frame.reshape(spec.height, spec.width, 3), cells, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))


def arrange(regions: Sequence[NDArray[np.intp]], box: Letterbox) -> list[Tile]:
    """Place the regions of several pictures on canvases.

    Args:
        regions: of each picture, (n, 4).
        box: of the pictures; a canvas has its size. A whole picture lies where the letterbox puts it.

    Returns:
        The tiles; whole pictures have the last canvases.
    """
    tiles: list[Tile] = []
    whole: list[int] = []
    parts: list[tuple[int, tuple[int, int, int, int]]] = []
    for owner, rows in enumerate(regions):
        for x1, y1, x2, y2 in rows.tolist():
            if (x2 - x1, y2 - y1) == (box.inner_width, box.inner_height):
                whole.append(owner)
            else:
                parts.append((owner, (x1, y1, x2, y2)))
    placements = pack([(x2 - x1, y2 - y1) for _, (x1, y1, x2, y2) in parts], box.width, box.height)
    tiles += [Tile(owner, region, place) for (owner, region), place in zip(parts, placements, strict=True)]
    count = 1 + max((place.canvas for place in placements), default=-1)
    for number, owner in enumerate(whole):
        place = Placement(count + number, box.left // 2 * 2, box.top // 2 * 2)
        tiles.append(Tile(owner, (0, 0, box.inner_width, box.inner_height), place))
    return tiles


def build_canvas_spec(box: Letterbox) -> RingSpec:
    """Return the geometry of a canvas, as if it were a ring's picture."""
    return RingSpec(box.width, box.height, box.pix_fmt, box.width, box.height, 2, 1.0, 0)


def paint(frames: Sequence[NDArray[np.uint8]], tiles: Sequence[Tile], box: Letterbox, out: NDArray[np.uint8]) -> None:
    """Copy the tiles onto their canvases.

    Args:
        frames: the pictures, uint8 (frame_bytes,).
        tiles: of the canvases.
        box: of the pictures.
        out: uint8 (canvases, bytes of a canvas) in the pixel format of the rings.
    """
    planes = _split(frames, box)
    canvases = _split(list(out), Letterbox(box.width, box.height, *box[2:]))
    for row in canvases:
        for plane, grey in zip(row, (GREY_LUMA, GREY_CHROMA, GREY_CHROMA) if len(row) == 3 else (PAD_VALUE,)):
            plane[...] = grey
    for tile in tiles:
        x1, y1, x2, y2 = tile.region
        _, left, top = tile.placement
        for step, source, canvas in zip((1, 2, 2), planes[tile.owner], canvases[tile.placement.canvas]):
            target = canvas[top // step : (top + y2 - y1) // step, left // step : (left + x2 - x1) // step]
            down, across = source.shape[0] * step / box.inner_height, source.shape[1] * step / box.inner_width
            part = source[
                round(y1 * down / step) : round(y2 * down / step), round(x1 * across / step) : round(x2 * across / step)
            ]
            if part.shape != target.shape:
                part = cv2.resize(part, (target.shape[1], target.shape[0]), interpolation=cv2.INTER_LINEAR)
            target[...] = part


def _split(frames: Sequence[NDArray[np.uint8]], box: Letterbox) -> list[list[NDArray[np.uint8]]]:
    """Return views of the planes of each picture: Y, U, V, or BGR alone."""
    width, height = box.ring_width, box.ring_height
    if box.pix_fmt != "yuv420p":
        return [[frame.reshape(height, width, 3)] for frame in frames]
    area = width * height
    return [
        [
            frame[:area].reshape(height, width),
            frame[area : area * 5 // 4].reshape(height // 2, width // 2),
            frame[area * 5 // 4 :].reshape(height // 2, width // 2),
        ]
        for frame in frames
    ]


def map_back(found: Sequence[Detections], tiles: Sequence[Tile], count: int) -> list[Detections]:
    """Return the detections of each picture from those of the canvases.

    A detection belongs to the tile that holds its centre. Those between the tiles are dropped.

    Args:
        found: of each canvas, boxes in its pixels.
        tiles: on the canvases.
        count: number of pictures.

    Returns:
        Of each picture, boxes in pixels of the model's picture.
    """
    parts: list[list[Detections]] = [[] for _ in range(count)]
    for tile in tiles:
        on_canvas = found[tile.placement.canvas]
        x1, y1, x2, y2 = tile.region
        shift = np.array([x1 - tile.placement.left, y1 - tile.placement.top] * 2, np.float32)
        boxes = on_canvas.boxes + shift
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > (x1, y1)) & (centres < (x2, y2))).all(axis=1)
        if inside.any():
            clipped = np.clip(boxes[inside], np.array([x1, y1] * 2), np.array([x2, y2] * 2)).astype(np.float32)
            parts[tile.owner].append(Detections(clipped, on_canvas.scores[inside], on_canvas.classes[inside]))
    return [_join(rows) for rows in parts]


def _join(parts: list[Detections]) -> Detections:
    if len(parts) == 1:
        return parts[0]
    empty = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
    return Detections(*(np.concatenate(columns) for columns in zip(*parts))) if parts else empty
