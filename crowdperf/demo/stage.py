"""Rendering of frames and their encoding: frame `i` is a pure function of scene, seed and `i`.

The lower margin holds a barcode of 32 black or white blocks, readable at any decoded size. Its layout over the left
half of the picture: white, black | scene (4 bits) | frame (16 bits, most significant first) | CRC-8 of those 20 bits (8
bits) | black, white. The two ends calibrate black and white.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.demo import backdrop, figures
from crowdperf.demo.figures import LOOKS, POSES_PER_STEP, FigureLook, Sprite
from crowdperf.demo.outlines import FPS, HEIGHT, MARGIN, WIDTH, DemoError
from crowdperf.demo.scenes import Scene
from crowdperf.demo.script import STEP_M, Track
from crowdperf.geometry import Box
from crowdperf.primitives.atomic_file import replace_file
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing, find_ffmpeg

STANDING_POSE = 5
"""Pose of a standing person: legs together."""
SHADOW_STRENGTH = 0.42
"""Share of the light that a shadow removes."""


class PlacedSprite(NamedTuple):
    """A sprite and the column and row of its top-left pixel."""

    track: Track
    sprite: Sprite
    shadow: Sprite
    x: int
    y: int

    @property
    def box(self) -> Box | None:
        """Return the part of the alpha box that lies inside the picture, in pixels; None for nothing."""
        x0, y0, x1, y1 = self.sprite.extent
        left, right = max(self.x + x0, 0), min(self.x + x1, WIDTH)
        top, bottom = max(self.y + y0, 0), min(self.y + y1, HEIGHT - MARGIN)
        return Box(left, top, right, bottom) if right - left >= 1 and bottom - top >= 1 else None


@lru_cache(maxsize=4096)
def _render_shadow(look: FigureLook, pose: int, height: int, mirrored: bool) -> Sprite:
    """Render a figure's shadow: its outline laid to the left and rear, blurred, and a dark patch below.

    Colour is unused (zero); alpha is the shade. The axis and the extent's bottom coincide with the figure's.
    """
    figure = figures.render_person(look, pose, height, mirrored)
    ground = figure.extent[3]
    lean, flat = 0.62, 0.2
    left, up, pad = int(lean * ground) + 8, int(flat * ground) + 8, max(6, height // 16)
    shape = (figure.alpha.shape[1] + left + pad, up + pad)
    # (x, y) of the figure falls to (x - lean * rise, -flat * rise) with rise = ground - y.
    move = np.array([[1, lean, left - lean * ground], [0, flat, up - flat * ground]], np.float32)
    laid = cv2.warpAffine(figure.alpha, move, shape, flags=cv2.INTER_AREA)
    laid = cv2.GaussianBlur(laid, (0, 0), 1.0 + height / 90)
    patch = np.zeros(shape[::-1], np.uint8)
    middle = round((figure.extent[0] + figure.extent[2]) / 2)
    reach = (figure.extent[2] - figure.extent[0]) // 2
    cv2.ellipse(patch, (left + middle, up - 2), (reach, max(2, height // 36)), 0, 0, 360, 255, -1)
    patch = cv2.GaussianBlur(patch, (0, 0), 1.0 + height / 60)
    shade = np.maximum(laid * 0.8, patch).astype(np.float32) * SHADOW_STRENGTH
    alpha = np.clip(shade, 0, 255).astype(np.uint8)
    return Sprite(np.zeros((*alpha.shape, 3), np.uint8), alpha, figure.axis + left, (0, 0, alpha.shape[1], up))


@lru_cache(maxsize=16)
def _render_bus_shadow(paint: int, height: int, mirrored: bool) -> Sprite:
    """Render the dark strip under a bus."""
    width = figures.render_bus(paint, height, mirrored).alpha.shape[1]
    patch = np.zeros((24, width + 40), np.uint8)
    cv2.rectangle(patch, (14, 6), (width + 22, 15), 255, -1)
    alpha = (cv2.GaussianBlur(patch, (0, 0), 3.0) * 0.75).astype(np.uint8)
    return Sprite(np.zeros((*alpha.shape, 3), np.uint8), alpha, width / 2 + 20, (0, 0, width + 40, 12))


def _blend(picture: NDArray[np.uint8], sprite: Sprite, x: int, y: int) -> None:
    """Draw a sprite in place, clipped at the picture's edges and the margin."""
    height, width = sprite.alpha.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, WIDTH), min(y + height, HEIGHT - MARGIN)
    if x0 >= x1 or y0 >= y1:
        return
    cut = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
    target = picture[y0:y1, x0:x1]
    keep = cv2.merge([255 - sprite.alpha[cut]] * 3)
    target[:] = cv2.add(sprite.colour[cut], cv2.multiply(target, keep, scale=1 / 255))


