"""H.264 encoding: one FFmpeg child, fed through a pipe, and a file that appears only when it is complete."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.demo.outlines import FPS, HEIGHT, WIDTH, DemoError
from crowdperf.primitives.atomic_file import replace_file
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing, find_ffmpeg


def find_encoder() -> str:
    """Find the FFmpeg that encodes.

    Raises:
        DemoError: there is none.
    """
    try:
        return find_ffmpeg()
    except FfmpegMissing as error:
        raise DemoError(f"the demo cannot be encoded: {error}") from None


def write_clip(frames: Iterable[NDArray[np.uint8]], path: Path) -> None:
    """Encode BGR frames of shape (HEIGHT, WIDTH, 3) to an MP4: a key frame per second, no B-frames.

    Raises:
        DemoError: FFmpeg is missing or fails; the message ends with its output. No file remains at `path`.
    """
    try:
        with replace_file(path) as part:
            _encode(frames, part, path)
    except OSError as error:
        raise DemoError(f"cannot write {str(path)!r}: {error}. Remedy: check that folder and FFmpeg.") from None


def _encode(frames: Iterable[NDArray[np.uint8]], part: Path, path: Path) -> None:
    """Encode into `part`; an error names `path`."""
    argv = [
        *(find_encoder(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-"),
        *("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-bf", "0", "-g", str(FPS), "-keyint_min", str(FPS)),
        *("-sc_threshold", "0", "-pix_fmt", "yuv420p", "-threads", "1"),
        *("-movflags", "+faststart", "-f", "mp4", str(part)),
    ]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stderr is not None
    try:
        for frame in frames:
            child.stdin.write(np.ascontiguousarray(cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)).data)
        child.stdin.close()
    except BrokenPipeError:
        pass  # It has ended. Its status and last words give the reason.
    except BaseException:
        child.kill()
        raise
    words = child.stderr.read().decode(errors="replace").strip()
    if child.wait():
        why = words[-300:] or f"exit status {child.returncode}"
        raise DemoError(f"FFmpeg could not encode {str(path)!r}: {why}. Remedy: room on the disk, or another FFmpeg.")
