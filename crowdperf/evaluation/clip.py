"""Recorded footage as capture would deliver it: the same command, the same pixels, each picture's time.

What the detector finds in a clip: the frames that the site would analyse, in fixed batches, by the clip's own clock.

Nothing here looks at a clock of the machine, so that the same clip and settings give the same bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterable
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
from crowdperf.inference.camera_feed import TokenBucket
from crowdperf.inference.engine import build_frame_detections
from crowdperf.messaging.schema import FrameDetections
from crowdperf.models.detector import Detector
from crowdperf.runtime.ffmpeg_binary import detect_features, find_ffmpeg
from crowdperf.settings.process_config import RingSettings

MAX_SILENCE_S = 60.0
"""A file that gives nothing for so long lies on a disk, or a network, that is gone."""
POLL_S = 0.2
DEFAULT_FPS = 25.0
"""Where neither the file nor the operator says a rate: what FFmpeg assumes too."""
_PICTURE_TIME_PATTERN = re.compile(r"\] n: *\d+ pts: *\S+ pts_time: *(\S+)")


class ClipError(Exception):
    """The clip cannot be used; the message names the file and the remedy."""


class Clip(Struct, frozen=True):
    """A recording."""

    path: Path
    width: int
    """Of the upright source picture, pixels."""
    height: int
    fps: float
    """Pictures per second; the times of a clip that is not `timed`."""
    timed: bool = False
    """Every picture has the time that the file gives it. Otherwise picture n is at n / fps."""


class ClipFrame(NamedTuple):
    """One picture as the ring would hold it."""

    number: int
    """From 0."""
    at_s: float
    """Seconds since the first picture."""
    data: NDArray[np.uint8]
    """Shape (frame_bytes,); a new array each time."""


def open_clip(path: Path, fps: float | None = None) -> Clip:
    """Look at a file.

    Args:
        path: a recording that FFmpeg can read.
        fps: the true rate, for a file whose own times are wrong; None believes the file.

    Raises:
        ClipError: no such file, or no video in it.
        FfmpegMissing: there is no FFmpeg.
    """
    if not path.is_file():
        raise ClipError(f"there is no file {str(path)!r}. Remedy: correct --clip.")
    child = FfmpegProcess(ffmpeg_args.build_probe_args(_build_options(path)), str)
    deadline = time.monotonic() + MAX_SILENCE_S
    while child.drain(POLL_S) and time.monotonic() < deadline:
        pass
    child.terminate()
    found = probe.parse_source_info("\n".join(child.info_lines))
    if found is None:
        lines = [line for line in child.tail if "At least one output file" not in line]
        said = lines[-1].strip() if lines else "FFmpeg says nothing of it"
        raise ClipError(f"{str(path)!r} holds no video that FFmpeg can read ({said}). Remedy: give a recording.")
    return Clip(path, found.width, found.height, fps or found.fps or DEFAULT_FPS, timed=fps is None)


def build_clip_spec(
    clip: Clip, analysis_width: int = 640, target_fps: float = 10.0, frame_skip: int = 0, bgr24: bool = False
) -> RingSpec:
    """The ring that capture would make for this source."""
    settings = RingSettings(
        pix_fmt="bgr24" if bgr24 else "yuv420p",
        analysis_width=analysis_width,
        queue_max=2,
        target_fps=target_fps,
        frame_skip=frame_skip,
    )
    return probe.build_ring_spec(settings, probe.SourceInfo(clip.width, clip.height, clip.fps, True))


def read_frames(
    clip: Clip, spec: RingSpec, extra_flags: tuple[str, ...] = (), output_flags: tuple[str, ...] = ()
) -> Generator[ClipFrame, None, None]:
    """Every picture of the clip, in order, in the form of `spec`.

    Args:
        extra_flags: FFMPEG_EXTRA_FLAGS, of those that fit a recording.
        output_flags: the camera's own `ffmpeg_flags`.

    Raises:
        ClipError: FFmpeg gave up, or stalled.
    """
    # Those of the output make their own pace: the time of a picture before them says nothing of the one behind.
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
                shown = times.pop(0) if times else float("nan")
                if number == 0 and np.isfinite(shown):
                    began_s = shown
                # A picture without a time follows the one before it.
                at_s = shown - began_s if np.isfinite(shown) else at_s + 1 / clip.fps
            yield ClipFrame(number, at_s, data)
            number += 1
        code = child.wait_exit_code()
        if code or not number:
            said = child.tail[-1].strip() if child.tail else f"exit code {code}"
            raise ClipError(f"FFmpeg could not read {str(clip.path)!r} after {number} pictures: {said}.")
    finally:
        child.terminate()


def _build_options(path: Path) -> SourceOptions:
    binary = find_ffmpeg()
    source = CheckedSource("file", str(path.resolve()))
    # Patient: a recording may begin between two keyframes, and its rate is wanted too.
    return SourceOptions(binary=binary, features=detect_features(binary), source=source, long_probe=True)


def _read_frame(child: FfmpegProcess, size: int, times: list[float], clip: Clip) -> NDArray[np.uint8] | None:
    """The next whole picture, None at the end; the times that are told meanwhile go to `times`."""
    data = np.empty(size, np.uint8)
    view, filled = data.data, 0
    heard = time.monotonic()
    while filled < size:
        count = child.read_into(view[filled:], POLL_S)
        _collect_times(child, times)
        if count is None:
            return None
        if count:
            filled += count
            heard = time.monotonic()
        elif time.monotonic() - heard > MAX_SILENCE_S:
            raise ClipError(
                f"{str(clip.path)!r} gave nothing for {MAX_SILENCE_S:g} s. Remedy: see whether its disk is gone."
            )
    return data


def _collect_times(child: FfmpegProcess, times: list[float]) -> None:
    """Take over what FFmpeg has told of its pictures' times."""
    while child.info_lines:
        shown = _PICTURE_TIME_PATTERN.search(child.info_lines.popleft())
        if shown:
            times.append(float("nan") if shown[1] == "NOPTS" else float(shown[1]))


