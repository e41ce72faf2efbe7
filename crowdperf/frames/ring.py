"""A camera's ring in shared memory: one writer that never waits, any number of readers that may be lapped.

The bytes and the orderings are drawn in `layout.py`. The file is opened and mapped by hand: the standard library's
SharedMemory would register every reader with a resource tracker that unlinks the live ring when the reader exits.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import time
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from crowdperf.frames import layout, segment
from crowdperf.frames.layout import F_HEAD, F_HEARTBEAT, NO_PTS, PICTURE_AT, STAMP_AT, RingSpec, put_stamp, take_stamp
from crowdperf.frames.segment import NEEDS_FENCE, RingBusy, RingError, RingFull, unlink_instance

__all__ = [
    "FrameReader",
    "FrameStamp",
    "FrameWriter",
    "RingBusy",
    "RingError",
    "RingFull",
    "RingSpec",
    "RingUnavailable",
    "unlink_instance",
]

NOBODY = contextlib.suppress(FileNotFoundError, ConnectionRefusedError, BlockingIOError)


class RingUnavailable(Exception):
    """There is no ring to read at that path (yet, or any more)."""


class FrameStamp(Struct, frozen=True, gc=False):
    """Identity of a frame and arrival of its first byte, by wall clock (since 1970) and monotonic clock.

    A Struct, since one is made for every frame that is read: a NamedTuple takes 0.2 us longer. That is a sixth of the
    cost of a small picture's way through the ring beside its two copies.
    """

    epoch: int
    sequence: int
    captured_at_ns: int
    monotonic_ns: int


class FrameWriter:
    """The one writer of a ring.

    A restarted writer whose `spec` matches what it finds goes on in the same file: same epoch, next sequence. Any
    other content is replaced by a new file under the same name with a greater epoch; readers see the inode change.

    Args:
        path: the ring file, in a folder of its own in a tmpfs, which is created where it is missing.
        spec: its geometry.
        doorbell: the datagram socket that gets a byte per frame; None for no doorbell.
        above: a new file gets a greater epoch than this and than that of the file it replaces.

    Raises:
        RingBusy: another live writer has the ring.
        RingFull: there is no room for it, and where an old one made way for it (`made_way`), none yet.
        RingError: it cannot be made, opened or mapped, or its folder is not private.
    """

    def __init__(self, path: Path, spec: RingSpec, doorbell: Path | None = None, above: int = 0) -> None:
        reason = layout.problem(spec)
        if reason:
            raise RingError(f"ring {str(path)!r} cannot hold {reason}. Remedy: correct the camera's settings.")
        segment.open_folder(path.parent)
        self.path = path
        self.spec = spec
        self._doorbell = str(doorbell) if doorbell else ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._socket.close)
            try:
                self._fd = self._attach(above)
                on_failure.callback(os.close, self._fd)
                self._mapping = mmap.mmap(self._fd, spec.file_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            except OSError as error:
                raise RingError(
                    f"ring {str(path)!r} cannot be opened: {error.strerror}. "
                    "Remedy: see that this user may read and write it, and that the system has memory left."
                ) from None
            on_failure.pop_all()
        self._bytes = memoryview(self._mapping)
        self._u64 = segment.words(self._mapping)
        self._at = layout.slot_words(spec)
        # Made once: a slice of a memoryview costs as much as all the stores of a frame together.
        self._slots = [self._bytes[at * 8 + PICTURE_AT : at * 8 + PICTURE_AT + spec.frame_bytes] for at in self._at]
        for at in self._at:
            self._u64[at + layout.S_BYTES] = spec.frame_bytes
        self.epoch = self._u64[layout.F_EPOCH]
        self.sequence = self._recover_head()
        self._u64[layout.F_OWNER_PID] = os.getpid()
        self._u64[layout.F_OWNER_START] = segment.start_time(os.getpid())
        self.beat()

    def _attach(self, above: int) -> int:
        """Open the ring at `path` to continue it, or replace it by a new one; the fd holds the lock."""
        old, previous = -1, 0
        with contextlib.suppress(FileNotFoundError):
            old = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if old >= 0:
                segment.lock(old, self.path)
                if not segment.is_at(old, self.path):
                    return self._attach(above)
                found = segment.read_header(old)
                if not isinstance(found, str):
                    spec, previous = found
                    if spec == self.spec_as_stored:
                        keep, old = old, -1
                        return keep
            epoch = max(time.time_ns() // 1_000_000, previous + 1, above + 1)
            try:
                # The old file stays locked until the new one has its name: no second writer can slip in between.
                return segment.create(self.path, self.spec, epoch)
            except RingFull:
                if old < 0:
                    raise
            # Only without the old file is there room. Not truncated, since readers may still look at it: its pages are
            # free once they have let go, as we do here.
            self.path.unlink(missing_ok=True)
            os.close(old)
            old = -1
            try:
                return segment.create(self.path, self.spec, epoch)
            except RingFull as error:
                error.made_way = previous
                raise
        finally:
            if old >= 0:
                os.close(old)

    @property
    def spec_as_stored(self) -> RingSpec:
        """`spec` as a reader gets it: the rate in whole thousandths."""
        found = layout.parse_header(layout.header_words(self.spec, 0), self.spec.file_bytes)
        assert not isinstance(found, str)
        return found[0]

    def _recover_head(self) -> int:
        """Return the newest whole frame: `head`, or its successor if a writer died before it stored `head`."""
        head = self._u64[layout.F_HEAD]
        if self._u64[self._at[(head + 1) % len(self._at)]] == 2 * (head + 1):
            head += 1
            self._u64[layout.F_HEAD] = head
        return head

    def slot(self) -> memoryview:
        """Return the next picture's bytes, `spec.frame_bytes` long, to be filled; readers now skip the slot."""
        sequence = self.sequence + 1
        index = sequence % len(self._at)
        self._u64[self._at[index]] = 2 * sequence - 1
        if NEEDS_FENCE:
            segment.fence()
        return self._slots[index]

    def publish(self, captured_at_ns: int, monotonic_ns: int, pts: int = NO_PTS) -> int:
        """Make the picture in `slot()` the newest one, ring the doorbell, and return its sequence.

        Args:
            captured_at_ns: wall clock of the picture's first byte.
            monotonic_ns: the same moment on CLOCK_MONOTONIC.
            pts: presentation time in the source's clock, where the source gives one.

        Returns:
            The frame's sequence.
        """
        sequence = self.sequence = self.sequence + 1
        at = self._at[sequence % len(self._at)]
        put_stamp(self._bytes, at * 8 + STAMP_AT, sequence, captured_at_ns, monotonic_ns, pts)
        u64 = self._u64
        if NEEDS_FENCE:
            segment.fence()
        u64[at] = 2 * sequence
        if NEEDS_FENCE:
            segment.fence()
        u64[F_HEAD] = sequence
        u64[F_HEARTBEAT] = monotonic_ns
        if self._doorbell:
            # Nobody listening, or a full queue that already wakes the listener: neither concerns the writer.
            with NOBODY:
                self._socket.sendto(b"\0", self._doorbell)
        return sequence

    def beat(self) -> None:
        """Say that the writer lives although no frame comes."""
        self._u64[layout.F_HEARTBEAT] = time.monotonic_ns()

    def close(self, unlink: bool) -> None:
        """Let go of the ring; `unlink` also removes the file, if the name is still this ring's."""
        if self._fd < 0:
            return
        if unlink and segment.is_at(self._fd, self.path):
            self.path.unlink(missing_ok=True)
        self._socket.close()
        self._u64.release()
        self._slots = []
        # A caller that still holds a slot keeps the mapping; it goes with the last view.
        with contextlib.suppress(BufferError):
            self._bytes.release()
            self._mapping.close()
        os.close(self._fd)
        self._fd = -1


