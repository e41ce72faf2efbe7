"""Parse FFmpeg's report of a source and derive the ring's geometry. Pure functions."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from msgspec.structs import replace

from crowdperf.frames.layout import RingSpec
from crowdperf.settings.process_config import RingSettings

MIN_SLOTS = 4
STALENESS_S = 0.5
"""Older frames are not analysed (inference.staleness_s), so the ring need not keep them."""
MAX_BURST_BYTES = 16 * 2**20
"""Limit on the memory for bursts: half a second takes 5 MiB at 640x360 and 25 frames/s, 90 MiB at 1080p in bgr24."""
_VIDEO = re.compile(r"Stream #\d+:\d+.*?: Video: .*?[ ,](\d{2,5})x(\d{2,5})(?=[ ,\n]|$)")
_FPS = re.compile(r"Video: .*?([\d.]+) fps")
_ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")
_DURATION = re.compile(r"Duration: (?!00:00:00\.00)\d+:\d+:[^\n]*")
"""Live FLV has a duration of zero, which means that no end is known."""
_FORMAT = re.compile(r"Input #0, (.*), from ")
_PLAYLISTS = frozenset(("hls", "dash"))
"""Formats whose duration is that of a list of files; its length says nothing about them."""


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
    duration, form = _DURATION.search(stderr), _FORMAT.search(stderr)
    is_finite = duration is not None and has_end(form[1] if form else "", "bitrate: N/A" not in duration[0])
    return SourceInfo(width, height, float(fps[1]) if fps else 0.0, is_finite)


def has_end(format_name: str, has_bit_rate: bool) -> bool:
    """Check whether a source by http that states a duration is a recording.

    A live fragmented MP4 states the length of its first fragment. Libav computes a bit rate from the length of the
    file, which a live answer does not have.
    """
    return has_bit_rate or format_name in _PLAYLISTS


def parse_stream_info(stderr: str) -> tuple[SourceInfo, int, int] | None:
    """Parse FFmpeg's reports: source, width and height of the output; None until both are complete."""
    input_report, separator, output_report = stderr.partition("Output #0")
    source_info, output = parse_source_info(input_report), _VIDEO.search(output_report)
    if not separator or source_info is None or output is None:
        return None
    return source_info, int(output[1]), int(output[2])


def compute_analysis_size(source_size: tuple[int, int], analysis_width: int) -> tuple[int, int]:
    """Compute the size of the analysed picture: even, in the source's shape, never wider than it."""
    source_width, source_height = source_size
    width = max(2, min(analysis_width, source_width) // 2 * 2)
    return width, max(2, round(width * source_height / source_width / 2) * 2)


def build_ring_spec(
    settings: RingSettings, source_info: SourceInfo, output_size: tuple[int, int] | None = None
) -> RingSpec:
    """Build the ring's geometry for a source.

    Args:
        settings: The camera.
        source_info: Its source.
        output_size: Width and height that FFmpeg chose; by default the analysis size.

    Returns:
        The geometry, with slots for the source's rate.
    """
    source_size = source_info.width, source_info.height
    width, height = output_size or compute_analysis_size(source_size, settings.analysis_width)
    spec = RingSpec(
        width=width,
        height=height,
        pix_fmt=settings.pix_fmt,
        source_width=source_info.width,
        source_height=source_info.height,
        slots=MIN_SLOTS,
        target_fps=settings.target_fps,
        frame_skip=settings.frame_skip,
        ppe_fps=settings.ppe_fps,
        # Even, as the picture's own width, and never larger.
        model_width=settings.model_width // 2 * 2 if 0 < settings.model_width < width else 0,
    )
    return replace(spec, slots=compute_slot_count(spec, source_info.fps, settings.queue_max))


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
