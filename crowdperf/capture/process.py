"""The capture process of one camera, or of a group of them: frames into their rings, for ever. Plumbing only."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crowdperf.capture.camera_capture import CameraCapture
from crowdperf.capture.crash_report import CrashRecord, fall_back_to_ffmpeg, has_stuck_threads
from crowdperf.capture.multi_camera import CameraGroup
from crowdperf.capture.state_publisher import StatePublisher
from crowdperf.common.redaction import make_redactor
from crowdperf.frames.doorbell import answers
from crowdperf.runtime.ffmpeg_binary import remove_proxy_variables
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import CaptureConfig, CaptureGroupConfig

LISTENER_WAIT_S = 10.0
"""How long a camera waits for inference when both start together; it is ready after two to five seconds."""
SUPERVISE_INTERVAL_S = 0.2

log = logging.getLogger(__name__)


def main(config: CaptureGroupConfig, runtime: ProcessRuntime) -> None:
    """Input: the cameras. Outputs: their rings, the doorbell, their state changes as events, metrics."""

    def alive() -> bool:
        runtime.tick()
        return not runtime.stopping

    remove_proxy_variables()
    record = CrashRecord(Path(config.crash_record))
    if record.previous.trace:
        log.error("the process before this one ended by: %s", record.previous.trace)
    cameras = tuple(fall_back_to_ffmpeg(camera, record.previous) for camera in config.cameras)
    for was, camera in zip(config.cameras, cameras):
        log.info("camera %s: %s", camera.camera_id, make_redactor(camera.url)(camera.url))
        if was.backend != camera.backend:
            log.error("camera %s: pyav has crashed on it; an FFmpeg child decodes it now", camera.camera_id)
    reporter = StatePublisher(config.redis_url, config.key_prefix)
    # A stream that begins with its first PLAY is not begun before somebody looks; who never looks stops no camera.
    patience, doorbell = time.monotonic() + LISTENER_WAIT_S, Path(cameras[0].doorbell)
    while alive() and not answers(doorbell) and time.monotonic() < patience:
        runtime.wait_for_stop(0.05)

    def make(camera: CaptureConfig, alive: Callable[[], bool]) -> CameraCapture:
        return CameraCapture(
            camera, runtime.metrics, reporter.publish, alive, runtime.wait_for_stop, record.record_decoding
        )

    try:
        if len(cameras) == 1:
            _run_single_camera(make(cameras[0], alive), alive)
        else:
            _run_camera_group(
                CameraGroup(cameras, make, lambda: runtime.stopping, time.monotonic, runtime.metrics), runtime
            )
    finally:
        reporter.close()
        record.close()
    if has_stuck_threads():
        # A thread that still waits in libav must not see the interpreter be taken down around it: that is a SIGSEGV.
        atexit.register(os._exit, 0)


def _run_single_camera(camera: CameraCapture, alive: Callable[[], bool]) -> None:
    """In the main thread."""
    try:
        while alive():
            camera.step()
    finally:
        camera.close()


def _run_camera_group(group: CameraGroup, runtime: ProcessRuntime) -> None:
    """A thread each; the watchdog is armed anew only while all of them come round."""
    threading.excepthook = _log_crash
    while not runtime.stopping:
        if group.supervise(runtime.max_silence_s or float("inf")):
            runtime.tick()
        runtime.wait_for_stop(SUPERVISE_INTERVAL_S)
    group.close()


def _log_crash(crash: threading.ExceptHookArgs) -> None:
    """Through the log, which takes credentials out."""
    if crash.exc_value:
        log.error("%s", crash.thread and crash.thread.name, exc_info=crash.exc_value)
