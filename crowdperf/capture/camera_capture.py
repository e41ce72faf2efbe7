"""Capture of one camera: connect, read frames into the ring, report state and metrics."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from crowdperf.capture.connection import FRAME_TIMEOUT_S, ConnectionQuality, ConnectionState, DisconnectCause
from crowdperf.capture.connector import POLL_S, OpenError, SourceConnector, explain_failure
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.network.url_policy import SourceError
from crowdperf.frames import segment
from crowdperf.frames.ring import FrameWriter, RingBusy, RingError, RingFull, RingSpec
from crowdperf.messaging.schema import CameraChanged
from crowdperf.primitives.redaction import make_redactor
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import CaptureConfig

if TYPE_CHECKING:
    from crowdperf.capture.pyav_decoder import PyavDecoder

RATE_WINDOW_S = 2.0
MAX_FPS = 240
"""Limit on frames taken per second: no source may use up the site's CPU time."""

log = logging.getLogger(__name__)


class _OpenConnection(Struct):
    """The current connection and the frame that is being read from it."""

    decoder: FfmpegProcess | PyavDecoder
    is_finite: bool
    view: memoryview
    filled: int = 0
    first_byte_ns: tuple[int, int] = (0, 0)
    overdue_s: float = FRAME_TIMEOUT_S
    frames: int = 0

    def claim(self, view: memoryview) -> None:
        """Read the next frame into `view`, a free slot of the ring."""
        self.view, self.filled, self.overdue_s = view, 0, FRAME_TIMEOUT_S


