"""The capture process of one camera, or of a group of them: frames into their rings, for ever. Plumbing only."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crowdperf.capture.camera import CameraCapture
from crowdperf.capture.crash import CrashRecord, isolate, left_behind
from crowdperf.capture.group import CameraGroup
from crowdperf.capture.report import StateReporter
from crowdperf.capture.source import redactor
from crowdperf.ffmpeg import forget_proxies
from crowdperf.frames.doorbell import answers
from crowdperf.runtime import Runtime
from crowdperf.slices import CaptureGroup, CaptureSlice

LISTENER_S = 10.0
"""How long a camera waits for inference when both start together; it is ready after two to five seconds."""
TEND_S = 0.2

log = logging.getLogger(__name__)


def main(slice_: CaptureGroup, runtime: Runtime) -> None:
    """Input: the cameras. Outputs: their rings, the doorbell, their state changes as events, metrics."""

    def alive() -> bool:
        runtime.tick()
        return not runtime.stopping

    forget_proxies()
    record = CrashRecord(Path(slice_.crash_record))
    if record.before.trace:
        log.error("the process before this one ended by: %s", record.before.trace)
    cameras = tuple(isolate(camera, record.before) for camera in slice_.cameras)
    for was, camera in zip(slice_.cameras, cameras):
        log.info("camera %s: %s", camera.camera_id, redactor(camera.url)(camera.url))
        if was.backend != camera.backend:
            log.error("camera %s: pyav has crashed on it; an FFmpeg child decodes it now", camera.camera_id)
    reporter = StateReporter(slice_.redis_url, slice_.key_prefix)
    # A stream that begins with its first PLAY is not begun before somebody looks; who never looks stops no camera.
    patience, doorbell = time.monotonic() + LISTENER_S, Path(cameras[0].doorbell)
    while alive() and not answers(doorbell) and time.monotonic() < patience:
        runtime.wait(0.05)

    def make(camera: CaptureSlice, alive: Callable[[], bool]) -> CameraCapture:
        return CameraCapture(camera, runtime.metrics, reporter.put, alive, runtime.wait, record.decoding)

    try:
        if len(cameras) == 1:
            _one(make(cameras[0], alive), alive)
        else:
            _several(CameraGroup(cameras, make, lambda: runtime.stopping, time.monotonic, runtime.metrics), runtime)
    finally:
        reporter.close()
        record.close()
    if left_behind():
        # A thread that still waits in libav must not see the interpreter be taken down around it: that is a SIGSEGV.
        atexit.register(os._exit, 0)


def _one(camera: CameraCapture, alive: Callable[[], bool]) -> None:
    """In the main thread."""
    try:
        while alive():
            camera.step()
    finally:
        camera.close()


def _several(group: CameraGroup, runtime: Runtime) -> None:
    """A thread each; the watchdog is armed anew only while all of them come round."""
    threading.excepthook = _log_crash
    while not runtime.stopping:
        if group.tend(runtime.max_silence_s or float("inf")):
            runtime.tick()
        runtime.wait(TEND_S)
    group.close()


def _log_crash(crash: threading.ExceptHookArgs) -> None:
    """Through the log, which takes credentials out."""
    if crash.exc_value:
        log.error("%s", crash.thread and crash.thread.name, exc_info=crash.exc_value)
