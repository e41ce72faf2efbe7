"""From a camera's settings to a running child that gives its pictures: one connection, whatever shows the size."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from crowdperf.capture import ffmpeg_args, probe
from crowdperf.capture.connection_state import DisconnectCause
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.ffmpeg_process import FfmpegProcess, redact_lines
from crowdperf.capture.network import url_policy
from crowdperf.capture.network.connect_filter import ConnectFilter, ConnectFilterUnavailable
from crowdperf.capture.network.egress_proxy import EgressProxy
from crowdperf.capture.probe import SourceInfo
from crowdperf.frames.ring import RingSpec
from crowdperf.runtime.ffmpeg_binary import DEFAULT_FEATURES, detect_features, find_ffmpeg
from crowdperf.settings.process_config import CaptureConfig

if TYPE_CHECKING:
    from crowdperf.capture.pyav_decoder import PyavDecoder

POLL_S = 0.2
RESOLVE_TIMEOUT_S = 15.0
SIZE_REPORT_TIMEOUT_S = 2.0
"""Pictures in the pipe for this long, and no report of their size: it will not come."""
_PERMANENT_ERRORS = (
    *("Invalid data found", "moov atom not found", "Protocol not found", "Option not found", "Unrecognized option"),
    *("does not contain any stream", "matches no streams", "Invalid argument", "Unknown decoder", "Decoder not found"),
    *("Device creation failed", "No device available for decoder", "certificate verify failed"),
    *("401 Unauthorized", "403 Forbidden", "404 Not Found", "400 Bad Request", "454 Session", "Server returned 4"),
)
"""What FFmpeg says when waiting will not help; such a camera is `misconfigured`, and tried again all the same."""
_NO_VIDEO = "the source does not contain any stream of video"
"""What pyav says, and FFmpeg does not: asked what a source is, it is content with sound."""

_SUMMARY_PREFIXES = ("Error opening output", "Error opening input file", "Conversion failed", "Nothing was written")
"""What FFmpeg says after the line that tells the cause."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class OpenSource(NamedTuple):
    """A running child and what is known of its pictures."""

    decoder: FfmpegProcess | PyavDecoder
    spec: RingSpec
    fps: float
    """As the source states it and the flags let it through; 0.0 where nobody knows."""
    is_finite: bool
    """Whether it is a recording that is played once."""


class OpenError(Exception):
    """The source gave no pictures; the message is the reason."""

    def __init__(self, cause: DisconnectCause, detail: str, lines: list[str], misconfigured: bool = False) -> None:
        super().__init__(detail)
        self.cause: DisconnectCause = cause
        self.lines = lines
        """What FFmpeg said, without secrets."""
        self.misconfigured = misconfigured


def explain_failure(error_lines: Iterable[str], default: str, redact: Callable[[str], str]) -> tuple[str, bool]:
    """Why FFmpeg ended, in its own words without secrets, and whether waiting is of no use.

    Args:
        said: its error lines as they came: a secret may look like one of the phrases.
        otherwise: where it said nothing.
        clean: takes the secrets out.
    """
    lines = list(error_lines)
    hopeless = [line for line in lines if any(phrase in line for phrase in _PERMANENT_ERRORS)]
    telling = [line for line in lines if not line.startswith(_SUMMARY_PREFIXES)]
    return redact_lines((hopeless or telling or lines or [default])[-1:], redact)[0], bool(hopeless)