class _FrameRate:
    """Measures the frame rate, and limits it to `MAX_FPS`. Every method takes `now`, monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._started_at, self._frames = now, 0
        self._second_start, self._frames_this_second = 0.0, 0

    def record_frame(self, now: float) -> float:
        """Count a frame; return how many seconds to wait before the next one."""
        self._frames += 1
        if now - self._second_start >= 1.0:
            self._second_start, self._frames_this_second = now, 0
        if self._frames_this_second >= MAX_FPS:
            return self._second_start + 1.0 - now
        self._frames_this_second += 1
        return 0.0

    def measure(self, now: float) -> float | None:
        """Return frames per second once per `RATE_WINDOW_S`, else None."""
        if now - self._started_at < RATE_WINDOW_S:
            return None
        fps = self._frames / (now - self._started_at)
        self._started_at, self._frames = now, 0
        return fps


class CameraCapture:
    """Captures one camera until closed. It never gives up, and no fault of the camera raises.

    Args:
        config: The camera.
        metrics: Receives counters, gauges and texts.
        report_state: Called with each state change, and False if it is just a retry; must not block.
        is_alive: Called at least every `POLL_S` seconds; False asks to leave a long operation.
        wait: Sleeps; returns early when the process is to stop.
        on_decoding: Called by the thread that is about to decode in this process.
    """

    def __init__(
        self,
        config: CaptureConfig,
        metrics: Metrics,
        report_state: Callable[[CameraChanged, bool], None],
        is_alive: Callable[[], bool],
        wait: Callable[[float], object],
        on_decoding: Callable[[CaptureConfig], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._report_state = report_state
        self._is_alive = is_alive
        self._wait = wait
        self._redact = make_redactor(config.url)
        self._connector = SourceConnector(config, self._redact, self._keep_running, on_decoding, metrics)
        self._connection = ConnectionState(config.stall_s, random.random, time.monotonic())
        self._quality = ConnectionQuality(time.monotonic())
        self._rate = _FrameRate(time.monotonic())
        self._session: _OpenConnection | None = None
        self._ring: FrameWriter | None = None
        self._epoch = 0
        """Newest known epoch of this camera's rings."""
        self._cause: DisconnectCause | None = None
        self._last_state = ""
        self._last_reported_state = ""

    def step(self) -> None:
        """Connect if due, else read what the decoder has; return within about `POLL_S` seconds."""
        now = time.monotonic()
        if self._session is not None:
            self._read_frame(self._session)
        elif self._connection.is_due(now):
            self._connect(now)
        else:
            self._wait(POLL_S)
        self._update_heartbeat(time.monotonic())
        self._publish_state()

    def close(self) -> None:
        """End the decoder, remove the ring and report the stop."""
        if not self._ring:
            # A killed process may have left a ring that this camera, down since, never opened.
            segment.remove(Path(self._config.ring))
        self._release(unlink=True)
        self._connection.stop(time.monotonic(), "capture was stopped")
        self._publish_state()

    def abandon(self) -> None:
        """Release everything after a crash; the ring stays for the successor, as after kill -9."""
        self._release(unlink=False)

    def _release(self, unlink: bool) -> None:
        self._terminate_decoder()
        self._connector.close()
        self._close_ring(unlink)

    def _close_ring(self, unlink: bool) -> None:
        if self._ring:
            self._ring.close(unlink)
            self._ring = None

    def _connect(self, now: float) -> None:
        camera = self._config
        if self._cause:
            self._metrics.count("ffmpeg_restarts_total", 1, camera.camera_id)
            self._metrics.count(f"ffmpeg_restarts_{self._cause}", 1, camera.camera_id)
        self._connection.start_connecting(now)
        self._publish_state()
        try:
            opened = self._connector.open()
            self._session = session = _OpenConnection(opened.decoder, opened.is_finite, memoryview(b""))
            self._quality.set_expected_fps(opened.fps)
            ring = self._open_ring(opened.spec)
        except OpenError as error:
            self._store_error_lines(error.lines)
            if error.cause == "stall":
                self._connection.check_stalled(time.monotonic())
                self._publish_state()
            self._disconnect(error.cause, str(error), error.misconfigured)
            return
        except RingBusy as error:
            self._disconnect("source", str(error))
            return
        except RingFull as error:
            # Once the old ring has made way, its readers close it within a moment.
            self._epoch = max(self._epoch, error.made_way)
            self._disconnect("source", str(error), misconfigured=not error.made_way)
            return
        except (SourceError, FfmpegMissing, RingError) as error:
            self._disconnect("source", str(error), misconfigured=True)
            return
        except OSError as error:
            self._disconnect("source", f"FFmpeg cannot be started: {error.strerror}")
            return
        session.claim(ring.slot())
        self._metrics.set_child(camera.camera_id, session.decoder.pid)
        self._metrics.set_gauge("pipe_bytes", session.decoder.pipe_bytes, camera.camera_id)
        self._metrics.set_text("pts_source", "stream" if camera.backend == "pyav" else "none", camera.camera_id)
        self._connection.mark_opened(time.monotonic())

    def _open_ring(self, spec: RingSpec) -> FrameWriter:
        """Keep the ring if its spec is unchanged; else create a new one under the same name."""
        if self._ring and self._ring.spec == spec:
            return self._ring
        self._close_ring(unlink=False)
        self._ring = FrameWriter(Path(self._config.ring), spec, Path(self._config.doorbell), self._epoch)
        self._epoch = self._ring.epoch
        self._metrics.set_gauge("ring_epoch", self._ring.epoch, self._config.camera_id)
        self._metrics.set_gauge("ring_head", self._ring.sequence, self._config.camera_id)
        return self._ring

    def _read_frame(self, session: _OpenConnection) -> None:
        decoder = session.decoder
        if decoder.resized_to:
            # FFmpeg would go on scaling to the old size and shape.
            self._disconnect("ended", "the picture's size changed to {}x{}".format(*decoder.resized_to))
            return
        count = decoder.read_into(session.view[session.filled :], POLL_S)
        now = time.monotonic()
        if count is None:
            self._handle_end(session, now)
            return
        if count and not session.filled:
            session.first_byte_ns = decoder.arrival_ns or (time.time_ns(), time.monotonic_ns())
        session.filled += count
        if session.filled == len(session.view):
            self._publish_frame(session, now)
        elif session.filled and now - session.first_byte_ns[1] / 1e9 >= session.overdue_s:
            session.overdue_s += FRAME_TIMEOUT_S
            if self._count_short_read(now):
                detail = f"a picture stopped after {session.filled} of {len(session.view)} bytes"
                self._disconnect("short_reads", detail)
        elif self._connection.check_stalled(now):
            self._publish_state()
            self._disconnect("stall", self._connection.detail)

    def _publish_frame(self, session: _OpenConnection, now: float) -> None:
        """Publish the complete frame and claim the next slot."""
        assert self._ring is not None
        sequence = self._ring.publish(*session.first_byte_ns, session.decoder.pts)
        self._metrics.set_gauge("ring_head", sequence, self._config.camera_id)
        self._metrics.count("frames_captured", 1, self._config.camera_id)
        if session.decoder.camera_clock_ns:
            glass_ms = (session.first_byte_ns[0] - session.decoder.camera_clock_ns) / 1e6
            self._metrics.set_gauge("glass_to_capture_ms", glass_ms, self._config.camera_id)
        self._quality.record_frames(now, 1)
        self._connection.record_frame(now)
        session.frames += 1
        session.claim(self._ring.slot())
        if wait_s := self._rate.record_frame(now):
            self._wait(wait_s)

    def _keep_running(self) -> bool:
        """Update the heartbeat during a long operation; return False when it is to end."""
        self._update_heartbeat(time.monotonic())
        return self._is_alive()

    def _count_short_read(self, now: float) -> bool:
        self._metrics.count("short_reads_total", 1, self._config.camera_id)
        return self._connection.record_short_read(now)

    def _handle_end(self, session: _OpenConnection, now: float) -> None:
        """Handle the decoder's end: the end of a file, or a lost connection."""
        if session.filled:
            self._count_short_read(now)
        code = session.decoder.wait_exit_code()
        self._store_error_lines(session.decoder.tail)
        self._metrics.set_child(self._config.camera_id, None)
        self._session = None
        if session.is_finite and session.frames and code == 0:
            self._connection.stop(now, "the file has been played to its end")
            return
        detail, permanent = explain_failure(session.decoder.error_lines, "the stream ended", self._redact)
        if session.frames:
            self._disconnect("ended", detail)
        else:
            self._disconnect("source", detail, misconfigured=permanent)

    def _disconnect(self, cause: DisconnectCause, detail: str, misconfigured: bool = False) -> None:
        self._terminate_decoder()
        self._cause = cause
        self._quality.record_loss(time.monotonic(), stall=cause == "stall")
        self._connection.schedule_retry(time.monotonic(), self._redact(detail), misconfigured)
        self._metrics.set_text("last_error", self._connection.detail, self._config.camera_id)

    def _terminate_decoder(self) -> None:
        if self._session:
            self._session.decoder.terminate()
            self._metrics.set_child(self._config.camera_id, None)
            self._store_error_lines(self._session.decoder.tail)
            self._session = None

    def _store_error_lines(self, lines: Iterable[str]) -> None:
        """Keep FFmpeg's last error lines for /debug."""
        text = "\n".join(lines)
        if text:
            self._metrics.set_text("ffmpeg_stderr", text, self._config.camera_id)

    def _update_heartbeat(self, now: float) -> None:
        """Update the ring's heartbeat, and rate and quality once per `RATE_WINDOW_S`."""
        fps = self._rate.measure(now)
        if fps is not None:
            self._metrics.set_gauge("fps_captured", fps, self._config.camera_id)
            if self._session:
                self._store_error_lines(self._session.decoder.tail)
            grade = self._quality.compute_grade(now)
            if grade and self._connection.state != "stopped":
                self._metrics.set_text("quality", grade, self._config.camera_id)
        self._metrics.set_gauge("backoff_s", self._connection.get_backoff_s(now), self._config.camera_id)
        if self._ring:
            self._ring.beat()

    def _publish_state(self) -> None:
        """Publish a changed state to metrics and log, and report it. Called on every step."""
        state, detail, camera = self._connection.state, self._connection.detail, self._config.camera_id
        if state == self._last_state:
            return
        self._last_state = state
        self._metrics.set_text("state", state, camera)
        # A repeated failure, and the states on the way to it, are just a retry.
        retry = state == self._last_reported_state or (self._connection.is_down and state in ("connecting", "stalled"))
        if not retry:
            self._last_reported_state = state
            log.log(logging.INFO if state in ("connecting", "live") else logging.WARNING, "%s %s", state, detail)
        ts, failures = time.time(), self._connection.failures
        event_id = f"{camera}:state:{int(ts * 1000)}:{state}"
        event = CameraChanged(id=event_id, camera=camera, ts=ts, state=state, detail=detail, failures=failures)
        self._report_state(event, not retry)
