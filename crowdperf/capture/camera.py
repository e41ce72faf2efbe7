"""One camera's capture: the machine's decisions carried out on FFmpeg and the ring."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from crowdperf.capture import argv, probe, source
from crowdperf.capture.argv import Options
from crowdperf.capture.ffmpeg import FfmpegChild
from crowdperf.capture.machine import UNFINISHED_S, Cause, Machine
from crowdperf.capture.probe import Probe
from crowdperf.capture.quality import Quality
from crowdperf.events.schema import CameraChanged
from crowdperf.ffmpeg import UNASKED, FfmpegMissing, abilities, ffmpeg_binary
from crowdperf.frames.ring import FrameWriter, RingError, RingSpec
from crowdperf.runtime import Metrics
from crowdperf.slices import CaptureSlice

if TYPE_CHECKING:
    from crowdperf.capture.pyav import PyavChild

POLL_S = 0.2
PROBE_S = 15.0
RATE_WINDOW_S = 2.0
_HOPELESS = (
    *("Invalid data found", "moov atom not found", "Protocol not found", "Option not found", "Unrecognized option"),
    *("does not contain any stream", "matches no streams", "Invalid argument", "Unknown decoder", "Decoder not found"),
    *("401 Unauthorized", "403 Forbidden", "404 Not Found", "400 Bad Request", "454 Session", "Server returned 4"),
)
"""What FFmpeg says when waiting will not help; such a camera is `misconfigured`, and tried again all the same."""

log = logging.getLogger(__name__)


class CameraCapture:
    """Captures one camera until closed. It never gives up and raises for no fault of the camera.

    Args:
        slice_: the camera.
        metrics: where counters, gauges and texts go.
        report: takes each change of state; it must not block.
        alive: called at least every `POLL_S`; False asks to leave a longer operation.
        wait: sleeps, and returns early when the process is to stop.
        decoding: told by the thread that is about to decode in this process whose pictures they are.
    """

    def __init__(
        self,
        slice_: CaptureSlice,
        metrics: Metrics,
        report: Callable[[CameraChanged], None],
        alive: Callable[[], bool],
        wait: Callable[[float], object],
        decoding: Callable[[CaptureSlice], None] = lambda _: None,
    ) -> None:
        self._slice = slice_
        self._metrics = metrics
        self._report = report
        self._alive = alive
        self._wait = wait
        self._decoding = decoding
        self._clean = source.redactor(slice_.url)
        self._machine = Machine(slice_.stall_s, random.random, time.monotonic())
        self._quality = Quality(time.monotonic())
        self._child: FfmpegChild | PyavChild | None = None
        self._ring: FrameWriter | None = None
        self._view = memoryview(b"")
        self._filled = 0
        self._first_byte_ns = (0, 0)
        self._overdue_s = UNFINISHED_S
        self._frames = 0
        self._ends = False
        self._cause: Cause | None = None
        self._announced = ""
        self._rate_from = (time.monotonic(), 0)
        self._total = 0

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
        if self._ring:
            self._ring.close(unlink=True)
            self._ring = None
        self._machine.stop(time.monotonic(), "capture was stopped")
        self._announce()

    def abandon(self) -> None:
        """Let go after an error that should not be: the ring stays for whoever comes next, as after kill -9."""
        self._end_child()
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
            options = self._options()
            if camera.backend == "pyav":
                self._child = self._open_pyav(options)
            elif argv.tells_itself(options, camera.pix_fmt):
                self._child = self._open_stream(options)
            else:
                self._child = self._open_probed(options)
            if self._child is None:
                return
        except (source.SourceError, FfmpegMissing, RingError) as error:
            self._lose("source", str(error), misconfigured=True)
            return
        except OSError as error:
            self._lose("source", f"FFmpeg cannot be started: {error.strerror}")
            return
        self._metrics.gauge("pipe_bytes", self._child.pipe_bytes, camera.camera_id)
        self._metrics.text("pts_source", "stream" if camera.backend == "pyav" else "none", camera.camera_id)
        self._frames = 0
        self._next_slot()

    def _options(self) -> Options:
        """What the slice asks for, checked.

        Raises:
            SourceError, FfmpegMissing: it cannot be done.
        """
        camera = self._slice
        binary = "" if camera.backend == "pyav" else ffmpeg_binary()
        return Options(
            binary=binary,
            abilities=abilities(binary) if binary else UNASKED,
            source=source.check(camera.url, camera.media_roots),
            rtsp_transport=camera.rtsp_transport,
            timeout_usec=camera.rtsp_stimeout_usec,
            extra_flags=tuple(source.flags(camera.ffmpeg_extra_flags, "FFMPEG_EXTRA_FLAGS")),
            output_flags=tuple(source.flags(camera.ffmpeg_flags, "ffmpeg_flags")),
        )

    def _open_stream(self, options: Options) -> FfmpegChild | None:
        """One connection: FFmpeg says what the source is and goes on to its pictures."""
        found = None
        for patient in (False, True):
            child = FfmpegChild(argv.stream(replace(options, patient=patient), self._slice.analysis_width), self._clean)
            deadline = self._deadline()
            while found is None and child.attend(POLL_S) and time.monotonic() < deadline and self._alive():
                found = probe.parse_stream("\n".join(child.facts))
                self._beat(time.monotonic())
            if found:
                try:
                    self._open_ring(self._spec(found[0], found[1:]))
                except RingError:
                    child.end()
                    raise
                self._ends = False
                return child
            child.end()
            if not self._try_patience(time.monotonic() >= deadline, [*child.facts, *child.tail], list(child.tail)):
                return None
        self._lose_with(list(child.tail), "the source holds no video")
        return None

    def _open_probed(self, options: Options) -> FfmpegChild | None:
        """Look first, then open again with what is known by then."""
        found, options = self._probe(options)
        if found is None:
            return None
        self._open_ring(self._spec(found))
        assert self._ring is not None
        # A recording, here or on a web server: it can be read faster than it was filmed, and it has an end.
        paced = options.source.kind == "file" or (options.source.kind == "http" and found.finite)
        self._ends = paced and not self._slice.loop
        options = replace(options, paced=paced, loop=self._slice.loop and paced)
        return FfmpegChild(argv.capture(options, self._ring.spec), self._clean)

    def _open_pyav(self, options: Options) -> PyavChild | None:
        """One connection, decoded in this process; its first picture says what the source is."""
        try:
            # Here, because it costs every process 40 MB, and it may be missing.
            from crowdperf.capture.pyav import PyavChild
        except ImportError as error:
            raise source.SourceError(
                f"the backend pyav needs the Python package av ({error}). Remedy: install it, or set backend: ffmpeg."
            ) from None
        for patient in (False, True):
            # A read's own limit comes after ours: a stall is to be called one.
            silence_s = max(self._slice.stall_s, 1.0) + 1.0
            child = PyavChild(
                replace(options, patient=patient),
                self._slice.loop,
                silence_s,
                self._clean,
                begin=lambda: self._decoding(self._slice),
            )
            deadline = self._deadline()
            while child.found is None and child.attend(POLL_S) and time.monotonic() < deadline and self._alive():
                self._beat(time.monotonic())
            if child.found:
                try:
                    self._open_ring(self._spec(child.found))
                except RingError:
                    child.end()
                    raise
                assert self._ring is not None
                child.shape(self._ring.spec)
                self._ends = child.found.finite and not self._slice.loop
                return child
            child.end()
            nothing = not child.tail or "does not contain any stream" in child.tail[-1]
            said = ["Video:"] if nothing and not patient else []
            if not self._try_patience(time.monotonic() >= deadline, said, list(child.tail)):
                return None
        return None

    def _probe(self, options: Options) -> tuple[Probe | None, Options]:
        """Look at the source, a second time with patience where it does not show its size at once."""
        for patient in (False, True):
            options = replace(options, patient=patient)
            child = FfmpegChild(argv.probe(options), self._clean)
            deadline = self._deadline()
            while child.listen(POLL_S) and time.monotonic() < deadline and self._alive():
                self._beat(time.monotonic())
            child.end()
            lines = [line for line in child.tail if "At least one output file" not in line]
            found = probe.parse("\n".join(lines))
            if found:
                return found, options
            if not self._try_patience(time.monotonic() >= deadline, lines, lines):
                return None, options
        self._lose_with(lines, "the source holds no video")
        return None, options

    def _deadline(self) -> float:
        return time.monotonic() + min(PROBE_S, max(self._slice.stall_s, 1.0))

    def _try_patience(self, late: bool, said: list[str], errors: list[str]) -> bool:
        """Whether a source that showed no picture size may show one to an FFmpeg that waits; else it is lost here."""
        if not late and any("unspecified size" in line or "Video:" in line for line in said):
            return True
        self._remember(errors)
        self._machine.stalled(time.monotonic())
        if late:
            self._lose("stall", "the source was opened but gave no picture in time")
        else:
            self._lose_with(errors, "the source holds no video")
        return False

    def _spec(self, found: Probe, written: tuple[int, int] | None = None) -> RingSpec:
        camera = self._slice
        self._quality.expect(found.fps)
        return probe.ring_spec(
            found,
            pix_fmt=camera.pix_fmt,
            analysis_width=camera.analysis_width,
            queue_max=camera.queue_max,
            target_fps=camera.target_fps,
            frame_skip=camera.frame_skip,
            ppe_fps=camera.ppe_fps,
            model_width=camera.model_width,
            written=written,
        )

    def _open_ring(self, spec: RingSpec) -> None:
        """Keep the ring where the picture is as before; else a new one takes its name."""
        if self._ring and self._ring.spec == spec:
            return
        if self._ring:
            self._ring.close(unlink=False)
            self._ring = None
        self._ring = FrameWriter(Path(self._slice.ring), spec, Path(self._slice.doorbell))
        self._metrics.gauge("ring_epoch", self._ring.epoch, self._slice.camera_id)
        self._metrics.gauge("ring_head", self._ring.sequence, self._slice.camera_id)

    def _next_slot(self) -> None:
        assert self._ring is not None
        self._view = self._ring.slot()
        self._filled = 0
        self._overdue_s = UNFINISHED_S

    def _pump(self, child: FfmpegChild | PyavChild) -> None:
        assert self._ring is not None
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
        elif self._filled and now - self._first_byte_ns[1] / 1e9 >= self._overdue_s:
            self._overdue_s += UNFINISHED_S
            if self._short_read(now):
                self._lose("short_reads", f"a picture stopped after {self._filled} of {len(self._view)} bytes")
        elif self._machine.stalled(now):
            self._announce()
            self._lose("stall", self._machine.detail)

    def _short_read(self, now: float) -> bool:
        self._metrics.count("short_reads_total", camera=self._slice.camera_id)
        return self._machine.short_read(now)

    def _ended(self, child: FfmpegChild | PyavChild, now: float) -> None:
        """The pictures have ended: the end of a file, or a lost connection."""
        if self._filled:
            self._short_read(now)
        code = child.exit_code()
        self._remember(child.tail)
        self._child = None
        if self._ends and self._frames and code == 0:
            self._machine.stop(now, "the file has been played to its end")
            return
        self._lose_with(list(child.tail), "the stream ended", failed=not self._frames)

    def _lose_with(self, lines: list[str], otherwise: str, failed: bool = True) -> None:
        """Lost, for the reason that FFmpeg gives."""
        self._remember(lines)
        hopeless = [line for line in lines if any(phrase in line for phrase in _HOPELESS)]
        detail = (hopeless or lines or [otherwise])[-1]
        self._lose("ended" if not failed else "source", detail, misconfigured=failed and bool(hopeless))

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
        """Tell the metrics every state, and the site each change but the retries of a camera that stays down."""
        state, detail, camera = self._machine.state, self._machine.detail, self._slice.camera_id
        self._metrics.text("state", state, camera)
        if state == self._announced or (state == "connecting" and self._machine.failures):
            return
        self._announced = state
        log.log(logging.INFO if state in ("connecting", "live") else logging.WARNING, "%s %s", state, detail)
        ts = time.time()
        event_id = f"{camera}:state:{int(ts * 1000)}:{state}"
        self._report(CameraChanged(id=event_id, camera=camera, ts=ts, state=state, detail=detail))
