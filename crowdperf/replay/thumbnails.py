"""Pictures of crossings, cut out of the clip a second time: keeping all pictures would cost gigabytes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.layout import RingSpec
from crowdperf.replay.clip import Clip, pictures, spec_of
from crowdperf.replay.run import Box, ffmpeg_flags
from crowdperf.replay.setup import Setup

WIDTH = 480
QUALITY = 80
LINE_COLOUR = (48, 176, 255)
"""Blue, green, red."""
BOX_COLOUR = (80, 220, 60)


class Scene(NamedTuple):
    """What a thumbnail shows."""

    number: int
    """The picture, from 0."""
    line: str
    """Drawn as `setup` has it."""
    setup: Setup
    box: Box | None
    """Of the object, where it is known."""

    @property
    def centred(self) -> bool:
        """Whether the object is counted by the centre of its box."""
        return any(line.id == self.line and line.anchor == "centre" for line in self.setup.tracked.lines)


def thumbnails(clip: Clip, scenes: Sequence[Scene]) -> list[str]:
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
    spec, last = spec_of(clip, WIDTH), max(wanted)
    extra, output = ffmpeg_flags(scenes[0].setup)
    source = pictures(clip, spec, extra, output)
    try:
        for picture in source:
            for index in wanted.get(picture.number, []):
                images[index] = _encoded(_drawn(_bgr(picture.data, spec), scenes[index]))
            if picture.number >= last:
                break
    finally:
        source.close()
    return images


def _bgr(data: NDArray[np.uint8], spec: RingSpec) -> NDArray[np.uint8]:
    planes = data.reshape(spec.height * 3 // 2, spec.width)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420), np.uint8)


def _drawn(image: NDArray[np.uint8], scene: Scene) -> NDArray[np.uint8]:
    height, width = image.shape[:2]

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * (width - 1)), round(y * (height - 1))

    for line in scene.setup.tracked.lines:
        if line.id == scene.line:
            corners = np.array([at(*point) for point in line.vertices()], np.int32)
            cv2.polylines(image, [corners], False, LINE_COLOUR, 2, cv2.LINE_AA)
    if scene.box is not None:
        x1, y1, x2, y2 = scene.box
        cv2.rectangle(image, at(x1, y1), at(x2, y2), BOX_COLOUR, 2, cv2.LINE_AA)
        anchor = at((x1 + x2) / 2, (y1 + y2) / 2 if scene.centred else y2)
        cv2.circle(image, anchor, 4, BOX_COLOUR, -1, cv2.LINE_AA)
    return image


def _encoded(image: NDArray[np.uint8]) -> str:
    done: tuple[bool, Any] = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(done[1].tobytes()).decode()
