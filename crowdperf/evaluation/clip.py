"""Recordings, decoded as capture would do it, and their detections on the clip's own clock.

Results do not depend on the machine's clock: the same clip and settings give the same bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from crowdperf.capture import ffmpeg_args, probe
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.network.url_policy import CheckedSource
from crowdperf.frames.layout import RingSpec
from crowdperf.frames.ring import FrameStamp
from crowdperf.inference.analyzers import Frame, create_analyzer
from crowdperf.inference.camera_feed import TokenBucket
from crowdperf.inference.engine import build_frame_detections
from crowdperf.inference.regions.planner import LookPlanner, MergedDetections
from crowdperf.messaging.schema import FrameDetections
from crowdperf.models.detector import Detector
from crowdperf.runtime.ffmpeg_binary import detect_features, find_ffmpeg
from crowdperf.settings.engine import Analysis
from crowdperf.settings.process_config import RingSettings

MAX_SILENCE_S = 60.0
"""A file that delivers no data for this long is on a failed disk or network."""
POLL_S = 0.2
DEFAULT_FPS = 25.0
"""Rate if neither the file nor the operator gives one; FFmpeg assumes the same."""
BATCH_SIZE = 8
"""Frames per call of the detector, on every machine: the batch size may change the last bit of a box."""
CLIP_START_S = 1_700_000_000
"""Unix seconds of a clip's first picture. It is fixed so that ids and times repeat."""
CLIP_EPOCH = 1
FrameFilter = Callable[[int, float], bool]
"""Selects the frames to analyse by ring sequence (from 1) and second of the clip; called in order."""
_PICTURE_TIME_PATTERN = re.compile(r"\] n: *\d+ pts: *\S+ pts_time: *(\S+)")


class ClipError(Exception):
    """Report a clip that cannot be used; the message names the file and the remedy."""


class Clip(Struct, frozen=True):
    """A recording."""

    path: Path
    width: int
    """Width of the upright source picture, pixels."""
    height: int
    fps: float
    timed: bool = False
    """If true, pictures have the times of the file. Otherwise picture n is at n / fps."""


class ClipFrame(NamedTuple):
    """One picture as the ring would hold it."""

    number: int
    """Number of the picture, from 0."""
    at_s: float
    """Seconds since the first picture."""
    data: NDArray[np.uint8]
    """(frame_bytes,), a new array for every picture."""


def open_clip(path: Path, fps: float | None = None) -> Clip:
    """Probe a recording, or raise ClipError; `fps` is the true rate of a file with wrong times."""
    if not path.is_file():
        raise ClipError(f"there is no file {str(path)!r}. Remedy: correct --clip.")
    child = FfmpegProcess(ffmpeg_args.build_probe_args(_build_options(path)), str)
    deadline = time.monotonic() + MAX_SILENCE_S
    while child.drain(POLL_S) and time.monotonic() < deadline:
        pass
    child.terminate()
    info = probe.parse_source_info("\n".join(child.info_lines))
    if info is None:
        lines = [line for line in child.tail if "At least one output file" not in line]
        reason = lines[-1].strip() if lines else "FFmpeg gives no reason"
        raise ClipError(f"{str(path)!r} holds no video that FFmpeg can read ({reason}). Remedy: give a recording.")
    return Clip(path, info.width, info.height, fps or info.fps or DEFAULT_FPS, timed=fps is None)


def build_clip_spec(clip: Clip, analysis_width: int = 640) -> RingSpec:
    """Build the ring spec that capture would use for this source, at most `analysis_width` pixels wide."""
    settings = RingSettings(
        pix_fmt="yuv420p", analysis_width=analysis_width, queue_max=2, target_fps=10.0, frame_skip=0
    )
    return probe.build_ring_spec(settings, probe.SourceInfo(clip.width, clip.height, clip.fps, True))


def read_frames(
    clip: Clip, spec: RingSpec, extra_flags: tuple[str, ...] = (), output_flags: tuple[str, ...] = ()
) -> Generator[ClipFrame, None, None]:
    """Decode the pictures of a clip, in order, or raise ClipError.

    Args:
        clip: the recording.
        spec: geometry and pixel format of the result.
        extra_flags: FFMPEG_EXTRA_FLAGS without those of live sources.
        output_flags: the camera's own `ffmpeg_flags`.

    Yields:
        Every picture of the clip.
    """
    # These output flags change the rate, so the times of the file no longer belong to the pictures.
    timed = clip.timed and not {"-r", "-fps_mode", "-vsync"} & set(output_flags)
    options = replace(
        _build_options(clip.path), report_timestamps=timed, extra_flags=extra_flags, output_flags=output_flags
    )
    child = FfmpegProcess(ffmpeg_args.build_capture_args(options, spec), str)
    times: list[float] = []
    number, began_s, at_s = 0, 0.0, 0.0
    try:
        while (data := _read_frame(child, spec.frame_bytes, times, clip)) is not None:
            if not timed:
                at_s = number / clip.fps
            else:
                while not times and child.read_log(POLL_S):
                    _collect_times(child, times)
                time_s = times.pop(0) if times else float("nan")
                if number == 0 and np.isfinite(time_s):
                    began_s = time_s
                # A picture without a time follows the one before it.
                at_s = time_s - began_s if np.isfinite(time_s) else at_s + 1 / clip.fps
            yield ClipFrame(number, at_s, data)
            number += 1
        code = child.wait_exit_code()
        if code or not number:
            reason = child.tail[-1].strip() if child.tail else f"exit code {code}"
            raise ClipError(f"FFmpeg could not read {str(clip.path)!r} after {number} pictures: {reason}.")
    finally:
        child.terminate()


