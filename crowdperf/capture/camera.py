"""One camera's capture: the machine's decisions carried out on FFmpeg and the ring."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from crowdperf.capture.ffmpeg import FfmpegChild
from crowdperf.capture.machine import UNFINISHED_S, Cause, Machine
from crowdperf.capture.opening import POLL_S, NotOpened, Opener, reason
from crowdperf.capture.quality import Quality
from crowdperf.capture.source import SourceError, redactor
from crowdperf.events.schema import CameraChanged
from crowdperf.ffmpeg import FfmpegMissing
from crowdperf.frames import segment
from crowdperf.frames.ring import FrameWriter, RingBusy, RingError, RingFull, RingSpec
from crowdperf.runtime import Metrics
from crowdperf.slices import CaptureSlice

if TYPE_CHECKING:
    from crowdperf.capture.pyav import PyavChild

RATE_WINDOW_S = 2.0
MOST_FPS = 240
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
        slice_: CaptureSlice,
        metrics: Metrics,
        report: Callable[[CameraChanged, bool], None],
        alive: Callable[[], bool],
        wait: Callable[[float], object],
        decoding: Callable[[CaptureSlice], None] = lambda _: None,
    ) -> None:
        self._slice = slice_
        self._metrics = metrics
        self._report = report
        self._alive = alive
        self._wait = wait
        self._clean = redactor(slice_.url)
        self._opener = Opener(slice_, self._clean, self._turn, decoding)
        self._machine = Machine(slice_.stall_s, random.random, time.monotonic())
        self._quality = Quality(time.monotonic())
        self._child: FfmpegChild | PyavChild | None = None
        self._ring: FrameWriter | None = None
        self._epoch = 0
        """The newest one that this camera's rings have had, as far as it is known."""
        self._view = memoryview(b"")
        self._filled = 0
        self._first_byte_ns = (0, 0)
        self._overdue_s = UNFINISHED_S
        self._frames = 0
        self._ends = False
        self._cause: Cause | None = None
        self._entered = ""
        self._announced = ""
        self._rate_from = (time.monotonic(), 0)
        self._total = 0
        self._window = (0.0, 0)

    def step(self) -> None:
        """One turn of the loop: connect where it is due, else take what FFmpeg has. Takes `POLL_S` or little more."""
        now = time.monotonic()
        if self._child is not None:
            self._pump(self._child)
        elif self._machine.due(now):
            self._connect(now)
        else:
            self._wait(POLL_S)
        self._beat(time.monotonic())
        self._announce()

    def close(self) -> None:
        """End FFmpeg, remove the ring, report the stop."""
        self._end_child()
        self._opener.close()
        if self._ring:
            self._ring.close(unlink=True)
            self._ring = None
        else:
            # A process that was killed may have left one: this camera, down since, has not opened it.
            segment.remove(Path(self._slice.ring))
        self._machine.stop(time.monotonic(), "capture was stopped")
        self._announce()

    def abandon(self) -> None:
        """Let go after an error that should not be: the ring stays for whoever comes next, as after kill -9."""
        self._end_child()
        self._opener.close()
        if self._ring:
            self._ring.close(unlink=False)
            self._ring = None

    def _connect(self, now: float) -> None:
        camera = self._slice
        if self._cause:
            self._metrics.count("ffmpeg_restarts_total", camera=camera.camera_id)
            self._metrics.count(f"ffmpeg_restarts_{self._cause}", camera=camera.camera_id)
        self._machine.connecting(now)
        self._announce()
        try:
            opened = self._opener.open()
            self._child, self._ends = opened.child, opened.ends
            self._quality.expect(opened.fps)
            self._open_ring(opened.spec)
        except NotOpened as error:
            self._remember(error.lines)
            if error.cause == "stall":
                self._machine.stalled(time.monotonic())
                self._announce()
            self._lose(error.cause, str(error), error.misconfigured)
            return
        except RingBusy as error:
            self._lose("source", str(error))
            return
        except RingFull as error:
            # Where the old ring has just made way, its readers let go within a moment.
            self._epoch = max(self._epoch, error.made_way)
            self._lose("source", str(error), misconfigured=not error.made_way)
            return
        except (SourceError, FfmpegMissing, RingError) as error:
            self._lose("source", str(error), misconfigured=True)
            return
        except OSError as error:
            self._lose("source", f"FFmpeg cannot be started: {error.strerror}")
            return
        self._metrics.child(camera.camera_id, self._child.pid)
        self._metrics.gauge("pipe_bytes", self._child.pipe_bytes, camera.camera_id)
        self._metrics.text("pts_source", "stream" if camera.backend == "pyav" else "none", camera.camera_id)
        self._frames = 0
        self._next_slot()
        self._machine.opened(time.monotonic())

    def _open_ring(self, spec: RingSpec) -> None:
        """Keep the ring where the picture is as before; else a new one takes its name."""
        if self._ring and self._ring.spec == spec:
            return
        if self._ring:
            self._ring.close(unlink=False)
            self._ring = None
        self._ring = FrameWriter(Path(self._slice.ring), spec, Path(self._slice.doorbell), self._epoch)
        self._epoch = self._ring.epoch
        self._metrics.gauge("ring_epoch", self._ring.epoch, self._slice.camera_id)
        self._metrics.gauge("ring_head", self._ring.sequence, self._slice.camera_id)

    def _next_slot(self) -> None:
        assert self._ring is not None
        self._view = self._ring.slot()
        self._filled = 0
        self._overdue_s = UNFINISHED_S

    def _pump(self, child: FfmpegChild | PyavChild) -> None:
        assert self._ring is not None
        if child.resized:
            # FFmpeg would go on scaling to the old size, in the old shape.
            self._lose("ended", "the picture's size changed to {}x{}".format(*child.resized))
            return
        count = child.read_into(self._view[self._filled :], POLL_S)
        now = time.monotonic()
        if count is None:
            self._ended(child, now)
            return
        if count and not self._filled:
            self._first_byte_ns = child.arrived or (time.time_ns(), time.monotonic_ns())
        self._filled += count
        if self._filled == len(self._view):
            sequence = self._ring.publish(*self._first_byte_ns, child.pts)
            self._metrics.gauge("ring_head", sequence, self._slice.camera_id)
            self._metrics.count("frames_captured", camera=self._slice.camera_id)
            if child.camera_clock_ns:
                glass_ms = (self._first_byte_ns[0] - child.camera_clock_ns) / 1e6
                self._metrics.gauge("glass_to_capture_ms", glass_ms, self._slice.camera_id)
            self._quality.delivered(now, 1)
            self._frames += 1
            self._total += 1
            self._machine.frame(now)
            self._next_slot()
            self._limit(now)
        elif self._filled and now - self._first_byte_ns[1] / 1e9 >= self._overdue_s:
            self._overdue_s += UNFINISHED_S
            if self._short_read(now):
                self._lose("short_reads", f"a picture stopped after {self._filled} of {len(self._view)} bytes")
        elif self._machine.stalled(now):
            self._announce()
            self._lose("stall", self._machine.detail)

    def _limit(self, now: float) -> None:
        """Take no more than `MOST_FPS`; what is not taken has to wait in the pipe."""
        since, taken = self._window
        if now - since >= 1.0:
            self._window = (now, 1)
        elif taken < MOST_FPS:
            self._window = (since, taken + 1)
        else:
            self._wait(since + 1.0 - now)

    def _turn(self) -> bool:
        """For what takes longer than a turn of the loop."""
        self._beat(time.monotonic())
        return self._alive()

    def _short_read(self, now: float) -> bool:
        self._metrics.count("short_reads_total", camera=self._slice.camera_id)
        return self._machine.short_read(now)

    def _ended(self, child: FfmpegChild | PyavChild, now: float) -> None:
        """The pictures have ended: the end of a file, or a lost connection."""
        if self._filled:
            self._short_read(now)
        code = child.exit_code()
        self._remember(child.tail)
        self._metrics.child(self._slice.camera_id, None)
        self._child = None
        if self._ends and self._frames and code == 0:
            self._machine.stop(now, "the file has been played to its end")
            return
        detail, hopeless = reason(child.said, "the stream ended", self._clean)
        self._lose("ended" if self._frames else "source", detail, misconfigured=hopeless and not self._frames)

    def _lose(self, cause: Cause, detail: str, misconfigured: bool = False) -> None:
        self._end_child()
        self._cause = cause
        self._quality.lost(time.monotonic(), stall=cause == "stall")
        self._machine.lost(time.monotonic(), self._clean(detail), misconfigured)
        self._metrics.text("last_error", self._machine.detail, self._slice.camera_id)

    def _end_child(self) -> None:
        self._view = memoryview(b"")
        if self._child:
            self._child.end()
            self._metrics.child(self._slice.camera_id, None)
            self._remember(self._child.tail)
            self._child = None

    def _remember(self, lines: Iterable[str]) -> None:
        """Keep FFmpeg's last words for /debug."""
        said = "\n".join(lines)
        if said:
            self._metrics.text("ffmpeg_stderr", said, self._slice.camera_id)

    def _beat(self, now: float) -> None:
        """Heartbeat and rate."""
        since, total = self._rate_from
        if now - since >= RATE_WINDOW_S:
            self._metrics.gauge("fps_captured", (self._total - total) / (now - since), self._slice.camera_id)
            self._rate_from = (now, self._total)
            if self._child:
                self._remember(self._child.tail)
            grade = self._quality.grade(now)
            if grade and self._machine.state != "stopped":
                self._metrics.text("quality", grade, self._slice.camera_id)
        self._metrics.gauge("backoff_s", self._machine.waiting(now), self._slice.camera_id)
        if self._ring:
            self._ring.beat()

    def _announce(self) -> None:
        """Tell the metrics and report each change of state; asked at every turn, which may be some to a picture."""
        state, detail, camera = self._machine.state, self._machine.detail, self._slice.camera_id
        if state == self._entered:
            return
        self._entered = state
        self._metrics.text("state", state, camera)
        # Down again, in the same way, is no news; the way there is none either.
        retry = state == self._announced or (self._machine.down and state in ("connecting", "stalled"))
        if not retry:
            self._announced = state
            log.log(logging.INFO if state in ("connecting", "live") else logging.WARNING, "%s %s", state, detail)
        ts, failures = time.time(), self._machine.failures
        event_id = f"{camera}:state:{int(ts * 1000)}:{state}"
        event = CameraChanged(id=event_id, camera=camera, ts=ts, state=state, detail=detail, failures=failures)
        self._report(event, not retry)
