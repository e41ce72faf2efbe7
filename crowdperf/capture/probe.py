"""Parse FFmpeg's report of a source and derive the ring's geometry. Pure functions."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from msgspec.structs import replace

from crowdperf.frames.layout import RingSpec
from crowdperf.settings.process_config import CaptureConfig

MIN_SLOTS = 4
STALENESS_S = 0.5
"""Older frames are not analysed (inference.staleness_s), so the ring need not keep them."""
MAX_BURST_BYTES = 16 * 2**20
"""Limit on the memory for bursts: half a second takes 5 MiB at 640x360 and 25 frames/s, 90 MiB at 1080p in bgr24."""
_VIDEO = re.compile(r"Stream #\d+:\d+.*?: Video: .*?[ ,](\d{2,5})x(\d{2,5})(?=[ ,\n]|$)")
_FPS = re.compile(r"Video: .*?([\d.]+) fps")
_ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")
_DURATION = re.compile(r"Duration: (?!00:00:00\.00)\d+:\d+:")
"""Live FLV has a duration of zero, which means that no end is known."""


class SourceInfo(NamedTuple):
    """Size and rate of a source's upright picture, and whether the source has an end."""

    width: int
    height: int
    fps: float
    """Rate that the source states; 0.0 if it states none."""
    is_finite: bool


def parse_source_info(stderr: str) -> SourceInfo | None:
    """Parse FFmpeg's report of its input; None where it names no video with a size."""
    video = _VIDEO.search(stderr)
    if video is None:
        return None
    width, height = int(video[1]), int(video[2])
    rotation = _ROTATION.search(stderr)
    if rotation and round(abs(float(rotation[1]))) % 180 == 90:
        # FFmpeg rotates the picture upright.
        width, height = height, width
    fps = _FPS.search(stderr)
    return SourceInfo(width, height, float(fps[1]) if fps else 0.0, _DURATION.search(stderr) is not None)


def parse_stream_info(stderr: str) -> tuple[SourceInfo, int, int] | None:
    """Parse FFmpeg's reports of input and output: the source, then width and height of the output.

    Returns None until both reports are complete.
    """
    input_report, separator, output_report = stderr.partition("Output #0")
    source_info, output = parse_source_info(input_report), _VIDEO.search(output_report)
    if not separator or source_info is None or output is None:
        return None
    return source_info, int(output[1]), int(output[2])


def compute_analysis_size(source_width: int, source_height: int, analysis_width: int) -> tuple[int, int]:
    """Compute the size of the analysed picture: even, in the source's shape, never wider than the source.

    Args:
        source_width: Pixels.
        source_height: Pixels.
        analysis_width: Configured width in pixels.

    Returns:
        Width and height in pixels.
    """
    width = max(2, min(analysis_width, source_width) // 2 * 2)
    return width, max(2, round(width * source_height / source_width / 2) * 2)


def build_ring_spec(
    source_info: SourceInfo,
    *,
    pix_fmt: Literal["yuv420p", "bgr24"],
    analysis_width: int,
    queue_max: int,
    target_fps: float,
    frame_skip: int,
    ppe_fps: float = 0.0,
    model_width: int = 0,
    output_size: tuple[int, int] | None = None,
) -> RingSpec:
    """Build the ring's geometry for a source.

    Args:
        source_info: The source.
        pix_fmt: Pixel format of the ring.
        analysis_width: Configured width in pixels.
        queue_max: Due frames that wait at most.
        target_fps: Analysed frames per second.
        frame_skip: Frames to skip after each analysed one.
        ppe_fps: Frames per second for the PPE model; 0 without a PPE rule.
        model_width: Width in pixels that the person model sees; 0 for the whole picture.
        output_size: Width and height that FFmpeg chose; by default the analysis size.

    Returns:
        The ring's geometry, with slots for the source's rate.
    """
    width, height = output_size or compute_analysis_size(source_info.width, source_info.height, analysis_width)
    spec = RingSpec(
        width=width,
        height=height,
        pix_fmt=pix_fmt,
        source_width=source_info.width,
        source_height=source_info.height,
        slots=MIN_SLOTS,
        target_fps=target_fps,
        frame_skip=frame_skip,
        ppe_fps=ppe_fps,
        # Even, as the picture's own width, and never larger.
        model_width=model_width // 2 * 2 if 0 < model_width < width else 0,
    )
    return replace(spec, slots=compute_slot_count(spec, source_info.fps, queue_max))


def build_camera_ring_spec(
    config: CaptureConfig, source_info: SourceInfo, output_size: tuple[int, int] | None = None
) -> RingSpec:
    """Build the ring's geometry for a camera.

    Args:
        config: The camera.
        source_info: Its source.
        output_size: Width and height that FFmpeg chose; by default the analysis size.

    Returns:
        The ring's geometry.
    """
    return build_ring_spec(
        source_info,
        pix_fmt=config.pix_fmt,
        analysis_width=config.analysis_width,
        queue_max=config.queue_max,
        target_fps=config.target_fps,
        frame_skip=config.frame_skip,
        ppe_fps=config.ppe_fps,
        model_width=config.model_width,
        output_size=output_size,
    )


def compute_slot_count(spec: RingSpec, fps: float, queue_max: int) -> int:
    """Compute how many slots a ring needs, at least `MIN_SLOTS`.

    Inference may still need half a second of frames. Cameras pause that long around keyframes and then send a burst,
    and a busy machine falls behind as long. If half a second exceeds `MAX_BURST_BYTES`, `queue_max` due frames must do;
    where only one frame in n is due, n times as many stay. Measured: a 30 frames/s camera analysed at 10 lost one due
    frame in ten with a ring of four. One slot more is for the writer, one is spare.

    Args:
        spec: The ring, `slots` apart.
        fps: Rate of the source; 0 if unknown.
        queue_max: Due frames that wait at most.

    Returns:
        Number of slots.
    """
    # A stream may state a wrong rate, hence the bounds.
    rate = min(fps, 60.0) or spec.target_fps
    burst = max(queue_max, math.ceil(rate * STALENESS_S))
    due_every = max(1, spec.frame_skip + 1, math.ceil(rate / spec.target_fps - 0.05))
    held = min(queue_max * due_every, burst)
    return max(MIN_SLOTS, held + 2, min(burst + 2, MAX_BURST_BYTES // spec.stride))
