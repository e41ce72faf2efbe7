"""A known colour, however a source stores it, is the same colour in the ring: BT.601, limited range, both backends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from tests.support.capturing import Camera

RED, GREEN, BLUE = 200, 60, 30
"""In BT.709's matrix its luma is 9 less and its blue difference 7 more, in full range its red difference is 9 more."""
TOLERANCE = 3
"""FFmpeg's scaler rounds a colour that goes from one matrix to another by up to 2.6."""
X264 = "-c:v libx264 -qp 4"
BT709 = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv"
SOURCES = {
    "8 bits": ("yuv420p", "bt601", "tv", X264, "mp4"),
    "10 bits": ("yuv420p10le", "bt601", "tv", X264, "mp4"),
    "4:2:2": ("yuv422p", "bt601", "tv", X264, "mp4"),
    "4:2:2, 10 bits, BT.709": ("yuv422p10le", "bt709", "tv", f"{X264} {BT709}", "mp4"),
    "BT.709": ("yuv420p", "bt709", "tv", f"{X264} {BT709}", "mp4"),
    "full range": ("yuvj420p", "bt601", "pc", "-c:v mjpeg -q:v 1", "avi"),
    "full range, BT.709": ("yuvj420p", "bt709", "pc", f"{X264} {BT709.replace('tv', 'pc')}", "mp4"),
}


def bt601() -> tuple[float, float, float]:
    """Y, U and V of the colour: ITU-R BT.601, limited range."""
    r, g, b = RED / 255, GREEN / 255, BLUE / 255
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return 16 + 219 * luma, 128 + 112 * (b - luma) / 0.886, 128 + 112 * (r - luma) / 0.701


def make_flat(path: Path, size: str, kind: str) -> Path:
    """Two seconds of nothing but the colour."""
    pix_fmt, matrix, colour_range, codec, _ = SOURCES[kind]
    colour = f"color=c=0x{RED:02x}{GREEN:02x}{BLUE:02x}:size={size}:rate=10:duration=2"
    filters = f"format=gbrp,scale=out_color_matrix={matrix}:out_range={colour_range},format={pix_fmt}"
    command = [find_ffmpeg(), "-loglevel", "error", "-f", "lavfi", "-i", colour, "-vf", filters]
    subprocess.run([*command, *codec.split(), "-strict", "-1", str(path)], check=True, stdin=subprocess.DEVNULL)
    return path


def colour_in_ring(url: Path, folder: Path, backend: str, width: int) -> tuple[list[float], float]:
    """Means of the planes of the first picture, and how far any pixel is from its plane's mean."""
    cam = Camera(str(url), folder, backend=backend, analysis_width=width)
    try:
        cam.run_until(lambda: cam.tail.stamps)
        assert cam.tail.reader is not None
        spec = cam.tail.reader.spec
        ends = [spec.width * spec.height, spec.width * spec.height * 5 // 4]
        planes = np.split(np.frombuffer(cam.tail.pictures[0], np.uint8).astype(float), ends)
    finally:
        cam.tail.close()
        cam.capture.close()
    return [plane.mean() for plane in planes], max(np.abs(plane - plane.mean()).max() for plane in planes)


@pytest.mark.parametrize("backend", ["ffmpeg", "pyav"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_colour_is_kept(tmp_path: Path, backend: str, kind: str) -> None:
    clip = make_flat(tmp_path / f"flat.{SOURCES[kind][-1]}", "320x240", kind)
    means, spread = colour_in_ring(clip, tmp_path, backend, 160)
    assert np.allclose(means, bt601(), atol=TOLERANCE), f"{means}, not {bt601()}"
    assert spread <= 2


@pytest.mark.parametrize("backend", ["ffmpeg", "pyav"])
def test_a_colour_is_kept_up_to_the_edges_of_an_odd_size(tmp_path: Path, backend: str) -> None:
    clip = make_flat(tmp_path / "odd.avi", "321x241", "full range")
    means, spread = colour_in_ring(clip, tmp_path, backend, 640)
    assert np.allclose(means, bt601(), atol=TOLERANCE), f"{means}, not {bt601()}"
    assert spread <= 2
