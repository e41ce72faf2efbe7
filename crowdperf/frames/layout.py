"""The bytes of a ring file: one camera's frames in shared memory. Everything is little-endian u64 at multiples of 8.

::

    offset   line
         0   | magic      | version    | slots K    | slot stride | frame bytes | width      | height     | pix_fmt |
        64   | src width  | src height | fps in 1/1000 | frame skip | epoch     | file bytes | PPE 1/1000 | model w |
       128   | owner pid  | owner start| heartbeat  |             |             |            |            |         |
       192   | head       |            |            |             |             |            |            |         |
      4096   slot 0 ------------------------------------------------------------------------------------------------
        +0   | generation | sequence   | captured at| monotonic   | pts         | bytes      |            |         |
      +256   | picture, `frame bytes` long, then padding up to the stride (a multiple of the page)              ...   |
      4096 + stride   slot 1 ---------------------------------------------------------------------------------------

Lines 0 and 1 are written once, before the file has its name: a reader never sees them change. Line 2 changes at a
heartbeat's pace. `head` changes with every frame and every reader polls it, so it has a cache line to itself: a reader
that looks at the geometry must not fetch a line that the writer has just dirtied. Slots begin on a page, so that a GPU
can page-lock the mapping and copy out of it.

Orderings (sequence s lives in slot s mod K; sequences begin at 1):

    writer                                    reader
    1  generation = 2s - 1   (odd: writing)   1  head -> s
    2  picture                                2  generation == 2s, else lapped
    3  sequence, times, pts                   3  copy the picture and the stamp
    4  generation = 2s       (even: whole)    4  generation == 2s still, else torn: the copy is thrown away
    5  head = s

1 before 2: whoever copies while the picture changes finds, in its step 4, a generation that is no longer 2s.
2, 3 before 4: an even generation vouches for all that lies under it.
4 before 5: `head` never names a slot that is not whole. A writer killed between the two leaves a whole frame that
`head` does not name: the next writer publishes it, so that (epoch, sequence) is one picture for ever.
The generation is derived from the sequence, hence a reader need not trust any earlier state, and a slot left odd by a
killed writer stays unreadable until it is written again.

Every store is one aligned 8-byte store, never torn itself. x86-64 keeps the order of stores and of loads; elsewhere
`segment.fence` orders them.
"""

from __future__ import annotations

import functools
import struct
from typing import Literal, NamedTuple

from msgspec import Struct

MAGIC = int.from_bytes(b"crwdperf", "little")
VERSION = 3
PAGE = 4096
PICTURE_AT = 256
"""Bytes from a slot's beginning to its picture. Copies from and to addresses that differ by little, modulo a page, are
slow: measured on an AMD EPYC, 345,600 bytes to 64 bytes further took 12.4 us, to 16 bytes further 190, here 10.2."""
NO_PTS = (1 << 64) - 1

# Indices into the file seen as u64.
F_MAGIC, F_VERSION, F_SLOTS, F_STRIDE, F_FRAME_BYTES, F_WIDTH, F_HEIGHT, F_PIX_FMT = range(8)
F_SOURCE_WIDTH, F_SOURCE_HEIGHT, F_MILLI_FPS, F_FRAME_SKIP, F_EPOCH, F_FILE_BYTES, F_PPE, F_MODEL_WIDTH = range(8, 16)
F_OWNER_PID, F_OWNER_START, F_HEARTBEAT = range(16, 19)
F_HEAD = 24
HEADER_WORDS = 32

# Indices from a slot's first u64.
S_GENERATION, S_SEQUENCE, S_CAPTURED_AT, S_MONOTONIC, S_PTS, S_BYTES = range(6)

# Sequence, captured at, monotonic, pts in one call. Native, so that each is one 8-byte access (`<Q` goes byte by byte).
_STAMP = struct.Struct("@4Q")
put_stamp, take_stamp = _STAMP.pack_into, _STAMP.unpack_from
STAMP_AT = S_SEQUENCE * 8
"""Where these four begin, in bytes from the slot's beginning. The generation (S_GENERATION) is its word 0."""

PIX_FMTS = ("yuv420p", "bgr24")
"""In the order of the header's code, which begins at 1."""


class Content(NamedTuple):
    """Position of the source picture inside the ring's picture, in its pixels; the rest is padding."""

    x0: int
    y0: int
    w: int
    h: int


