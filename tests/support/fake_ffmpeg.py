"""An FFmpeg that misbehaves on cue: `make` writes an executable that is the real one but for what it does to pictures.

Asked for help, or what a source is, it is the real FFmpeg. Asked for pictures it does what its mode says:

whole N         N whole pictures, then exit 0
broken N        N pictures and a half, then exit 0
half            half a picture, then silence
paused          half a picture, the rest of it once the file `<itself>.go` is there, then silence
dead            silence from the start
silent N        N pictures, then silence; SIGTERM is ignored
flood           pictures, and error lines as fast as they are taken, the password in each
outburst        a megabyte and a half of error lines before it says what the source is, then exit 1
noise           pictures, and bytes on stderr that are no text
huge            pictures as fast as they are taken
crash           a segmentation fault in the middle of a picture
late S          sleeps S seconds, then is the real FFmpeg
slow S          as late, also when it is asked what a source is
wrapped         a script that runs the real FFmpeg as a child, as wrappers do
mute            is the real FFmpeg, but keeps silent about sizes
"""

from __future__ import annotations

import sys
from pathlib import Path

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg

PROGRAM = """#!{python}
import os, re, signal, subprocess, sys, time
REAL, FRAME, argv = {real!r}, {frame}, sys.argv[1:]
mode, *rest = {mode!r}.split()
number = float(rest[0]) if rest else 0
def real(*argv):
    os.execv(REAL, [REAL, *argv])
def write(data):
    while data:
        data = data[os.write(1, data):]
def pictures(count):
    for turn in range(int(count)):
        write(bytes([turn % 256]) * FRAME)
if "-h" in argv and mode == "helpless":
    while True:
        write(b"x" * 65536)
if mode == "slow" and "-i" in argv:
    time.sleep(number)
    real(*argv)
if "rawvideo" not in argv:
    real(*argv)
if mode == "dead":
    time.sleep(600)
if mode == "outburst":
    line = f"error at {{argv[argv.index('-i') + 1]}}\\n".encode()
    os.write(2, line * (1_500_000 // len(line)))
    sys.exit(1)
if "level+verbose" in argv and mode not in ("late", "wrapped", "mute"):
    info = "Stream #0:0: Video: x, yuv420p, 320x240, 10 fps"
    os.write(2, f"[info] Input #0, rtsp\\n[info] {{info}}\\n[info] Output #0, rawvideo\\n[info] {{info}}\\n".encode())
if mode == "whole":
    pictures(number)
elif mode == "broken":
    pictures(number)
    write(b"x" * (FRAME // 2))
elif mode == "half":
    write(b"x" * (FRAME // 2))
    time.sleep(600)
elif mode == "paused":
    write(b"x" * (FRAME // 2))
    while not os.path.exists(__file__ + ".go"):
        time.sleep(0.01)
    write(b"x" * (FRAME - FRAME // 2))
    time.sleep(600)
elif mode == "silent":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pictures(number)
    time.sleep(600)
elif mode in ("flood", "noise"):
    url = argv[argv.index("-i") + 1]
    line = f"error at {{url}}\\n".encode() * 100 if mode == "flood" else os.urandom(5000)
    if not os.fork():
        while True:
            os.write(2, line)
            if mode == "noise":
                time.sleep(0.01)
    while True:
        pictures(1)
        time.sleep(0.05)
elif mode == "huge":
    while True:
        pictures(256)
elif mode == "crash":
    write(b"x" * (FRAME // 2))
    os.kill(os.getpid(), signal.SIGSEGV)
elif mode == "late":
    time.sleep(number)
    real(*argv)
elif mode == "wrapped":
    sys.exit(subprocess.call([REAL, *argv]))
elif mode == "mute":
    real(*["error" if word.startswith("level+") else word for word in argv])
"""


def make(folder: Path, mode: str, frame_bytes: int = 320 * 240 * 3 // 2) -> str:
    """Write the executable; returns its path, for CROWDPERF_FFMPEG."""
    path = folder / f"ffmpeg-{mode.replace(' ', '-')}"
    path.write_text(PROGRAM.format(python=sys.executable, real=find_ffmpeg(), frame=frame_bytes, mode=mode))
    path.chmod(0o700)
    return str(path)
