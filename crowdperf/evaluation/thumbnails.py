"""Pictures of crossings. The clip is decoded a second time for them: keeping all pictures would take gigabytes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.evaluation.camera_setup import CameraSetup
from crowdperf.evaluation.clip import Clip, build_clip_spec, read_frames
from crowdperf.evaluation.replay import NormalizedBox, get_ffmpeg_flags
from crowdperf.models.preprocess import to_rgb
from crowdperf.settings.camera import Line

THUMBNAIL_WIDTH = 480
JPEG_QUALITY = 80
LINE_COLOUR = (48, 176, 255)
"""Colours are blue, green, red."""
BOX_COLOUR = (80, 220, 60)
SHADOW_COLOUR = (0, 0, 0)
ARROW_LENGTH_PX = 44


class ThumbnailScene(NamedTuple):
    """Content of a thumbnail."""

    number: int
    """Number of the picture, from 0."""
    line: str
    setup: CameraSetup
    direction: str
    """`in` or `out`, shown by an arrow over the line."""
    box: NormalizedBox | None


def render_thumbnails(clip: Clip, scenes: Sequence[ThumbnailScene]) -> list[str]:
    """Render each scene to a `data:` URI of a JPEG, "" without a picture; or raise ClipError."""
    images = [""] * len(scenes)
    scenes_by_number: dict[int, list[int]] = {}
    for index, scene in enumerate(scenes):
        scenes_by_number.setdefault(scene.number, []).append(index)
    if not scenes_by_number:
        return images
    spec, last = build_clip_spec(clip, THUMBNAIL_WIDTH), max(scenes_by_number)
    extra, output = get_ffmpeg_flags(scenes[0].setup)
    source = read_frames(clip, spec, extra, output)
    try:
        for picture in source:
            for index in scenes_by_number.get(picture.number, []):
                rgb = to_rgb(picture.data, spec)
                images[index] = _encode_data_uri(_draw_overlay(np.ascontiguousarray(rgb[..., ::-1]), scenes[index]))
            if picture.number >= last:
                break
    finally:
        source.close()
    return images


def _draw_overlay(image: NDArray[np.uint8], scene: ThumbnailScene) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = np.array([width - 1, height - 1])

    def stroke(corners: list[Sequence[float]], colour: tuple[int, int, int], closed: bool) -> None:
        pixels = np.rint(np.array(corners) * scale).astype(np.int32)
        # A dark line below the bright one is visible on any background.
        cv2.polylines(image, [pixels], closed, SHADOW_COLOUR, 4, cv2.LINE_AA)
        cv2.polylines(image, [pixels], closed, colour, 2, cv2.LINE_AA)

    line = next((line for line in scene.setup.tracked.lines if line.id == scene.line), None)
    if line is not None:
        stroke([*line.get_vertices()], LINE_COLOUR, False)
        tail, tip = compute_arrow(line, scene.direction, scale)
        cv2.arrowedLine(image, tail, tip, SHADOW_COLOUR, 5, cv2.LINE_AA, tipLength=0.4)
        cv2.arrowedLine(image, tail, tip, LINE_COLOUR, 2, cv2.LINE_AA, tipLength=0.4)
    if scene.box is not None:
        x1, y1, x2, y2 = scene.box
        stroke([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], BOX_COLOUR, True)
        y = (y1 + y2) / 2 if line is not None and line.anchor == "centre" else y2
        anchor = tuple(round(side) for side in (np.array([(x1 + x2) / 2, y]) * scale).tolist())
        cv2.circle(image, anchor, 5, SHADOW_COLOUR, -1, cv2.LINE_AA)
        cv2.circle(image, anchor, 4, BOX_COLOUR, -1, cv2.LINE_AA)
    return image


def compute_arrow(line: Line, direction: str, scale: NDArray[np.int_]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Compute an arrow over the middle of the line that points in the direction of the crossing.

    Args:
        line: the line.
        direction: `in` or `out`.
        scale: width and height of the picture minus one, pixels.

    Returns:
        Tail and tip, pixels.
    """
    corners = np.array(line.get_vertices()) * scale
    first, second = corners[(len(corners) - 1) // 2 :][:2]
    along = (second - first) / max(1e-9, float(np.hypot(*(second - first))))
    # This normal points to the positive side of cross(second - first, q - first), y down.
    normal = np.array([-along[1], along[0]])
    if (line.in_side == "positive") != (direction == "in"):
        normal = -normal
    middle = (first + second) / 2
    tail, tip = np.rint(middle - normal * ARROW_LENGTH_PX / 2), np.rint(middle + normal * ARROW_LENGTH_PX / 2)
    return (int(tail[0]), int(tail[1])), (int(tip[0]), int(tip[1]))


def _encode_data_uri(image: NDArray[np.uint8]) -> str:
    encoded: tuple[bool, Any] = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded[1].tobytes()).decode()
