"""What a source is, out of FFmpeg's own words, and the geometry of the ring that follows from it. Pure."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from crowdperf.frames.layout import RingSpec

STALENESS_S = 0.5
"""Older frames are not analysed (inference.staleness_s), so the ring need not keep them."""
_VIDEO = re.compile(r"Stream #\d+:\d+.*?: Video: .*?[ ,](\d{2,5})x(\d{2,5})(?=[ ,\n]|$)")
_FPS = re.compile(r"Video: .*?([\d.]+) fps")
_ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")
_DURATION = re.compile(r"Duration: \d+:\d+:")


class Probe(NamedTuple):
    """A source's picture, upright, and whether it has an end."""

    width: int
    height: int
    fps: float
    """As the source states it; 0.0 where it does not."""
    finite: bool


def parse(stderr: str) -> Probe | None:
    """Read the report that FFmpeg prints of its input; None where it names no video with a size."""
    video = _VIDEO.search(stderr)
    if video is None:
        return None
    width, height = int(video[1]), int(video[2])
    rotation = _ROTATION.search(stderr)
    if rotation and round(abs(float(rotation[1]))) % 180 == 90:
        # FFmpeg turns the picture upright by itself.
        width, height = height, width
    fps = _FPS.search(stderr)
    return Probe(width, height, float(fps[1]) if fps else 0.0, _DURATION.search(stderr) is not None)


def parse_stream(stderr: str) -> tuple[Probe, int, int] | None:
    """Read the reports of input AND output: the source, and width and height of the pictures that FFmpeg will write.

    None until both have been printed.
    """
    before, reported, after = stderr.partition("Output #0")
    found, written = parse(before), _VIDEO.search(after)
    if not reported or found is None or written is None:
        return None
    return found, int(written[1]), int(written[2])


def analysis_size(source_width: int, source_height: int, analysis_width: int) -> tuple[int, int]:
    """Width and height of the analysed picture: never wider than the source, even, the source's shape."""
    width = max(2, min(analysis_width, source_width) // 2 * 2)
    return width, max(2, round(width * source_height / source_width / 2) * 2)


def ring_spec(
    probe: Probe,
    *,
    pix_fmt: Literal["yuv420p", "bgr24"],
    analysis_width: int,
    queue_max: int,
    target_fps: float,
    frame_skip: int,
    ppe_fps: float = 0.0,
    model_width: int = 0,
    written: tuple[int, int] | None = None,
) -> RingSpec:
    """The ring for a source. Slots: what inference may hold, one that is written, one to spare, four at least.

    What it may hold are frames that are due; where only one of n frames is, n times as many have to stay (measured: a
    30 frames/s camera analysed at 10 lost one due frame in ten to the writer in a ring of four).

    `written` is the size that FFmpeg has chosen itself; otherwise it is to write `analysis_size`.
    """
    width, height = written or analysis_size(probe.width, probe.height, analysis_width)
    return RingSpec(
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        source_width=probe.width,
        source_height=probe.height,
        slots=max(4, _held(queue_max, probe.fps, target_fps, frame_skip) + 2),
        target_fps=target_fps,
        frame_skip=frame_skip,
        ppe_fps=ppe_fps,
        # Never more than there is; an even number as the picture's own.
        model_width=model_width // 2 * 2 if 0 < model_width < width else 0,
    )


def _held(queue_max: int, fps: float, target_fps: float, frame_skip: int) -> int:
    """Frames from the oldest one that inference may still want to the newest: as many as are due, or half a second's.

    What a stream says of its rate is not always true, hence the bounds.
    """
    rate = min(fps, 60.0) or target_fps
    due_every = max(1, frame_skip + 1, math.ceil(rate / target_fps - 0.05))
    return min(queue_max * due_every, max(queue_max, math.ceil(rate * STALENESS_S)))
