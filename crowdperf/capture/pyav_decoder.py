"""Backend `pyav`: decode inside this process, in a thread that is left behind if it hangs.

The thread opens, reads, decodes, paces, scales, and copies into the slot offered by the capture loop. Splitting decode
and scale over two cores would cost 10 % more; splitting off only the copy costs 5 %. The thread copies under a lock
after checking that its connection is still wanted. So a thread stuck in a read can never touch a ring later; libav's
time-outs end it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from crowdperf.capture.crash_report import DECODER_THREAD_NAME
from crowdperf.capture.ffmpeg_args import SourceOptions, get_input_options
from crowdperf.capture.network.url_policy import SourceError
from crowdperf.capture.playback import Playback
from crowdperf.capture.probe import SourceInfo, has_end
from crowdperf.frames.layout import NO_PTS, RingSpec

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_ERROR_LINES = 100
ITU601, MPEG_RANGE = int(Colorspace.ITU601), int(ColorRange.MPEG)
"""As numbers: PyAV takes 5 us to look up a name."""
SWS_FAST_BILINEAR = 1
"""The number that swscale uses; the types of some PyAV versions lack the name."""
JOIN_TIMEOUT_S = 1.0
MAX_ARRIVALS = 64
_ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 18 else {}
_DEMUXER_FLAGS = frozenset(
    (
        *("-analyzeduration", "-buffer_size", "-err_detect", "-fflags", "-flags", "-max_delay", "-probesize"),
        *("-reorder_queue_size", "-rtsp_flags", "-skip_frame", "-tls_verify", "-use_wallclock_as_timestamps"),
        "-user_agent",
    )
)
_DECODER_OPTIONS = frozenset(("err_detect", "flags", "skip_frame"))
"""The subset that the decoder takes; `-flags` and `-err_detect` apply to the demuxer too."""
_IGNORED_FLAGS = {"-loglevel": 1, "-v": 1, "-an": 0, "-sn": 0, "-dn": 0, "-hide_banner": 0, "-nostats": 0}
"""Flags without a meaning here -> their number of values."""


class _FilledSlot(NamedTuple):
    """Times of the picture in the offered slot."""

    arrival_ns: tuple[int, int]
    pts: int
    camera_clock_ns: int | None


def build_container_options(options: SourceOptions) -> dict[str, str]:
    """Build libav's options; raise SourceError for a flag that only the FFmpeg program knows."""
    flags = get_input_options(options) | {"-flags": "low_delay"}
    rest = iter((*options.extra_flags, *options.output_flags))
    for flag in rest:
        if flag in _DEMUXER_FLAGS:
            flags[flag] = next(rest)
        elif flag not in _IGNORED_FLAGS:
            raise SourceError(
                f"the backend pyav cannot use the flag {flag!r}. "
                "Remedy: remove it from FFMPEG_EXTRA_FLAGS and ffmpeg_flags, or set the camera's backend to ffmpeg."
            )
        elif _IGNORED_FLAGS[flag]:
            next(rest)
    return {name[1:]: value for name, value in flags.items()}


