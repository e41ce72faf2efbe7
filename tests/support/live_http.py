"""A camera that speaks HTTP: each request gets the same stream, without a length, and is then cut off."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg

BOUNDARY = "picture"


class LiveCamera(http.server.ThreadingHTTPServer):
    """What it sends, and how often it was asked."""

    daemon_threads = True

    def __init__(self, kind: str, stream: Callable[[], Iterable[bytes]], period_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind = kind
        self.stream = stream
        self.period_s = period_s
        self.requests: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """Return where it is."""
        return f"http://127.0.0.1:{self.server_port}/live"

    def handle_error(self, *_: Any) -> None:
        """Ignore it: a client that leaves is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LiveCamera

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", self.server.kind)
        self.end_headers()
        for part in self.server.stream():
            self.wfile.write(part)
            if self.server.closing.wait(self.server.period_s):
                return


@contextmanager
def live_camera(kind: str, stream: Callable[[], Iterable[bytes]], period_s: float = 0.0) -> Iterator[LiveCamera]:
    """Serve `stream()`, of the content type `kind`, a part each `period_s`, to everyone who asks."""
    with LiveCamera(kind, stream, period_s) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def flv(clip: Path) -> bytes:
    """Return the clip as FLV that is written live: its duration is never filled in and stays zero."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(clip), "-c", "copy", "-f", "flv", "pipe:1"]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


def fragmented_mp4(clip: Path) -> bytes:
    """Return the clip as MP4 that is written live: it states the length of its first fragment."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(clip), "-c", "copy", "-movflags", "frag_keyframe"]
    command += ["-f", "mp4", "pipe:1"]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


def pictures(clip: Path) -> list[bytes]:
    """Return the clip's pictures as JPEG."""
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(clip), "-c:v", "mjpeg", "-q:v", "4", "-f", "mjpeg", "-"]
    stream = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout
    return [b"\xff\xd8" + part for part in stream.split(b"\xff\xd8")[1:]]


def multipart(picture: bytes) -> bytes:
    """Return one picture as a part of a stream of the type `MULTIPART`."""
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
    return head.encode() + picture + b"\r\n"


MULTIPART = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