class Stage:
    """A scene with its cast, rendered frame by frame."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self.tracks = scene.make_cast(scene, seed)
        self.backdrop = backdrop.draw_backdrop(scene.has_street, seed)

    def place_actors(self, frame: int) -> list[PlacedSprite]:
        """Place all visible actors of a frame, the farthest first."""
        found = []
        for track in self.tracks:
            row = track.find_row(frame)
            if row is not None:
                found.append(self._place(track, row))
        return sorted((one for one in found if one.box), key=lambda one: one.y + one.sprite.extent[3])

    def _place(self, track: Track, row: int) -> PlacedSprite:
        x, y = (float(value) for value in track.ground[row])
        height, left = round(track.compute_height(row)), bool(track.left[row])
        if track.actor.kind == "bus":
            sprite = figures.render_bus(track.actor.look, height, left)
            shadow = _render_bus_shadow(track.actor.look, height, left)
        else:
            look, pose = LOOKS[track.actor.look], self._select_pose(track, row)
            sprite, shadow = (make(look, pose, height, left) for make in (figures.render_person, _render_shadow))
        return PlacedSprite(track, sprite, shadow, round(x - sprite.axis), round(y) - sprite.extent[3])

    def _select_pose(self, track: Track, row: int) -> int:
        moving = row + 1 < len(track.walked) and track.walked[row + 1] - track.walked[row] > 0.02
        if not moving:
            return STANDING_POSE
        return math.floor(float(track.walked[row]) / STEP_M * POSES_PER_STEP) % POSES_PER_STEP

    def render_frame(self, index: int) -> NDArray[np.uint8]:
        """Render frame `index`, shape (HEIGHT, WIDTH, 3), BGR."""
        picture: NDArray[np.uint8] = self.backdrop.copy()
        everybody = self.place_actors(index)
        for one in everybody:
            axis = one.x + one.sprite.axis
            ground = one.y + one.sprite.extent[3]
            _blend(picture, one.shadow, round(axis - one.shadow.axis), ground - one.shadow.extent[3])
        for one in everybody:
            _blend(picture, one.sprite, one.x, one.y)
        draw_stamp(picture, BarcodeStamp(self.scene.number, index))
        return picture


BLOCK_COUNT = 32
BARCODE_WIDTH_SHARE = 0.5
WHITE, BLACK = 225, 24


class BarcodeStamp(NamedTuple):
    """The number of a frame in its barcode."""

    scene: int
    frame: int


def _compute_crc8(bits: list[int]) -> list[int]:
    """CRC-8 (polynomial 0x07, initial value 0xFF) over bits."""
    register = 0xFF
    for bit in bits:
        top = (register >> 7) ^ bit
        register = ((register << 1) & 0xFF) ^ (0x07 if top else 0)
    return _to_bits(register, 8)


def _to_bits(value: int, count: int) -> list[int]:
    return [(value >> (count - 1 - i)) & 1 for i in range(count)]


def encode_stamp(stamp: BarcodeStamp) -> list[int]:
    """Encode the 32 blocks, 1 = white; raise ValueError if a number has too many bits."""
    if not (0 <= stamp.scene < 16 and 0 <= stamp.frame < 65_536):
        raise ValueError(f"{stamp} does not fit into the barcode")
    payload = _to_bits(stamp.scene, 4) + _to_bits(stamp.frame, 16)
    return [1, 0, *payload, *_compute_crc8(payload), 0, 1]


def draw_stamp(picture: NDArray[np.uint8], stamp: BarcodeStamp) -> None:
    """Draw the barcode into the margin of a picture of shape (HEIGHT, width, 3), in place."""
    picture[HEIGHT - MARGIN :] = BLACK
    width = picture.shape[1] * BARCODE_WIDTH_SHARE / BLOCK_COUNT
    for i, bit in enumerate(encode_stamp(stamp)):
        if bit:
            picture[HEIGHT - MARGIN :, round(i * width) : round((i + 1) * width)] = WHITE


def find_encoder() -> str:
    """Find the FFmpeg that encodes, or raise DemoError."""
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
