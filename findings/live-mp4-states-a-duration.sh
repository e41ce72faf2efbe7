#!/usr/bin/env bash
# FFmpeg and PyAV state a duration for a live fragmented MP4: that of the fragments which they have read to open it.
#
# Seen on 2026-12-01 with FFmpeg of imageio-ffmpeg 0.6.0, and with av 18.1.0, Python 3.11, x86_64.
#
# A camera that sends fragmented MP4 by HTTP, without a Content-Length, has no end. FFmpeg prints a "Duration" for it
# nevertheless, and PyAV has it as container.duration: two fragments of 2 s here. A program that takes a source with a
# duration for a recording paces it, or stops when the connection ends. A finished file of 10 s from a server without
# ranges is said to last 4 s too. The bit rate tells the two apart: FFmpeg prints "bitrate: N/A", and container.bit_rate
# is 0, where the answer has no length.
#
# Output seen:
#   without a length: Duration 00:00:04.00, bitrate N/A; PyAV 4.0 s, bit rate unknown
#   with a length: Duration 00:00:04.00, bitrate known; PyAV 4.0 s, bit rate known
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "imageio-ffmpeg==0.6.0" "av==18.1.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import http.server
import re
import subprocess
import threading

import av
import imageio_ffmpeg

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
MAKE = "-f lavfi -i testsrc=duration=10:size=160x120:rate=10 -c:v libx264 -g 20 -pix_fmt yuv420p"
FRAGMENTS = "-movflags frag_keyframe+empty_moov+default_base_moof clip.mp4"
subprocess.run([FFMPEG, "-loglevel", "error", *MAKE.split(), *FRAGMENTS.split()], check=True)
CLIP = open("clip.mp4", "rb").read()


class Camera(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        if self.path == "/known":
            self.send_header("Content-Length", str(len(CLIP)))
        self.end_headers()
        try:
            self.wfile.write(CLIP)
        except OSError:
            pass  # The reader has seen enough.

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
threading.Thread(target=server.serve_forever, daemon=True).start()


def look(path):
    url = f"http://127.0.0.1:{server.server_port}{path}"
    report = subprocess.run([FFMPEG, "-hide_banner", "-i", url], capture_output=True, text=True).stderr
    duration, rate = re.search(r"Duration: (\S+), .*bitrate: (\S+)", report).groups()
    with av.open(url) as container:
        seconds, known = container.duration / 1e6, bool(container.bit_rate)
    printed = "N/A" if rate == "N/A" else "known"
    return f"Duration {duration}, bitrate {printed}; PyAV {seconds} s, bit rate {'known' if known else 'unknown'}"


for text, path, expected in (
    ("without a length", "/live", "Duration 00:00:04.00, bitrate N/A; PyAV 4.0 s, bit rate unknown"),
    ("with a length", "/known", "Duration 00:00:04.00, bitrate known; PyAV 4.0 s, bit rate known"),
):
    seen = look(path)
    print(f"{text}: {seen}")
    assert seen == expected, f"this has changed: {expected!r} was seen before"
PYTHON