class PyavDecoder:
    """One connection, with the methods of `FfmpegProcess` that the capture loop uses after opening.

    Args:
        options: The source and how to read it; the decoder detects recordings itself.
        loop: Play a recording again and again.
        read_timeout_s: A read that takes longer ends the connection.
        redact: Removes secrets from error texts.
        paced: Play a recording in real time.
        on_start: Called first by the decoding thread.

    Raises:
        SourceError: See `build_container_options`.
    """

    pid: int | None = None
    """None: it decodes in this process."""
    pipe_bytes = 0
    resized_to = None
    """Always None: a connection whose picture size changes ends by itself."""

    def __init__(
        self,
        options: SourceOptions,
        loop: bool,
        read_timeout_s: float,
        redact: Callable[[str], str],
        paced: bool = True,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self.source_info: SourceInfo | None = None
        """The source as its first picture shows it; None until then."""
        self.error_lines: deque[str] = deque(maxlen=MAX_ERROR_LINES)
        """Errors of libav, unredacted."""
        self.arrival_ns: tuple[int, int] | None = None
        """Wall-clock and monotonic ns at which the last picture's packet arrived."""
        self.pts = NO_PTS
        self.camera_clock_ns: int | None = None
        """The last picture's time on the camera's clock, if RTCP sender reports give it."""
        self._source = options.source
        self._options = build_container_options(options)
        self._loop = loop
        self._read_timeout_s = read_timeout_s
        self._redact = redact
        self._paced = paced
        self._on_start = on_start
        self._spec: RingSpec | None = None
        self._reformatter = VideoReformatter()
        self._free_slots: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        """Slots to fill, one at a time; None ends the thread."""
        self._filled: queue.SimpleQueue[_FilledSlot | None] = queue.SimpleQueue()
        self._slot_offered = False
        self._write_lock = threading.Lock()
        self._source_known, self._spec_known = threading.Event(), threading.Event()
        self._arrivals: dict[int | None, tuple[int, int]] = {}
        self._realtime_us = 0
        self._stop_requested = threading.Event()
        self._has_finished = False
        self._exit_code = 1
        self._thread = threading.Thread(target=self._run, name=DECODER_THREAD_NAME, daemon=True)
        self._thread.start()

    @property
    def tail(self) -> list[str]:
        """Errors without secrets, for display."""
        return [self._redact(line) for line in self.error_lines]

    def wait_for_picture(self, timeout_s: float) -> bool:
        """Wait for the first picture; return False once the connection has ended."""
        self._source_known.wait(timeout_s)
        return not self._has_finished

    def set_ring_spec(self, spec: RingSpec) -> None:
        """Set the size and format of the pictures, before the first `read_into`."""
        self._spec = spec
        self._spec_known.set()

    def read_into(self, view: memoryview, timeout_s: float) -> int | None:
        """Have the next picture copied into `view`, a whole slot; pass the same one until it is full.

        Returns:
            len(view); 0 after `timeout_s` without a picture; None at the end of the stream.
        """
        if not self._slot_offered:
            self._slot_offered = True
            self._free_slots.put(view)
        try:
            filled = self._filled.get(timeout=timeout_s)
        except queue.Empty:
            return 0
        if filled is None:
            self._filled.put(None)
            return None
        self._slot_offered = False
        self.arrival_ns, self.pts, self.camera_clock_ns = filled
        return len(view)

    def wait_exit_code(self) -> int:
        """Terminate and return the exit code: 0 after the end of a recording."""
        self.terminate()
        return self._exit_code

    def terminate(self) -> int:
        """Ask the thread to end; a stuck read ends by its time-out. No slot is written afterwards."""
        with self._write_lock:
            self._stop_requested.set()
        self._spec_known.set()
        self._free_slots.put(None)
        self._thread.join(JOIN_TIMEOUT_S)
        return self._exit_code

    def _run(self) -> None:
        self._on_start()
        limits = (self._read_timeout_s, self._read_timeout_s)
        try:
            with av.open(self._source.target, options=self._options, timeout=limits) as container:
                self._decode(container)
        except (av.FFmpegError, OSError, ValueError) as error:
            if not self._stop_requested.is_set():
                self.error_lines.append(str(error))
        finally:
            self._has_finished = True
            self._source_known.set()
            self._filled.put(None)

    def _decode(self, container: InputContainer) -> None:
        if not container.streams.video:
            self.error_lines.append("the source does not contain any stream of video")
            return
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        # `av.open` passes options to the demuxer only. PyAV opens this context with the first packet; an invalid
        # option then ends the connection.
        stream.codec_context.options = {name: self._options[name] for name in _DECODER_OPTIONS & self._options.keys()}
        finite = bool(container.duration and container.duration > 0) and has_end(
            container.format.name, container.bit_rate > 0
        )
        recording = self._source.kind == "file" or (self._source.kind == "http" and finite)
        paced = recording and self._paced
        fps = float(stream.average_rate or 0)
        playback = Playback(time.monotonic(), fps)
        while True:
            first_us, played_us = None, playback.begin_round()
            for packet in container.demux(stream):
                if self._stop_requested.is_set():
                    return
                self._arrivals[packet.pts] = (time.time_ns(), time.monotonic_ns())
                if len(self._arrivals) > MAX_ARRIVALS:
                    del self._arrivals[next(iter(self._arrivals))]
                for frame in _decode_packet(packet):
                    pts_us = _to_microseconds(frame.pts, frame.time_base or stream.time_base)
                    if first_us is None:
                        first_us = pts_us or 0
                    due_at = playback.compute_due_time(pts_us)
                    if paced and self._stop_requested.wait(due_at - time.monotonic()):
                        return
                    self._realtime_us = getattr(container, "start_time_realtime", None) or 0
                    offset_us = played_us - first_us if self._loop else 0
                    if not self._deliver_picture(frame, pts_us, offset_us, recording, fps):
                        return
            if first_us is None or not (self._loop and recording):
                self._exit_code = 0 if recording else 1
                return
            container.seek(0)

    def _deliver_picture(
        self, frame: VideoFrame, pts_us: int | None, offset_us: int, recording: bool, fps: float
    ) -> bool:
        """Copy a picture into the offered slot; return False when this connection is to end."""
        turns = frame.rotation // 90 % 4
        width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
        now = (time.time_ns(), time.monotonic_ns())
        arrival_ns = now if recording else self._arrivals.pop(frame.pts, now)
        if self.source_info is None:
            self.source_info = SourceInfo(width, height, fps, recording)
            self._source_known.set()
            self._spec_known.wait()
        elif (width, height) != self.source_info[:2] and not recording:
            self.error_lines.append(
                f"the picture's size changed from {self.source_info[0]}x{self.source_info[1]} to {width}x{height}"
            )
            return False
        if self._spec is None:
            return False
        pts = NO_PTS if pts_us is None else max(0, pts_us + offset_us)
        camera_clock_ns = (self._realtime_us + pts) * 1000 if self._realtime_us and pts != NO_PTS else None
        scaled = _scale(self._reformatter, frame, turns, self._spec)
        view = self._free_slots.get()
        with self._write_lock:
            if view is None or self._stop_requested.is_set():
                return False
            _copy_planes(scaled, turns, view)
        self._filled.put(_FilledSlot(arrival_ns, pts, camera_clock_ns))
        return True


def _decode_packet(packet: Packet[VideoStream]) -> list[VideoFrame]:
    """Decode a packet; a damaged one gives no picture, and the next keyframe repairs the stream."""
    try:
        return packet.decode()
    except av.error.InvalidDataError:
        return []


def _to_microseconds(pts: int | None, base: Fraction | None) -> int | None:
    return None if pts is None or base is None else pts * 1_000_000 * base.numerator // base.denominator


def _scale(reformatter: VideoReformatter, frame: VideoFrame, turns: int, spec: RingSpec) -> VideoFrame:
    """Scale `frame` to the ring's format and size, before rotation."""
    width, height = (spec.height, spec.width) if turns % 2 else (spec.width, spec.height)
    yuv = spec.pix_fmt == "yuv420p"
    return reformatter.reformat(
        frame,
        width,
        height,
        spec.pix_fmt,
        interpolation=SWS_FAST_BILINEAR,
        dst_colorspace=ITU601 if yuv else None,
        dst_color_range=MPEG_RANGE if yuv else None,
        **_ONE_THREAD,
    )


def _copy_planes(picture: VideoFrame, turns: int, view: memoryview) -> None:
    """Copy the planes one after the other into `view`, upright and without row padding."""
    start, planes = 0, picture.planes
    packed = 3 if len(planes) == 1 else 1
    for plane in planes:
        h, w, row = plane.height, plane.width * packed, plane.line_size
        stop = start + h * w
        if row == w and not turns:
            # The usual case, at half the cost of the general one.
            view[start:stop] = memoryview(plane)[: h * w]
        else:
            source = np.frombuffer(memoryview(plane), np.uint8, h * row).reshape(h, row)[:, :w]
            if turns:
                source = np.rot90(source.reshape(h, -1, 3) if packed == 3 else source, turns)
            np.copyto(np.frombuffer(view[start:stop], np.uint8).reshape(source.shape), source)
        start = stop
