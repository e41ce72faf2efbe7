"""Capture process of one camera or a group of cameras: frames into their rings."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from crowdperf.capture.camera_capture import CameraCapture
from crowdperf.capture.crash_report import CrashRecord, fall_back_to_ffmpeg, has_stuck_threads
from crowdperf.capture.multi_camera import CameraGroup
from crowdperf.capture.state_publisher import StatePublisher
from crowdperf.frames.doorbell import answers
from crowdperf.primitives.redaction import make_redactor
from crowdperf.runtime.ffmpeg_binary import remove_proxy_variables
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import CaptureConfig, CaptureGroupConfig

LISTENER_WAIT_S = 10.0
"""How long a camera waits for inference when both start together; inference is ready after two to five seconds."""
SUPERVISE_INTERVAL_S = 0.2

log = logging.getLogger(__name__)


def main(config: CaptureGroupConfig, runtime: ProcessRuntime) -> None:
    """Run the cameras. Outputs: their rings, the doorbell, state changes as events, metrics."""

    def is_alive() -> bool:
        runtime.tick()
        return not runtime.stopping

    remove_proxy_variables()
    record = CrashRecord(Path(config.crash_record))
    if record.previous.trace:
        log.error("the previous process crashed: %s", record.previous.trace)
    cameras = tuple(fall_back_to_ffmpeg(camera, record.previous) for camera in config.cameras)
    for configured, camera in zip(config.cameras, cameras):
        log.info("camera %s: %s", camera.camera_id, make_redactor(camera.url)(camera.url))
        if configured.backend != camera.backend:
            log.error("camera %s: pyav crashed on it; an FFmpeg child decodes it now", camera.camera_id)
    publisher = StatePublisher(config.redis_url, config.key_prefix, runtime.metrics)
    # Some streams begin with the first PLAY: give inference time to listen, but never wait for it forever.
    deadline, doorbell = time.monotonic() + LISTENER_WAIT_S, Path(cameras[0].doorbell)
    while is_alive() and not answers(doorbell) and time.monotonic() < deadline:
        runtime.wait_for_stop(0.05)

    def make_capture(camera: CaptureConfig, is_alive: Callable[[], bool]) -> CameraCapture:
        return CameraCapture(
            camera, runtime.metrics, publisher.publish, is_alive, runtime.wait_for_stop, record.record_decoding
        )

    try:
        if len(cameras) == 1:
            with contextlib.closing(make_capture(cameras[0], is_alive)) as camera_capture:
                while is_alive():
                    camera_capture.step()
        else:
            group = CameraGroup(cameras, make_capture, lambda: runtime.stopping, time.monotonic, runtime.metrics)
            _run_camera_group(group, runtime)
    finally:
        publisher.close()
        record.close()
    if has_stuck_threads():
        # A thread still inside libav crashes (SIGSEGV) when the interpreter shuts down.
        atexit.register(os._exit, 0)


def _run_camera_group(group: CameraGroup, runtime: ProcessRuntime) -> None:
    """Run one thread per camera; arm the watchdog only while all their loops run."""
    while not runtime.stopping:
        if group.supervise(runtime.max_silence_s or float("inf")):
            runtime.tick()
        runtime.wait_for_stop(SUPERVISE_INTERVAL_S)
    group.close()
