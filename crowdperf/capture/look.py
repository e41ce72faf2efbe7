"""`crowdperf look`: open a source once, as capture would, and bring one picture or the reason why there is none.

It runs beside the web process, never in it: FFmpeg, a hanging camera and a camera's password stay outside.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from functools import partial
from urllib.parse import urlsplit

import msgspec

from crowdperf.capture import argv, probe, source
from crowdperf.capture.argv import Options
from crowdperf.capture.ffmpeg import FfmpegChild
from crowdperf.capture.guard import Guard
from crowdperf.capture.watch import Watch, WatchUnavailable
from crowdperf.config import Config
from crowdperf.ffmpeg import FfmpegMissing, abilities, ffmpeg_binary
from crowdperf.settings.base import ConfigError
from crowdperf.settings.url import redacted, validate_url
from crowdperf.supervision.orders import Look, Seen

LONGEST_S = 7.5
"""With the start of Python and FFmpeg, the answer is there within ten seconds."""
LARGEST = 4 << 20
WIDTH = 1280
_SPEAKER = re.compile(r"^\[[^\]]* @ 0x[0-9a-f]+\] ")


def main(config: Config, media_roots: tuple[str, ...]) -> int:
    """One request as JSON on stdin, its answer on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Look)
    sys.stdout.buffer.write(msgspec.json.encode(look(request, config, media_roots)))
    return 0


def look(request: Look, config: Config, media_roots: tuple[str, ...]) -> Seen:
    """Open the source and wait for one picture."""
    url = request.url
    for camera in config.cameras:
        if camera.id == request.camera and redacted(camera.url) == url:
            url = camera.url
    clean = source.redactor(url)
    allowed = tuple(config.allowed_hosts)
    guard: Guard | None = None
    watch: Watch | None = None
    try:
        validate_url("the camera", url)
        binary = ffmpeg_binary()
        checked = source.check(url, media_roots, allowed)
        if checked.kind == "rtsp":
            # A name that is not known is FFmpeg's to tell, in its own words.
            with contextlib.suppress(OSError):
                source.addresses(urlsplit(url).hostname or "", 554, allowed)
            # Where the system does not let it, capture's log says so.
            with contextlib.suppress(WatchUnavailable):
                watch = Watch(allowed)
        if checked.kind == "http":
            guard = Guard(allowed)
        options = Options(
            binary=binary,
            abilities=abilities(binary),
            source=checked,
            rtsp_transport=request.rtsp_transport,
            timeout_usec=int((LONGEST_S + 5) * 1e6),
            http_proxy=guard.url if guard else "",
            patient=True,
        )
        start = partial(FfmpegChild, argv.still(options, WIDTH), clean)
        seen = _seen(watch.run(start) if watch else start())
        if watch and watch.refusal:
            raise watch.refusal
        return seen
    except (ConfigError, source.SourceError, FfmpegMissing) as error:
        return Seen(ok=False, detail=clean(str(error)))
    except OSError as error:
        return Seen(ok=False, detail=f"FFmpeg cannot be started: {error.strerror}")
    finally:
        if guard:
            guard.close()
        if watch:
            watch.close()


def _seen(child: FfmpegChild) -> Seen:
    """What one FFmpeg brings before its time is over."""
    deadline = time.monotonic() + LONGEST_S
    picture, buffer = bytearray(), bytearray(1 << 16)
    ended = False
    while not ended and time.monotonic() < deadline and len(picture) < LARGEST:
        count = child.read_into(memoryview(buffer), 0.1)
        ended = count is None
        picture += buffer[: count or 0]
    late = not ended
    child.end()
    facts = "\n".join(child.facts)
    found = probe.parse(facts)
    if picture[:2] == b"\xff\xd8" and picture[-2:] == b"\xff\xd9":
        size = found or probe.Probe(0, 0, 0.0, False)
        return Seen(ok=True, width=size.width, height=size.height, fps=size.fps, jpeg=bytes(picture))
    if late:
        what = "the stream was opened, but no picture came" if found else "the source did not answer"
        return Seen(ok=False, detail=f"{what} within {LONGEST_S:g} s. Remedy: check address, network and camera.")
    said = [line for line in child.tail if "Error opening input file" not in line]
    return Seen(ok=False, detail=_SPEAKER.sub("", said[-1]) if said else "the source holds no video.")
