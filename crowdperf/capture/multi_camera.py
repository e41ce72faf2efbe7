"""Several cameras in one process, a thread each: what goes wrong with one of them stays in its thread.

A thread that ends by an error is a crash like a process's: it is logged, and the camera begins anew, in a new thread,
on the ring that was left. FFmpeg children are started by their camera's thread and die with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from crowdperf.capture.camera_capture import CameraCapture
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import CaptureConfig

FIRST_RESTART_WAIT_S = 1.0
MAX_RESTART_WAIT_S = 10.0
STABLE_S = 60.0
JOIN_TIMEOUT_S = 8.0

log = logging.getLogger(__name__)


class _CameraThread:
    """One camera of the group: its present thread, and when that last came round."""

    def __init__(self, config: CaptureConfig) -> None:
        self.config = config
        self.thread: threading.Thread | None = None
        self.started_at = 0.0
        self.restart_at = 0.0
        self.last_seen = 0.0
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
        configs: Sequence[CaptureConfig],
        make_capture: Callable[[CaptureConfig, Callable[[], bool]], CameraCapture],
        is_stopping: Callable[[], bool],
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._camera_threads = [_CameraThread(slice_) for slice_ in configs]
        self._make_capture = make_capture
        self._is_stopping = is_stopping
        self._clock = clock
        self._metrics = metrics

    def supervise(self, max_silence_s: float) -> bool:
        """Start what has to be started; whether every loop has come round within `silence_s`. Call it regularly."""
        now = self._clock()
        for member in self._camera_threads:
            if member.thread is not None and member.thread.is_alive():
                continue
            if member.thread is not None:
                self._record_crash(member, now)
            if now >= member.restart_at:
                member.started_at = member.last_seen = now
                name = f"camera {member.config.camera_id}"
                member.thread = threading.Thread(target=self._run, args=(member,), name=name, daemon=True)
                member.thread.start()
        return all(
            now - member.last_seen < max_silence_s for member in self._camera_threads if member.thread is not None
        )

    def close(self) -> None:
        """Wait until every camera has ended; `stopping` has to say so by now."""
        deadline = self._clock() + JOIN_TIMEOUT_S
        for member in self._camera_threads:
            if member.thread is not None:
                member.thread.join(max(0.0, deadline - self._clock()))

    def _record_crash(self, camera_thread: _CameraThread, now: float) -> None:
        """A thread that has ended by itself has met a fault in this program."""
        camera_thread.thread = None
        camera_thread.failures = 1 if now - camera_thread.started_at >= STABLE_S else camera_thread.failures + 1
        wait = min(MAX_RESTART_WAIT_S, FIRST_RESTART_WAIT_S * 2 ** min(camera_thread.failures - 1, 8))
        camera_thread.restart_at = now + wait
        self._metrics.count("capture_crashes_total", 1, camera_thread.config.camera_id)
        log.error(
            "camera %s: its thread has crashed, the next one starts in %g s", camera_thread.config.camera_id, wait
        )

    def _run(self, camera_thread: _CameraThread) -> None:
        def alive() -> bool:
            camera_thread.last_seen = self._clock()
            return not self._is_stopping()

        camera = self._make_capture(camera_thread.config, alive)
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