class SourceConnector:
    """Opens one camera again and again.

    Args:
        slice_: the camera.
        clean: takes its secrets out of a text.
        turn: called at least every `POLL_S`; False asks to leave.
        decoding: told by the thread that is about to decode in this process.
    """

    def __init__(
        self,
        config: CaptureConfig,
        redact: Callable[[str], str],
        keep_running: Callable[[], bool],
        on_decoding: Callable[[CaptureConfig], None],
    ) -> None:
        self._config = config
        self._redact = redact
        self._keep_running = keep_running
        self._on_decoding = on_decoding
        self._proxy: EgressProxy | None = None
        self._connect_filter: ConnectFilter | None = None
        self._filter_unavailable = False
        """This system lets no connection be watched."""
        self._hides_size = False
        """This FFmpeg has written pictures without the report of their size."""

    def open(self) -> OpenSource:
        """Connect.

        Raises:
            NotOpened: no pictures come.
            SourceError, FfmpegMissing: it cannot be tried.
            OSError: FFmpeg cannot be started.
        """
        options = self._build_options()
        if self._config.backend == "pyav":
            return self._open_with_pyav(options)
        if ffmpeg_args.reports_geometry(options, self._config.pix_fmt) and not self._hides_size:
            return self._open_stream(options)
        return self._open_after_probe(options)

    def close(self) -> None:
        """Let go of what is shared by all connections."""
        if self._proxy:
            self._proxy.close()
            self._proxy = None
        if self._connect_filter:
            self._connect_filter.close()
            self._connect_filter = None

    def _build_options(self) -> SourceOptions:
        camera = self._config
        binary = "" if camera.backend == "pyav" else find_ffmpeg()
        checked = url_policy.check_url(camera.url, camera.media_roots, camera.allowed_hosts)
        if checked.kind == "http" and self._proxy is None:
            self._proxy = EgressProxy(camera.allowed_hosts)
        if checked.kind == "rtsp":
            self._resolve()
            self._start_connect_filter()
        return SourceOptions(
            binary=binary,
            features=detect_features(binary) if binary else DEFAULT_FEATURES,
            source=checked,
            rtsp_transport=camera.rtsp_transport,
            timeout_usec=camera.rtsp_stimeout_usec,
            http_proxy=self._proxy.url if self._proxy else "",
            extra_flags=tuple(url_policy.parse_flags(camera.ffmpeg_extra_flags, "FFMPEG_EXTRA_FLAGS")),
            output_flags=tuple(url_policy.parse_flags(camera.ffmpeg_flags, "ffmpeg_flags")),
        )

    def _start_connect_filter(self) -> None:
        """Watch where an rtsp server leads, as far as this system lets us."""
        if self._connect_filter is None and not self._filter_unavailable:
            try:
                self._connect_filter = ConnectFilter(self._config.allowed_hosts)
            except ConnectFilterUnavailable as error:
                self._filter_unavailable = True
                log.warning(
                    "camera %s: where its rtsp server redirects to cannot be watched (%s)",
                    self._config.camera_id,
                    error,
                )
        if self._connect_filter:
            self._connect_filter.refusal = None

    def _start_filtered(self, make: Callable[[], T]) -> T:
        """Make a child whose connections are watched, where they are."""
        return self._connect_filter.run(make) if self._connect_filter else make()

    def _resolve(self) -> None:
        """Ask for the addresses of an rtsp host's name, in a thread: a resolver may take half a minute.

        Raises:
            SourceError: one of them is refused.
            NotOpened: there is no answer.
        """
        answer: queue.SimpleQueue[url_policy.SourceError | None] = queue.SimpleQueue()
        host, allowed = urlsplit(self._config.url).hostname or "", self._config.allowed_hosts

        def ask() -> None:
            try:
                url_policy.resolve_addresses(host, 554, allowed)
            except url_policy.SourceError as error:
                answer.put(error)
            except OSError:
                # FFmpeg will say so, in its own words.
                answer.put(None)
            else:
                answer.put(None)

        threading.Thread(target=ask, name="resolver", daemon=True).start()
        deadline = time.monotonic() + RESOLVE_TIMEOUT_S
        while self._keep_running() and time.monotonic() < deadline:
            try:
                refused = answer.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if refused:
                raise refused
            return
        raise OpenError("source", f"the name {host!r} is not resolved within {RESOLVE_TIMEOUT_S:g} s", [])

    def _open_stream(self, options: SourceOptions) -> OpenSource:
        """One connection: FFmpeg says what the source is and goes on to its pictures."""
        for patient in (False, True):
            command = ffmpeg_args.build_stream_args(replace(options, long_probe=patient), self._config.analysis_width)
            child = self._start_filtered(partial(FfmpegProcess, command, self._redact))
            deadline, found, unreported = self._compute_deadline(), None, 0.0
            while found is None and time.monotonic() < deadline and self._keep_running():
                listening = child.read_log(POLL_S)
                found = probe.parse_stream_info("\n".join(child.info_lines))
                if found is None and child.has_output():
                    unreported = unreported or time.monotonic() + (SIZE_REPORT_TIMEOUT_S if listening else 0.0)
                    if time.monotonic() >= unreported:
                        child.terminate()
                        log.warning(
                            "camera %s: FFmpeg does not say what it writes: it is asked first from now on",
                            self._config.camera_id,
                        )
                        self._hides_size = True
                        return self._open_after_probe(options)
                elif not listening:
                    break
            if found:
                source_, written = ffmpeg_args.with_effective_rate(options, found[0]), found[1:]
                return OpenSource(child, self._build_ring_spec(source_, written), source_.fps, False)
            child.terminate()
            self._raise_unless_retryable(patient, time.monotonic() >= deadline, child.info_lines, child.error_lines)
        raise AssertionError("unreachable")

    def _open_after_probe(self, options: SourceOptions) -> OpenSource:
        """Look first, then open again with what is known by then."""
        found, options = self._probe(options)
        found = ffmpeg_args.with_effective_rate(options, found)
        spec = self._build_ring_spec(found)
        # A recording, here or on a web server: it can be read faster than it was filmed, and it has an end.
        paced = options.source.kind == "file" or (options.source.kind == "http" and found.is_finite)
        options = replace(options, paced=paced, loop=self._config.loop and paced)
        child = self._start_filtered(
            partial(FfmpegProcess, ffmpeg_args.build_capture_args(options, spec), self._redact)
        )
        return OpenSource(child, spec, found.fps, paced and not self._config.loop)

    def _probe(self, options: SourceOptions) -> tuple[SourceInfo, SourceOptions]:
        """Look at the source, a second time with patience where it does not show its size at once."""
        for patient in (False, True):
            options = replace(options, long_probe=patient)
            child = self._start_filtered(partial(FfmpegProcess, ffmpeg_args.build_probe_args(options), self._redact))
            deadline = self._compute_deadline()
            while child.drain(POLL_S) and time.monotonic() < deadline and self._keep_running():
                pass
            child.terminate()
            found = probe.parse_source_info("\n".join(child.info_lines))
            if found:
                return found, options
            errors = [line for line in child.error_lines if "At least one output file" not in line]
            if any("Stream #" in line for line in child.info_lines) and not any(
                "Video:" in line for line in child.info_lines
            ):
                errors.append(_NO_VIDEO)
            self._raise_unless_retryable(patient, time.monotonic() >= deadline, child.info_lines, errors)
        raise AssertionError("unreachable")

    def _open_with_pyav(self, options: SourceOptions) -> OpenSource:
        """One connection, decoded in this process; its first picture says what the source is."""
        try:
            # Here, because it costs every process 40 MB, and it may be missing.
            from crowdperf.capture.pyav_decoder import PyavDecoder
        except ImportError as error:
            raise url_policy.SourceError(
                f"the backend pyav needs the Python package av ({error}). Remedy: install it, or set backend: ffmpeg."
            ) from None
        for patient in (False, True):
            # A read's own limit comes after ours: a stall is to be called one.
            silence_s = max(self._config.stall_s, 1.0) + 1.0
            make = partial(
                PyavDecoder, replace(options, long_probe=patient), self._config.loop, silence_s, self._redact
            )
            child = self._start_filtered(partial(make, on_start=lambda: self._on_decoding(self._config)))
            deadline = self._compute_deadline()
            while (
                child.source_info is None
                and child.wait_for_picture(POLL_S)
                and time.monotonic() < deadline
                and self._keep_running()
            ):
                pass
            if child.source_info:
                found = ffmpeg_args.with_effective_rate(options, child.source_info)
                spec = self._build_ring_spec(found)
                child.set_ring_spec(spec)
                return OpenSource(child, spec, found.fps, found.is_finite and not self._config.loop)
            child.terminate()
            facts = [] if child.error_lines else ["Video:"]
            self._raise_unless_retryable(patient, time.monotonic() >= deadline, facts, child.error_lines)
        raise AssertionError("unreachable")

    def _compute_deadline(self) -> float:
        return time.monotonic() + max(self._config.stall_s, 1.0)

    def _raise_unless_retryable(
        self, long_probe: bool, timed_out: bool, facts: Iterable[str], errors: Iterable[str]
    ) -> None:
        """Return where a source that showed no picture size may show one to an FFmpeg that waits.

        Raises:
            NotOpened: it may not, or it has been tried.
            SourceError: the source has led to an address that is refused.
        """
        if self._connect_filter and self._connect_filter.refusal:
            raise self._connect_filter.refusal
        if timed_out:
            lines = redact_lines(errors, self._redact)
            raise OpenError("stall", "the source was opened but gave no picture in time", lines)
        unclear = ("unspecified size", "Video:", _NO_VIDEO)
        if long_probe or not any(phrase in line for phrase in unclear for line in (*facts, *errors)):
            detail, hopeless = explain_failure(errors, "the source holds no video", self._redact)
            raise OpenError("source", detail, redact_lines(errors, self._redact), hopeless)

    def _build_ring_spec(self, source_info: SourceInfo, output_size: tuple[int, int] | None = None) -> RingSpec:
        return probe.build_camera_ring_spec(self._config, source_info, output_size)