class FrameReader:
    """A reader of a ring: takes what it can, never disturbs the writer.

    `writable` maps it for writing, which page-locking for a GPU asks for; nothing is ever stored.

    Raises:
        RingUnavailable: there is no ring there, or one that is not private to this user.
    """

    def __init__(self, path: Path, writable: bool = False) -> None:
        self.path = path
        try:
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW)
        except OSError as error:
            raise RingUnavailable(f"no ring at {str(path)!r}: {error.strerror}") from None
        try:
            found = segment.find_stranger(fd) or segment.read_header(fd)
            if isinstance(found, str):
                raise RingUnavailable(f"{str(path)!r} cannot be read: {found}")
            self.spec, self.epoch = found
            status = os.fstat(fd)
            self._identity = (status.st_dev, status.st_ino)
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            self._mapping = mmap.mmap(
                fd, self.spec.file_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection
            )
        except OSError as error:
            raise RingUnavailable(f"{str(path)!r} cannot be read: {error.strerror}") from None
        finally:
            os.close(fd)
        self._u64 = segment.words(self._mapping)
        self._pictures = np.frombuffer(self._mapping, np.uint8)
        self._at = layout.slot_words(self.spec)
        self._slots = [
            self._pictures[at * 8 + PICTURE_AT : at * 8 + PICTURE_AT + self.spec.frame_bytes] for at in self._at
        ]
        self.lapped = 0
        """How often a wanted frame was gone, or was overwritten during the copy."""

    @property
    def buffer(self) -> NDArray[np.uint8]:
        """Whole mapping, shape (file bytes,), for page-locking; do not keep it beyond `close`."""
        return self._pictures

    def stale(self) -> bool:
        """Check whether the path names another ring now, or none: close this reader and open a new one."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def head(self) -> int:
        """Newest sequence; 0 before the first frame."""
        return int(self._u64[layout.F_HEAD])

    def heartbeat_ns(self) -> int:
        """Return the time of the writer's last heartbeat, on CLOCK_MONOTONIC."""
        return int(self._u64[layout.F_HEARTBEAT])

    def stamp(self, sequence: int) -> FrameStamp | None:
        """Return the frame's stamp, or None if the frame is no longer, or not yet, in the ring."""
        at = self._at[sequence % len(self._at)]
        if sequence < 1 or self._u64[at] != 2 * sequence:
            return None
        if NEEDS_FENCE:
            segment.fence()
        _, captured_at_ns, monotonic_ns, _ = take_stamp(self._mapping, at * 8 + STAMP_AT)
        return FrameStamp(self.epoch, sequence, captured_at_ns, monotonic_ns) if self.intact(sequence) else None

    def pts(self, sequence: int) -> int | None:
        """Return the presentation time in us of the source's clock; None if the frame has none or is gone."""
        at = self._at[sequence % len(self._at)]
        if sequence < 1 or self._u64[at] != 2 * sequence:
            return None
        if NEEDS_FENCE:
            segment.fence()
        pts: int = self._u64[at + layout.S_PTS]
        return pts if pts != NO_PTS and self.intact(sequence) else None

    def room(self) -> NDArray[np.uint8]:
        """Allocate an array for `read`'s copies: uint8, shape (frame_bytes,), content undefined.

        It begins on a page. numpy's own arrays lie 16 bytes beside one, and copying 345,600 bytes into the ring and out
        of it takes a third longer with such ones (AMD EPYC, 8.8 us against 6.4; see `layout.PICTURE_AT`).
        """
        wide = np.empty(self.spec.frame_bytes + layout.PAGE, np.uint8)
        first = -wide.ctypes.data % layout.PAGE
        return wide[first : first + self.spec.frame_bytes]

    def intact(self, sequence: int) -> bool:
        """Check that the slot held this frame up to now: call it AFTER a copy or a DMA."""
        if NEEDS_FENCE:
            segment.fence()
        return bool(self._u64[self._at[sequence % len(self._at)]] == 2 * sequence)

    def picture(self, sequence: int) -> NDArray[np.uint8]:
        """Return the slot's bytes in place, shape (frame_bytes,); check `intact` after reading them."""
        return self._slots[sequence % len(self._slots)]

    def read(self, sequence: int, out: NDArray[np.uint8]) -> FrameStamp | None:
        """Copy a frame into `out`, uint8, shape (frame_bytes,), best of `room()`.

        Returns:
            The frame's stamp, or None when it was overwritten before or during the copy (counted in `lapped`).
        """
        # `stamp`, `picture` and `intact` in one: here their calls would cost a tenth of a small picture's copy.
        index = sequence % len(self._at)
        at, u64 = self._at[index], self._u64
        if sequence > 0 and u64[at] == 2 * sequence:
            if NEEDS_FENCE:
                segment.fence()
            out[...] = self._slots[index]
            _, captured_at_ns, monotonic_ns, _ = take_stamp(self._mapping, at * 8 + STAMP_AT)
            if NEEDS_FENCE:
                segment.fence()
            if u64[at] == 2 * sequence:
                return FrameStamp(self.epoch, sequence, captured_at_ns, monotonic_ns)
        self.lapped += 1
        return None

    def close(self) -> None:
        """Let go of the mapping."""
        self._u64.release()
        self._pictures, self._slots = np.empty(0, np.uint8), []
        # A caller that still holds `buffer` keeps the mapping; it goes with the last view.
        with contextlib.suppress(BufferError):
            self._mapping.close()
