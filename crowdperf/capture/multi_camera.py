"""Several cameras in one process, one thread each, so that a fault of one stays in its thread.

A thread that ends by an error is logged, and a new thread takes over the camera and its ring. FFmpeg children are
started by their camera's thread and die with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from crowdperf.capture.camera_capture import CameraCapture
from crowdperf.primitives.backoff import Backoff
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import CaptureConfig

FIRST_RESTART_WAIT_S = 1.0
MAX_RESTART_WAIT_S = 10.0
STABLE_S = 60.0
JOIN_TIMEOUT_S = 8.0

log = logging.getLogger(__name__)


class _CameraThread:
    """One camera of the group: its current thread and when its loop last ran."""

    def __init__(self, config: CaptureConfig) -> None:
        self.config = config
        self.thread: threading.Thread | None = None
        self.started_at = 0.0
        self.restart_at = 0.0
        self.last_seen = 0.0
        self.backoff = Backoff(FIRST_RESTART_WAIT_S, MAX_RESTART_WAIT_S, jitter=0.0)


class CameraGroup:
    """The cameras of one process.

    Args:
        configs: The cameras.
        make_capture: Makes a camera's capture; the capture calls the given function from its loop.
        is_stopping: True once the process is to end.
        clock: Returns monotonic seconds.
        metrics: Counts the crashes.
    """

    def __init__(
        self,
        configs: Sequence[CaptureConfig],
        make_capture: Callable[[CaptureConfig, Callable[[], bool]], CameraCapture],
        is_stopping: Callable[[], bool],
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._camera_threads = [_CameraThread(config) for config in configs]
        self._make_capture = make_capture
        self._is_stopping = is_stopping
        self._clock = clock
        self._metrics = metrics

    def supervise(self, max_silence_s: float) -> bool:
        """Start threads that are due; return True if every loop ran within `max_silence_s`. Call it often."""
        now = self._clock()
        for camera in self._camera_threads:
            if camera.thread is not None and camera.thread.is_alive():
                continue
            if camera.thread is not None:
                self._record_crash(camera, now)
            if now >= camera.restart_at:
                camera.started_at = camera.last_seen = now
                name = f"camera {camera.config.camera_id}"
                camera.thread = threading.Thread(target=self._run, args=(camera,), name=name, daemon=True)
                camera.thread.start()
        return all(
            now - camera.last_seen < max_silence_s for camera in self._camera_threads if camera.thread is not None
        )

    def close(self) -> None:
        """Wait until every camera has ended; `is_stopping` must be True by now."""
        deadline = self._clock() + JOIN_TIMEOUT_S
        for camera in self._camera_threads:
            if camera.thread is not None:
                camera.thread.join(max(0.0, deadline - self._clock()))

    def _record_crash(self, camera: _CameraThread, now: float) -> None:
        """Log and count a thread that ended by an exception, and schedule its restart."""
        camera.thread = None
        if now - camera.started_at >= STABLE_S:
            camera.backoff.reset()
        wait = camera.backoff.next()
        camera.restart_at = now + wait
        self._metrics.count("capture_crashes_total", 1, camera.config.camera_id)
        log.error("camera %s: its thread crashed, restarting in %g s", camera.config.camera_id, wait)

    def _run(self, camera: _CameraThread) -> None:
        def is_alive() -> bool:
            camera.last_seen = self._clock()
            return not self._is_stopping()

        capture = self._make_capture(camera.config, is_alive)
        try:
            while is_alive():
                capture.step()
        except BaseException:
            capture.abandon()
            raise
        capture.close()
