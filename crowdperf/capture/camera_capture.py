"""One camera's capture: the machine's decisions carried out on FFmpeg and the ring."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from crowdperf.capture.connection_state import FRAME_TIMEOUT_S, ConnectionState, DisconnectCause
from crowdperf.capture.connector import POLL_S, OpenError, SourceConnector, explain_failure
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.network.url_policy import SourceError
from crowdperf.capture.quality import ConnectionQuality
from crowdperf.common.redaction import make_redactor
from crowdperf.frames import segment
from crowdperf.frames.ring import FrameWriter, RingBusy, RingError, RingFull, RingSpec
from crowdperf.messaging.schema import CameraChanged
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import CaptureConfig

if TYPE_CHECKING:
    from crowdperf.capture.pyav_decoder import PyavDecoder

RATE_WINDOW_S = 2.0
MAX_FPS = 240
"""Pictures taken in a second at most: whatever a source sends, it may not take the site's time."""

log = logging.getLogger(__name__)


class CameraCapture:
    """Captures one camera until closed. It never gives up and raises for no fault of the camera.

    Args:
        slice_: the camera.
        metrics: where counters, gauges and texts go.
        report: takes each change of state, and whether it is more than a retry of a camera that stays down; it must
            not block.
        alive: called at least every `POLL_S`; False asks to leave a longer operation.
        wait: sleeps, and returns early when the process is to stop.
        decoding: told by the thread that is about to decode in this process whose pictures they are.
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
        self._connector = SourceConnector(config, self._redact, self._keep_running, on_decoding)
        self._connection = ConnectionState(config.stall_s, random.random, time.monotonic())
        self._quality = ConnectionQuality(time.monotonic())
        self._decoder: FfmpegProcess | PyavDecoder | None = None
        self._ring: FrameWriter | None = None
        self._epoch = 0
        """The newest one that this camera's rings have had, as far as it is known."""
        self._view = memoryview(b"")
        self._filled = 0
        self._first_byte_ns = (0, 0)
        self._overdue_s = FRAME_TIMEOUT_S
        self._connection_frames = 0
        self._is_finite = False
        self._cause: DisconnectCause | None = None
        self._last_state = ""
        self._last_reported_state = ""
        self._rate_start = (time.monotonic(), 0)
        self._total_frames = 0
        self._rate_limit_window = (0.0, 0)

    def step(self) -> None:
        """One turn of the loop: connect where it is due, else take what FFmpeg has. Takes `POLL_S` or little more."""
        now = time.monotonic()
        if self._decoder is not None:
            self._read_frame(self._decoder)
        elif self._connection.is_due(now):
            self._connect(now)
        else:
            self._wait(POLL_S)
        self._update_heartbeat(time.monotonic())
        self._publish_state()

    def close(self) -> None:
        """End FFmpeg, remove the ring, report the stop."""
        self._terminate_decoder()
        self._connector.close()
        if self._ring:
            self._ring.close(unlink=True)
            self._ring = None
        else:
            # A process that was killed may have left one: this camera, down since, has not opened it.
            segment.remove(Path(self._config.ring))
        self._connection.stop(time.monotonic(), "capture was stopped")
        self._publish_state()

    def abandon(self) -> None:
        """Let go after an error that should not be: the ring stays for whoever comes next, as after kill -9."""
        self._terminate_decoder()
        self._connector.close()
        if self._ring:
            self._ring.close(unlink=False)
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
            self._decoder, self._is_finite = opened.decoder, opened.is_finite
            self._quality.set_expected_fps(opened.fps)
            self._open_ring(opened.spec)
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
            # Where the old ring has just made way, its readers let go within a moment.
            self._epoch = max(self._epoch, error.made_way)
            self._disconnect("source", str(error), misconfigured=not error.made_way)
            return
        except (SourceError, FfmpegMissing, RingError) as error:
            self._disconnect("source", str(error), misconfigured=True)
            return
        except OSError as error:
            self._disconnect("source", f"FFmpeg cannot be started: {error.strerror}")
            return
        self._metrics.set_child(camera.camera_id, self._decoder.pid)
        self._metrics.set_gauge("pipe_bytes", self._decoder.pipe_bytes, camera.camera_id)
        self._metrics.set_text("pts_source", "stream" if camera.backend == "pyav" else "none", camera.camera_id)
        self._connection_frames = 0
        self._claim_slot()
        self._connection.mark_opened(time.monotonic())

    def _open_ring(self, spec: RingSpec) -> None:
        """Keep the ring where the picture is as before; else a new one takes its name."""
        if self._ring and self._ring.spec == spec:
            return
        if self._ring:
            self._ring.close(unlink=False)
            self._ring = None
        self._ring = FrameWriter(Path(self._config.ring), spec, Path(self._config.doorbell), self._epoch)
        self._epoch = self._ring.epoch
        self._metrics.set_gauge("ring_epoch", self._ring.epoch, self._config.camera_id)
        self._metrics.set_gauge("ring_head", self._ring.sequence, self._config.camera_id)

    def _claim_slot(self) -> None:
        assert self._ring is not None
        self._view = self._ring.slot()
        self._filled = 0
        self._overdue_s = FRAME_TIMEOUT_S

    def _read_frame(self, decoder: FfmpegProcess | PyavDecoder) -> None:
        assert self._ring is not None
        if decoder.resized_to:
            # FFmpeg would go on scaling to the old size, in the old shape.
            self._disconnect("ended", "the picture's size changed to {}x{}".format(*decoder.resized_to))
            return
        count = decoder.read_into(self._view[self._filled :], POLL_S)
        now = time.monotonic()
        if count is None:
            self._handle_end(decoder, now)
            return
        if count and not self._filled:
            self._first_byte_ns = decoder.arrival_ns or (time.time_ns(), time.monotonic_ns())
        self._filled += count
        if self._filled == len(self._view):
            sequence = self._ring.publish(*self._first_byte_ns, decoder.pts)
            self._metrics.set_gauge("ring_head", sequence, self._config.camera_id)
            self._metrics.count("frames_captured", 1, self._config.camera_id)
            if decoder.camera_clock_ns:
                glass_ms = (self._first_byte_ns[0] - decoder.camera_clock_ns) / 1e6
                self._metrics.set_gauge("glass_to_capture_ms", glass_ms, self._config.camera_id)
            self._quality.record_frames(now, 1)
            self._connection_frames += 1
            self._total_frames += 1
            self._connection.record_frame(now)
            self._claim_slot()
            self._limit_rate(now)
        elif self._filled and now - self._first_byte_ns[1] / 1e9 >= self._overdue_s:
            self._overdue_s += FRAME_TIMEOUT_S
            if self._count_short_read(now):
                self._disconnect("short_reads", f"a picture stopped after {self._filled} of {len(self._view)} bytes")
        elif self._connection.check_stalled(now):
            self._publish_state()
            self._disconnect("stall", self._connection.detail)

    def _limit_rate(self, now: float) -> None:
        """Take no more than `MOST_FPS`; what is not taken has to wait in the pipe."""
        since, taken = self._rate_limit_window
        if now - since >= 1.0:
            self._rate_limit_window = (now, 1)
        elif taken < MAX_FPS:
            self._rate_limit_window = (since, taken + 1)
        else:
            self._wait(since + 1.0 - now)

    def _keep_running(self) -> bool:
        """For what takes longer than a turn of the loop."""
        self._update_heartbeat(time.monotonic())
        return self._is_alive()

    def _count_short_read(self, now: float) -> bool:
        self._metrics.count("short_reads_total", 1, self._config.camera_id)
        return self._connection.record_short_read(now)

    def _handle_end(self, decoder: FfmpegProcess | PyavDecoder, now: float) -> None:
        """The pictures have ended: the end of a file, or a lost connection."""
        if self._filled:
            self._count_short_read(now)
        code = decoder.wait_exit_code()
        self._store_error_lines(decoder.tail)
        self._metrics.set_child(self._config.camera_id, None)
        self._decoder = None
        if self._is_finite and self._connection_frames and code == 0:
            self._connection.stop(now, "the file has been played to its end")
            return
        detail, hopeless = explain_failure(decoder.error_lines, "the stream ended", self._redact)
        self._disconnect(
            "ended" if self._connection_frames else "source",
            detail,
            misconfigured=hopeless and not self._connection_frames,
        )

    def _disconnect(self, cause: DisconnectCause, detail: str, misconfigured: bool = False) -> None:
        self._terminate_decoder()
        self._cause = cause
        self._quality.record_loss(time.monotonic(), stall=cause == "stall")
        self._connection.schedule_retry(time.monotonic(), self._redact(detail), misconfigured)
        self._metrics.set_text("last_error", self._connection.detail, self._config.camera_id)

    def _terminate_decoder(self) -> None:
        self._view = memoryview(b"")
        if self._decoder:
            self._decoder.terminate()
            self._metrics.set_child(self._config.camera_id, None)
            self._store_error_lines(self._decoder.tail)
            self._decoder = None

    def _store_error_lines(self, lines: Iterable[str]) -> None:
        """Keep FFmpeg's last words for /debug."""
        said = "\n".join(lines)
        if said:
            self._metrics.set_text("ffmpeg_stderr", said, self._config.camera_id)

    def _update_heartbeat(self, now: float) -> None:
        """Heartbeat and rate."""
        since, total = self._rate_start
        if now - since >= RATE_WINDOW_S:
            self._metrics.set_gauge(
                "fps_captured", (self._total_frames - total) / (now - since), self._config.camera_id
            )
            self._rate_start = (now, self._total_frames)
            if self._decoder:
                self._store_error_lines(self._decoder.tail)
            grade = self._quality.compute_grade(now)
            if grade and self._connection.state != "stopped":
                self._metrics.set_text("quality", grade, self._config.camera_id)
        self._metrics.set_gauge("backoff_s", self._connection.get_backoff_s(now), self._config.camera_id)
        if self._ring:
            self._ring.beat()

    def _publish_state(self) -> None:
        """Tell the metrics and report each change of state; asked at every turn, which may be some to a picture."""
        state, detail, camera = self._connection.state, self._connection.detail, self._config.camera_id
        if state == self._last_state:
            return
        self._last_state = state
        self._metrics.set_text("state", state, camera)
        # Down again, in the same way, is no news; the way there is none either.
        retry = state == self._last_reported_state or (self._connection.is_down and state in ("connecting", "stalled"))
        if not retry:
            self._last_reported_state = state
            log.log(logging.INFO if state in ("connecting", "live") else logging.WARNING, "%s %s", state, detail)
        ts, failures = time.time(), self._connection.failures
        event_id = f"{camera}:state:{int(ts * 1000)}:{state}"
        event = CameraChanged(id=event_id, camera=camera, ts=ts, state=state, detail=detail, failures=failures)
        self._report_state(event, not retry)