def _build_options(path: Path) -> SourceOptions:
    binary = find_ffmpeg()
    source = CheckedSource("file", str(path.resolve()))
    # Probe longer: a recording may start between two keyframes, and its rate is needed too.
    return SourceOptions(binary=binary, features=detect_features(binary), source=source, long_probe=True)


def _read_frame(child: FfmpegProcess, size: int, times: list[float], clip: Clip) -> NDArray[np.uint8] | None:
    """Read the next picture, None at the end; append the times that FFmpeg reports to `times`."""
    data = np.empty(size, np.uint8)
    view, filled = data.data, 0
    last_data_at = time.monotonic()
    while filled < size:
        count = child.read_into(view[filled:], POLL_S)
        _collect_times(child, times)
        if count is None:
            return None
        if count:
            filled += count
            last_data_at = time.monotonic()
        elif time.monotonic() - last_data_at > MAX_SILENCE_S:
            raise ClipError(f"{str(clip.path)!r} delivered no data for {MAX_SILENCE_S:g} s. Remedy: check its disk.")
    return data


def _collect_times(child: FfmpegProcess, times: list[float]) -> None:
    """Append the picture times that FFmpeg has reported."""
    while child.info_lines:
        if match := _PICTURE_TIME_PATTERN.search(child.info_lines.popleft()):
            times.append(float("nan") if match[1] == "NOPTS" else float(match[1]))


class ClipDetections(NamedTuple):
    """Detections of a clip."""

    frames: list[FrameDetections]
    """The analysed frames; `sequence` is the picture's number plus one."""
    times: list[float]
    """Time of every picture, seconds since the first."""
    look_share: float = 1.0
    """Share of the analysed pictures' area that the model looked at."""


def build_frame_filter(target_fps: float, frame_skip: int) -> FrameFilter:
    """Build the filter that inference applies to a camera's frames (`inference.scheduler`)."""
    pace, every = TokenBucket(target_fps), frame_skip + 1
    return lambda sequence, at_s: sequence % every == 0 and pace.admit(at_s)


@dataclass
class ClipSource:
    """A clip as the analyzer sees it."""

    camera: str
    spec: RingSpec
    planner: LookPlanner | None = None


def detect_clip(
    pictures: Iterable[ClipFrame],
    spec: RingSpec,
    detector: Detector,
    frame_filter: FrameFilter,
    camera: str = "clip",
    analysis: Analysis = "auto",
) -> ClipDetections:
    """Analyse the pictures that pass the filter, as live inference does, or raise ModelError.

    Args:
        pictures: in order, of the geometry `spec`.
        spec: their geometry.
        detector: the detector.
        frame_filter: selects the pictures.
        camera: camera id in the result.
        analysis: as in the `inference` block; regions share no canvas with other cameras here.

    Returns:
        The analysed frames, and the times of all pictures.
    """
    result = ClipDetections([], [])
    batch: list[ClipFrame] = []
    analyzer = create_analyzer(analysis, detector.backend.device)
    source = ClipSource(camera, spec)
    analyzer.prepare(source)
    # Whole pictures go in fixed batches. What a planner looks at depends on the frame before.
    batch_size = BATCH_SIZE if source.planner is None else 1

    def detect() -> list[MergedDetections]:
        data = [picture.data for picture in batch]
        if source.planner is None:
            return [MergedDetections(found, None) for found in detector.detect(data, spec)]
        looks = analyzer.load(detector, [Frame(source, picture.data, picture.at_s) for picture in batch])
        analyzer.start(looks)
        return analyzer.finish(looks)

    def analyse() -> None:
        for picture, found in zip(batch, detect(), strict=True):
            at_ns = round((CLIP_START_S + picture.at_s) * 1e9)
            stamp = FrameStamp(CLIP_EPOCH, picture.number + 1, at_ns, at_ns)
            result.frames.append(build_frame_detections(camera, spec, stamp, found.detections, None, found.carried))
        batch.clear()

    for picture in pictures:
        result.times.append(picture.at_s)
        if frame_filter(picture.number + 1, picture.at_s):
            batch.append(picture)
        if len(batch) == batch_size:
            analyse()
    if batch:
        analyse()
    looks = source.planner.take_looks() if source.planner else None
    return result._replace(look_share=looks.area / looks.total) if looks and looks.total else result