class RingSpec(Struct, frozen=True):
    """All that a ring's reader must know about its pictures, and inference about its camera."""

    width: int
    height: int
    pix_fmt: Literal["yuv420p", "bgr24"]
    source_width: int
    source_height: int
    slots: int
    target_fps: float
    frame_skip: int
    ppe_fps: float = 0.0
    """Frames a second that the PPE model looks at; 0 for a camera without a PPE rule."""
    model_width: int = 0
    """Pixels that the person model is to see of the width; 0 for all of them."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one picture: planes Y, U, V without row padding (yuv420p), or rows of B, G, R (bgr24)."""
        pixels = self.width * self.height
        return pixels * 3 // 2 if self.pix_fmt == "yuv420p" else pixels * 3

    @property
    def stride(self) -> int:
        """Bytes from one slot to the next."""
        return -(-(PICTURE_AT + self.frame_bytes) // PAGE) * PAGE

    @property
    def file_bytes(self) -> int:
        """Bytes of the ring file."""
        return PAGE + self.slots * self.stride

    @property
    def milli_fps(self) -> int:
        """`target_fps` as the header holds it."""
        return round(self.target_fps * 1000)

    @property
    def content(self) -> Content:
        """Position of the scaled source: centred, even, and the whole picture if only rounding differs."""
        return _content(self.width, self.height, self.source_width, self.source_height)


@functools.lru_cache(256)
def _content(width: int, height: int, source_width: int, source_height: int) -> Content:
    """Asked for with every frame's boxes, and computed once."""
    scale = min(width / source_width, height / source_height)
    w, h = round(source_width * scale), round(source_height * scale)
    w = width if width - w <= 2 else w & ~1
    h = height if height - h <= 2 else h & ~1
    return Content((width - w) // 2 & ~1, (height - h) // 2 & ~1, w, h)


def problem(spec: RingSpec) -> str | None:
    """Return why no ring can be made of `spec`, or None."""
    if spec.width < 2 or spec.height < 2 or spec.source_width < 1 or spec.source_height < 1:
        return f"geometry {spec.width}x{spec.height} of a {spec.source_width}x{spec.source_height} source"
    if spec.pix_fmt not in PIX_FMTS:
        return f"pixel format {spec.pix_fmt!r}"
    if spec.pix_fmt == "yuv420p" and (spec.width % 2 or spec.height % 2):
        return f"odd geometry {spec.width}x{spec.height} for yuv420p"
    if spec.slots < 2:
        return f"{spec.slots} slot(s); two are the least"
    return None


def slot_words(spec: RingSpec) -> list[int]:
    """Index of each slot's first u64, which is its generation."""
    return [(PAGE + index * spec.stride) // 8 for index in range(spec.slots)]


def header_words(spec: RingSpec, epoch: int) -> list[int]:
    """Build the immutable words F_MAGIC..F_MODEL_WIDTH of a ring."""
    return [
        MAGIC,
        VERSION,
        spec.slots,
        spec.stride,
        spec.frame_bytes,
        spec.width,
        spec.height,
        PIX_FMTS.index(spec.pix_fmt) + 1,
        spec.source_width,
        spec.source_height,
        spec.milli_fps,
        spec.frame_skip,
        epoch,
        spec.file_bytes,
        round(spec.ppe_fps * 1000),
        spec.model_width,
    ]


def parse_header(words: list[int], file_bytes: int) -> tuple[RingSpec, int] | str:
    """Read spec and epoch from the first F_MODEL_WIDTH + 1 words of a file of `file_bytes`.

    Return the reason if it is no header of this version.
    """
    if words[F_MAGIC] != MAGIC:
        return "it is no crowdperf ring"
    if words[F_VERSION] != VERSION:
        return f"its layout is version {words[F_VERSION]}, this program reads version {VERSION}"
    if not 1 <= words[F_PIX_FMT] <= len(PIX_FMTS):
        return f"its pixel format has the code {words[F_PIX_FMT]}"
    spec = RingSpec(
        width=words[F_WIDTH],
        height=words[F_HEIGHT],
        pix_fmt="yuv420p" if words[F_PIX_FMT] == 1 else "bgr24",
        source_width=words[F_SOURCE_WIDTH],
        source_height=words[F_SOURCE_HEIGHT],
        slots=words[F_SLOTS],
        target_fps=words[F_MILLI_FPS] / 1000,
        frame_skip=words[F_FRAME_SKIP],
        ppe_fps=words[F_PPE] / 1000,
        model_width=words[F_MODEL_WIDTH],
    )
    if problem(spec) or header_words(spec, words[F_EPOCH]) != words or file_bytes != spec.file_bytes:
        return "its header contradicts itself"
    return spec, words[F_EPOCH]
