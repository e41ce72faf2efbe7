"""Several cameras in one process, a thread each: what goes wrong with one of them stays in its thread.

A thread that ends by an error is a crash like a process's: it is logged, and the camera begins anew, in a new thread,
on the ring that was left. FFmpeg children are started by their camera's thread and die with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from crowdperf.capture.camera import CameraCapture
from crowdperf.runtime import Metrics
from crowdperf.slices import CaptureSlice

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 10.0
STABLE_S = 60.0
JOIN_S = 8.0

log = logging.getLogger(__name__)


class _Member:
    """One camera of the group: its present thread, and when that last came round."""

    def __init__(self, slice_: CaptureSlice) -> None:
        self.slice = slice_
        self.thread: threading.Thread | None = None
        self.began = 0.0
        self.due = 0.0
        self.seen = 0.0
        self.failures = 0


class CameraGroup:
    """The cameras of one process.

    Args:
        make: makes a camera's capture, given the function that it has to call from its loop.
        stopping: whether the process is to end.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        slices: Sequence[CaptureSlice],
        make: Callable[[CaptureSlice, Callable[[], bool]], CameraCapture],
        stopping: Callable[[], bool],
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._members = [_Member(slice_) for slice_ in slices]
        self._make = make
        self._stopping = stopping
        self._clock = clock
        self._metrics = metrics

    def tend(self, silence_s: float) -> bool:
        """Start what has to be started; whether every loop has come round within `silence_s`. Call it regularly."""
        now = self._clock()
        for member in self._members:
            if member.thread is not None and member.thread.is_alive():
                continue
            if member.thread is not None:
                self._ended(member, now)
            if now >= member.due:
                member.began = member.seen = now
                name = f"camera {member.slice.camera_id}"
                member.thread = threading.Thread(target=self._run, args=(member,), name=name, daemon=True)
                member.thread.start()
        return all(now - member.seen < silence_s for member in self._members if member.thread is not None)

    def close(self) -> None:
        """Wait until every camera has ended; `stopping` has to say so by now."""
        deadline = self._clock() + JOIN_S
        for member in self._members:
            if member.thread is not None:
                member.thread.join(max(0.0, deadline - self._clock()))

    def _ended(self, member: _Member, now: float) -> None:
        """A thread that has ended by itself has met a fault in this program."""
        member.thread = None
        member.failures = 1 if now - member.began >= STABLE_S else member.failures + 1
        wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(member.failures - 1, 8))
        member.due = now + wait
        self._metrics.count("capture_crashes_total", camera=member.slice.camera_id)
        log.error("camera %s: its thread has crashed, the next one starts in %g s", member.slice.camera_id, wait)

    def _run(self, member: _Member) -> None:
        def alive() -> bool:
            member.seen = self._clock()
            return not self._stopping()

        camera = self._make(member.slice, alive)
        orderly = False
        try:
            while alive():
                camera.step()
            orderly = True
        finally:
            if orderly:
                camera.close()
            else:
                camera.abandon()
