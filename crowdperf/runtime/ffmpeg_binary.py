"""Find the FFmpeg binary and detect its features. Each binary is asked once per process."""

from __future__ import annotations

import functools
import os
import re
import select
import shutil
import signal
import subprocess
import time
from typing import NamedTuple

HELP_TIMEOUT_S = 5.0
MAX_HELP_BYTES = 1 << 22
PROXY_VARIABLES = ("http_proxy", "no_proxy")
"""Variables that make FFmpeg open connections through another host than the one that was checked."""


class FfmpegMissing(Exception):
    """There is no FFmpeg to run. The message names what was looked for and the remedy."""


def find_ffmpeg() -> str:
    """Find FFmpeg: `CROWDPERF_FFMPEG`, else PATH, else the imageio-ffmpeg wheel."""
    wanted = os.environ.get("CROWDPERF_FFMPEG", "")
    if wanted:
        path = shutil.which(wanted)
        if path is None:
            raise FfmpegMissing(
                f"CROWDPERF_FFMPEG={wanted!r} is no program. Remedy: name an FFmpeg binary, or unset the variable."
            )
        return path
    path = shutil.which("ffmpeg")
    if path:
        return path
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise FfmpegMissing(
            "no FFmpeg: neither on PATH nor in the Python package imageio-ffmpeg. "
            "Remedy: ./crowdperf.sh setup, or install FFmpeg, or set CROWDPERF_FFMPEG."
        ) from None


SECRET_VARIABLE = re.compile(r"^CROWDPERF_|PASS|SECRET|TOKEN|DSN|CREDENTIAL|API_?KEY|WEBHOOK", re.IGNORECASE)
"""Variables of crowdperf itself and of its alert channels."""


def build_ffmpeg_environment() -> dict[str, str]:
    """Copy this process's environment without `PROXY_VARIABLES` and without what FFmpeg need not know."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in PROXY_VARIABLES and not SECRET_VARIABLE.search(name)
    }


def remove_proxy_variables() -> None:
    """Remove `PROXY_VARIABLES` from this process, where libav reads them. Call it before threads start."""
    for name in PROXY_VARIABLES:
        os.environ.pop(name, None)


class FfmpegFeatures(NamedTuple):
    """Options that differ between FFmpeg releases. The binary's help decides, never a version number."""

    timeout: str
    """Socket timeout of the rtsp demuxer: `-stimeout` up to FFmpeg 4 (its `-timeout` listens), then `-timeout`."""
    passthrough: tuple[str, str]
    """One frame out per frame in: `-fps_mode` from 5.1 on, `-vsync` before."""
    initial_burst: bool
    """Whether `-re` starts with a burst that `-readrate_initial_burst` can switch off (6.1 and newer)."""


DEFAULT_FEATURES = FfmpegFeatures("-timeout", ("-fps_mode", "passthrough"), True)
"""Current options: for the backend that runs no binary, and for a binary that does not answer."""


class _HelpUnavailable(Exception):
    """The binary runs, but prints no help in time, or far too much."""


def detect_features(binary: str) -> FfmpegFeatures:
    """Detect the features of `binary`. The answer is cached; a binary without an answer is asked again.

    Raises:
        FfmpegMissing: It does not run.
    """
    try:
        return _query_features(binary)
    except _HelpUnavailable:
        return DEFAULT_FEATURES


@functools.lru_cache(maxsize=4)
def _query_features(binary: str) -> FfmpegFeatures:
    rtsp, options = _read_help(binary, "demuxer=rtsp"), _read_help(binary, "long")
    return FfmpegFeatures(
        timeout="-stimeout" if _has_option(rtsp, "-stimeout") else "-timeout",
        passthrough=("-fps_mode", "passthrough") if _has_option(options, "-fps_mode") else ("-vsync", "passthrough"),
        initial_burst=_has_option(options, "-readrate_initial_burst"),
    )


def _has_option(help_text: str, option: str) -> bool:
    """Check whether a line of the help starts with `option` (a stream specifier may follow)."""
    return re.search(rf"^\s*{option}(?![a-z_])", help_text, re.MULTILINE) is not None


def _read_help(binary: str, topic: str) -> str:
    try:
        with subprocess.Popen(
            [binary, "-hide_banner", "-h", topic],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            output = _read_all(process.stdout.fileno())
            if output is None:
                os.killpg(process.pid, signal.SIGKILL)
    except OSError as error:
        raise FfmpegMissing(
            f"FFmpeg {binary!r} does not run: {error}. Remedy: install another FFmpeg, or set CROWDPERF_FFMPEG."
        ) from None
    if output is None:
        raise _HelpUnavailable
    return output.decode(errors="replace")


def _read_all(fd: int) -> bytes | None:
    """Read up to the end. None: it is late, or too long for a help text."""
    output, deadline = b"", time.monotonic() + HELP_TIMEOUT_S
    while len(output) < MAX_HELP_BYTES:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, 1 << 16)
        if not part:
            return output
        output += part
    return None
