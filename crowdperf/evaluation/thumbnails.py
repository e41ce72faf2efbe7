"""Pictures of crossings, cut out of the clip a second time: keeping all pictures would cost gigabytes."""

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
from crowdperf.frames.layout import RingSpec
from crowdperf.settings.camera import Line

THUMBNAIL_WIDTH = 480
JPEG_QUALITY = 80
LINE_COLOUR = (48, 176, 255)
"""Blue, green, red."""
BOX_COLOUR = (80, 220, 60)
SHADOW_COLOUR = (0, 0, 0)
ARROW_LENGTH_PX = 44
"""Pixels."""


class ThumbnailScene(NamedTuple):
    """What a thumbnail shows."""

    number: int
    """The picture, from 0."""
    line: str
    """Drawn as `setup` has it."""
    setup: CameraSetup
    direction: str
    """in or out; an arrow over the line shows it."""
    box: NormalizedBox | None
    """Of the object, where it is known."""

    @property
    def uses_centre_anchor(self) -> bool:
        """Whether the object is counted by the centre of its box."""
        return any(line.id == self.line and line.anchor == "centre" for line in self.setup.tracked.lines)


def render_thumbnails(clip: Clip, scenes: Sequence[ThumbnailScene]) -> list[str]:
    """A `data:` URI (JPEG, at most WIDTH wide) for each scene, in their order; empty where the picture is gone.

    Raises:
        ClipError: the clip cannot be read any more.
    """
    images = [""] * len(scenes)
    wanted: dict[int, list[int]] = {}
    for index, scene in enumerate(scenes):
        wanted.setdefault(scene.number, []).append(index)
    if not wanted:
        return images
    spec, last = build_clip_spec(clip, THUMBNAIL_WIDTH), max(wanted)
    extra, output = get_ffmpeg_flags(scenes[0].setup)
    source = read_frames(clip, spec, extra, output)
    try:
        for picture in source:
            for index in wanted.get(picture.number, []):
                images[index] = _encode_data_uri(_draw_overlay(_to_bgr(picture.data, spec), scenes[index]))
            if picture.number >= last:
                break
    finally:
        source.close()
    return images


def _to_bgr(data: NDArray[np.uint8], spec: RingSpec) -> NDArray[np.uint8]:
    planes = data.reshape(spec.height * 3 // 2, spec.width)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420), np.uint8)


def _draw_overlay(image: NDArray[np.uint8], scene: ThumbnailScene) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = np.array([width - 1, height - 1])

    def stroke(corners: list[Sequence[float]], colour: tuple[int, int, int], closed: bool) -> None:
        pixels = np.rint(np.array(corners) * scale).astype(np.int32)
        # Dark below bright: to be seen on grass as on snow.
        cv2.polylines(image, [pixels], closed, SHADOW_COLOUR, 4, cv2.LINE_AA)
        cv2.polylines(image, [pixels], closed, colour, 2, cv2.LINE_AA)

    for line in scene.setup.tracked.lines:
        if line.id == scene.line:
            stroke([*line.get_vertices()], LINE_COLOUR, False)
            tail, tip = compute_arrow(line, scene.direction, scale)
            cv2.arrowedLine(image, tail, tip, SHADOW_COLOUR, 5, cv2.LINE_AA, tipLength=0.4)
            cv2.arrowedLine(image, tail, tip, LINE_COLOUR, 2, cv2.LINE_AA, tipLength=0.4)
    if scene.box is not None:
        x1, y1, x2, y2 = scene.box
        stroke([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], BOX_COLOUR, True)
        anchor = np.rint(np.array([(x1 + x2) / 2, (y1 + y2) / 2 if scene.uses_centre_anchor else y2]) * scale)
        cv2.circle(image, (int(anchor[0]), int(anchor[1])), 5, SHADOW_COLOUR, -1, cv2.LINE_AA)
        cv2.circle(image, (int(anchor[0]), int(anchor[1])), 4, BOX_COLOUR, -1, cv2.LINE_AA)
    return image


def compute_arrow(line: Line, direction: str, scale: NDArray[np.int_]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tail and tip, in pixels, of an arrow over the middle of the line that points where the crossing went."""
    corners = np.array(line.get_vertices()) * scale
    first, second = corners[(len(corners) - 1) // 2 :][:2]
    along = (second - first) / max(1e-9, float(np.hypot(*(second - first))))
    # The positive side of cross(second - first, q - first), y down.
    way = np.array([-along[1], along[0]])
    if (line.in_side == "positive") != (direction == "in"):
        way = -way
    middle = (first + second) / 2
    tail, tip = np.rint(middle - way * ARROW_LENGTH_PX / 2), np.rint(middle + way * ARROW_LENGTH_PX / 2)
    return (int(tail[0]), int(tail[1])), (int(tip[0]), int(tip[1]))


def _encode_data_uri(image: NDArray[np.uint8]) -> str:
    done: tuple[bool, Any] = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(done[1].tobytes()).decode()
