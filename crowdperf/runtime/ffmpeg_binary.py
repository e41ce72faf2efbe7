"""Which FFmpeg there is and what it knows; asked once per binary and process."""

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
"""Variables by which FFmpeg's http and TLS pass by what this program has decided about connections."""


class FfmpegMissing(Exception):
    """There is no FFmpeg to run; the message names what was looked for and the remedy."""


def find_ffmpeg() -> str:
    """The FFmpeg to run: `CROWDPERF_FFMPEG`, else the system's, else the one of the imageio-ffmpeg wheel.

    Raises:
        FfmpegMissing: there is none.
    """
    wanted = os.environ.get("CROWDPERF_FFMPEG", "")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise FfmpegMissing(
                f"CROWDPERF_FFMPEG={wanted!r} is no program. Remedy: name an FFmpeg binary, or unset the variable."
            )
        return found
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        raise FfmpegMissing(
            "no FFmpeg: neither on PATH nor in the Python package imageio-ffmpeg. "
            "Remedy: ./crowdperf.sh setup, or install FFmpeg, or set CROWDPERF_FFMPEG."
        ) from None


def build_ffmpeg_environment() -> dict[str, str]:
    """The environment of an FFmpeg: this process's, without `PROXIES`."""
    return {name: value for name, value in os.environ.items() if name not in PROXY_VARIABLES}


def remove_proxy_variables() -> None:
    """Take `PROXIES` out of this process's environment, where libav would read them. Before other threads run."""
    for name in PROXY_VARIABLES:
        os.environ.pop(name, None)


class FfmpegFeatures(NamedTuple):
    """The spellings that differ between FFmpeg's releases; the binary's own help decides, never a version number."""

    timeout: str
    """The rtsp demuxer's socket time-out: `-stimeout` up to FFmpeg 4 (its `-timeout` listens), then `-timeout`."""
    passthrough: tuple[str, str]
    """One picture out per picture in: `-fps_mode` from 5.1 on, `-vsync` before."""
    initial_burst: bool
    """Whether `-re` begins with a burst that `-readrate_initial_burst` can switch off (6.1 and newer)."""


DEFAULT_FEATURES = FfmpegFeatures("-timeout", ("-fps_mode", "passthrough"), True)
"""The present spellings: for the backend that runs no binary, and for a binary that does not answer."""


class _HelpUnavailable(Exception):
    """The binary runs, but gives no help in time, or far too much."""


def detect_features(binary: str) -> FfmpegFeatures:
    """What `binary` knows. It is asked once; one that does not answer is asked again the next time.

    Raises:
        FfmpegMissing: it does not run.
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
    """Whether a line of the help begins with `option` (which may carry a stream specifier)."""
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
            said = _read_all(process.stdout.fileno())
            if said is None:
                os.killpg(process.pid, signal.SIGKILL)
    except OSError as error:
        raise FfmpegMissing(
            f"FFmpeg {binary!r} does not run: {error}. Remedy: install another FFmpeg, or set CROWDPERF_FFMPEG."
        ) from None
    if said is None:
        raise _HelpUnavailable
    return said.decode(errors="replace")


def _read_all(fd: int) -> bytes | None:
    """Everything up to the end; None where it is late, or too much to be a help text."""
    said, deadline = b"", time.monotonic() + HELP_TIMEOUT_S
    while len(said) < MAX_HELP_BYTES:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(fd, 1 << 16)
        if not part:
            return said
        said += part
    return None
