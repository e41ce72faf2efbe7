"""What a source is, out of FFmpeg's own words, and the geometry of the ring that follows from it. Pure."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from msgspec.structs import replace

from crowdperf.frames.layout import RingSpec
from crowdperf.settings.process_config import CaptureConfig

MIN_SLOTS = 4
STALENESS_S = 0.5
MAX_BURST_BYTES = 16 * 2**20
"""640x360 at 25 frames/s takes 5 MiB for half a second; 1080p in bgr24 would take 90."""
"""Older frames are not analysed (inference.staleness_s), so the ring need not keep them."""
_VIDEO = re.compile(r"Stream #\d+:\d+.*?: Video: .*?[ ,](\d{2,5})x(\d{2,5})(?=[ ,\n]|$)")
_FPS = re.compile(r"Video: .*?([\d.]+) fps")
_ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")
_DURATION = re.compile(r"Duration: (?!00:00:00\.00)\d+:\d+:")
"""FLV that is written live has a duration of zero: it has no end that is known."""


class SourceInfo(NamedTuple):
    """A source's picture, upright, and whether it has an end."""

    width: int
    height: int
    fps: float
    """As the source states it; 0.0 where it does not."""
    is_finite: bool


def parse_source_info(stderr: str) -> SourceInfo | None:
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
    return SourceInfo(width, height, float(fps[1]) if fps else 0.0, _DURATION.search(stderr) is not None)


def parse_stream_info(stderr: str) -> tuple[SourceInfo, int, int] | None:
    """Read the reports of input AND output: the source, and width and height of the pictures that FFmpeg will write.

    None until both have been printed.
    """
    before, reported, after = stderr.partition("Output #0")
    found, written = parse_source_info(before), _VIDEO.search(after)
    if not reported or found is None or written is None:
        return None
    return found, int(written[1]), int(written[2])


def compute_analysis_size(source_width: int, source_height: int, analysis_width: int) -> tuple[int, int]:
    """Width and height of the analysed picture: never wider than the source, even, the source's shape."""
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
    """The ring for a source, with as many `slots` as suit its rate.

    `written` is the size that FFmpeg has chosen itself; otherwise it is to write `analysis_size`.
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
        # Never more than there is; an even number as the picture's own.
        model_width=model_width // 2 * 2 if 0 < model_width < width else 0,
    )
    return replace(spec, slots=compute_slot_count(spec, source_info.fps, queue_max))


def build_camera_ring_spec(
    config: CaptureConfig, source_info: SourceInfo, output_size: tuple[int, int] | None = None
) -> RingSpec:
    """The ring of a camera whose source is `found`."""
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
    """Pictures of a ring: those that inference may still want, one that is written, one to spare, four at least.

    It may want half a second's: cameras pause that long around their key frames and then send what piled up, and a
    machine is busy elsewhere that long now and then. Where those would take more than `BURST_BYTES`, it has to do with
    `queue_max` frames that are due; where only one of n frames is due, n times as many stay (measured: a 30 frames/s
    camera analysed at 10 lost one due frame in ten to the writer in a ring of four).
    """
    # What a stream says of its rate is not always true, hence the bounds.
    rate = min(fps, 60.0) or spec.target_fps
    burst = max(queue_max, math.ceil(rate * STALENESS_S))
    due_every = max(1, spec.frame_skip + 1, math.ceil(rate / spec.target_fps - 0.05))
    held = min(queue_max * due_every, burst)
    return max(MIN_SLOTS, held + 2, min(burst + 2, MAX_BURST_BYTES // spec.stride))
