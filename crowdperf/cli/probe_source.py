"""Open a source once, as capture would, and return one picture or the error: `crowdperf probe-source`.

It runs beside the web process, not in it. So FFmpeg, a hanging camera and a camera's password stay outside.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import time
from functools import partial
from urllib.parse import urlsplit

import msgspec

from crowdperf.capture import ffmpeg_args, probe
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.network import url_policy
from crowdperf.capture.network.connect_filter import ConnectFilter, ConnectFilterUnavailable
from crowdperf.capture.network.egress_proxy import EgressProxy
from crowdperf.primitives.redaction import make_redactor, redact_url
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing, detect_features, find_ffmpeg
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.base import ConfigError, validate_camera_url
from crowdperf.settings.config import Config, Installation
from crowdperf.supervision.config_patch import ProbeRequest, ProbeResult

MAX_PROBE_S = 7.5
"""Together with the start of Python and FFmpeg, an answer takes at most ten seconds."""
MAX_JPEG_BYTES = 4 << 20
SNAPSHOT_WIDTH = 1280
_LOG_PREFIX = re.compile(r"^\[[^\]]* @ 0x[0-9a-f]+\] ")


def main(words: list[str], installation: Installation) -> int:
    """Read one request as JSON from stdin and write the answer to stdout."""
    argparse.ArgumentParser(prog="crowdperf probe-source", description="Get one picture of a source.").parse_args(words)
    deployment = installation.load()
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ProbeRequest)
    sys.stdout.buffer.write(msgspec.json.encode(probe_source(request, deployment.config, deployment.media_roots)))
    return 0


def probe_source(request: ProbeRequest, config: Config, media_roots: tuple[str, ...]) -> ProbeResult:
    """Open the source and wait for one picture.

    Args:
        request: the source.
        config: the configuration, for stored URLs and allowed hosts.
        media_roots: folders below which local files may be read.

    Returns:
        The picture as JPEG, or the error without secrets.
    """
    url = request.url
    for camera in config.cameras:
        if camera.id == request.camera and redact_url(camera.url) == url:
            url = camera.url
    redact = make_redactor(url)
    allowed = tuple(config.allowed_hosts)
    proxy: EgressProxy | None = None
    connect_filter: ConnectFilter | None = None
    try:
        validate_camera_url("the camera", url)
        binary = find_ffmpeg()
        checked = url_policy.check_url(url, media_roots, allowed)
        if checked.kind == "rtsp":
            # FFmpeg itself reports an unknown name.
            with contextlib.suppress(OSError):
                url_policy.resolve_addresses(urlsplit(url).hostname or "", 554, allowed)
            # Where the system forbids the filter, the log of capture reports it.
            with contextlib.suppress(ConnectFilterUnavailable):
                connect_filter = ConnectFilter(allowed, Metrics())
        if checked.kind == "http":
            proxy = EgressProxy(allowed, Metrics())
        options = SourceOptions(
            binary=binary,
            features=detect_features(binary),
            source=checked,
            rtsp_transport=request.rtsp_transport,
            timeout_usec=int((MAX_PROBE_S + 5) * 1e6),
            http_proxy=proxy.url if proxy else "",
            long_probe=True,
        )
        start = partial(FfmpegProcess, ffmpeg_args.build_snapshot_args(options, SNAPSHOT_WIDTH), redact)
        result = _read_snapshot(connect_filter.run(start) if connect_filter else start())
        if connect_filter and connect_filter.refusal:
            raise connect_filter.refusal
        return result
    except (ConfigError, url_policy.SourceError, FfmpegMissing) as error:
        return ProbeResult(ok=False, detail=redact(str(error)))
    except OSError as error:
        return ProbeResult(ok=False, detail=f"FFmpeg cannot be started: {error.strerror}")
    finally:
        if proxy:
            proxy.close()
        if connect_filter:
            connect_filter.close()


def _read_snapshot(ffmpeg: FfmpegProcess) -> ProbeResult:
    """Read one picture from FFmpeg within the time limit."""
    deadline = time.monotonic() + MAX_PROBE_S
    picture, buffer = bytearray(), bytearray(1 << 16)
    ended = False
    while not ended and time.monotonic() < deadline and len(picture) < MAX_JPEG_BYTES:
        count = ffmpeg.read_into(memoryview(buffer), 0.1)
        ended = count is None
        picture += buffer[: count or 0]
    late = not ended
    ffmpeg.terminate()
    facts = "\n".join(ffmpeg.info_lines)
    info = probe.parse_source_info(facts)
    if picture[:2] == b"\xff\xd8" and picture[-2:] == b"\xff\xd9":
        size = info or probe.SourceInfo(0, 0, 0.0, False)
        return ProbeResult(ok=True, width=size.width, height=size.height, fps=size.fps, jpeg=bytes(picture))
    if late:
        problem = "the stream was opened, but no picture came" if info else "the source did not answer"
        return ProbeResult(
            ok=False, detail=f"{problem} within {MAX_PROBE_S:g} s. Remedy: check address, network and camera."
        )
    errors = [line for line in ffmpeg.tail if "Error opening input file" not in line]
    return ProbeResult(ok=False, detail=_LOG_PREFIX.sub("", errors[-1]) if errors else "the source holds no video.")