BATCH_SIZE = 8
"""Frames per call of the detector, on every machine: the size of a batch may change the last bit of a box."""
CLIP_START_S = 1_700_000_000
"""Unix seconds of a clip's first picture: any fixed moment will do, so that ids and times repeat."""
CLIP_EPOCH = 1
FrameFilter = Callable[[int, float], bool]
"""Whether the frame of that ring sequence (from 1), at that second of the clip, is analysed; called in order."""


class ClipDetections(NamedTuple):
    """A clip after the detector."""

    frames: list[FrameDetections]
    """The analysed ones; sequence is the picture's number plus one."""
    times: list[float]
    """Of every picture, seconds since the first."""


def build_frame_filter(target_fps: float, frame_skip: int) -> FrameFilter:
    """The rule by which inference picks a camera's frames (`inference.schedule`), for a source that never stalls."""
    pace, every = TokenBucket(target_fps), frame_skip + 1
    return lambda sequence, at_s: sequence % every == 0 and pace.admit(at_s)


def detect_clip(
    pictures: Iterable[ClipFrame], spec: RingSpec, detector: Detector, frame_filter: FrameFilter, camera: str = "clip"
) -> ClipDetections:
    """Analyse the pictures that `wanted` picks.

    Args:
        pictures: in order, of the geometry `spec`.
        camera: the id that the detections bear.

    Raises:
        ModelError: the model cannot run at this geometry.
    """
    seen = ClipDetections([], [])
    waiting: list[ClipFrame] = []

    def analyse() -> None:
        for picture, found in zip(waiting, detector.detect([picture.data for picture in waiting], spec)):
            at_ns = round((CLIP_START_S + picture.at_s) * 1e9)
            seen.frames.append(
                build_frame_detections(camera, spec, FrameStamp(CLIP_EPOCH, picture.number + 1, at_ns, at_ns), found)
            )
        waiting.clear()

    for picture in pictures:
        seen.times.append(picture.at_s)
        if frame_filter(picture.number + 1, picture.at_s):
            waiting.append(picture)
        if len(waiting) == BATCH_SIZE:
            analyse()
    if waiting:
        analyse()
    return seen
