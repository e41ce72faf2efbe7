"""Open a camera's source: check it, find its picture size, start a decoder, with one connection where possible."""

from __future__ import annotations

import contextlib
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
from crowdperf.capture.connection import DisconnectCause
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.ffmpeg_process import FfmpegProcess, redact_lines
from crowdperf.capture.network import url_policy
from crowdperf.capture.network.connect_filter import ConnectFilter, ConnectFilterUnavailable
from crowdperf.capture.network.egress_proxy import EgressProxy
from crowdperf.capture.probe import SourceInfo
from crowdperf.frames.ring import RingSpec
from crowdperf.runtime.ffmpeg_binary import DEFAULT_FEATURES, detect_features, find_ffmpeg
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import CaptureConfig

if TYPE_CHECKING:
    from crowdperf.capture.pyav_decoder import PyavDecoder

POLL_S = 0.2
RESOLVE_TIMEOUT_S = 15.0
SIZE_REPORT_TIMEOUT_S = 2.0
"""How long FFmpeg may write pictures before it reports their size."""
_PERMANENT_ERRORS = (
    *("Invalid data found", "moov atom not found", "Protocol not found", "Option not found", "Unrecognized option"),
    *("does not contain any stream", "matches no streams", "Invalid argument", "Unknown decoder", "Decoder not found"),
    *("Device creation failed", "No device available for decoder", "certificate verify failed"),
    *("401 Unauthorized", "403 Forbidden", "404 Not Found", "400 Bad Request", "454 Session", "Server returned 4"),
)
"""FFmpeg messages that waiting does not cure. Such a camera is `misconfigured`, and is still retried."""
_NO_VIDEO = "the source does not contain any stream of video"
"""Reported by pyav, but not by FFmpeg: its probe accepts a source that has only sound."""

_SUMMARY_PREFIXES = ("Error opening output", "Error opening input file", "Conversion failed", "Nothing was written")
"""Messages that FFmpeg prints after the one that names the cause."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class OpenSource(NamedTuple):
    """A running decoder and the facts about its pictures."""

    decoder: FfmpegProcess | PyavDecoder
    spec: RingSpec
    fps: float
    """Rate that the source states, after the flags; 0.0 if unknown."""
    is_finite: bool
    """True for a recording that is played once."""


class OpenError(Exception):
    """The source gave no pictures.

    Args:
        cause: Kind of the loss, for counters and state.
        detail: The reason, without secrets.
        lines: Error lines of the decoder, without secrets.
        misconfigured: True where waiting does not help.
    """

    def __init__(self, cause: DisconnectCause, detail: str, lines: list[str], misconfigured: bool = False) -> None:
        super().__init__(detail)
        self.cause: DisconnectCause = cause
        self.lines = lines
        self.misconfigured = misconfigured


def explain_failure(error_lines: Iterable[str], default: str, redact: Callable[[str], str]) -> tuple[str, bool]:
    """Find the error line that explains why the decoder ended.

    Args:
        error_lines: Error lines as they came; redacting first could hide a known message.
        default: Text for a decoder that reported nothing.
        redact: Removes the secrets from a text.

    Returns:
        The line without secrets, and True where waiting does not help.
    """
    lines = list(error_lines)
    permanent = [line for line in lines if any(phrase in line for phrase in _PERMANENT_ERRORS)]
    causes = [line for line in lines if not line.startswith(_SUMMARY_PREFIXES)]
    return redact_lines((permanent or causes or lines or [default])[-1:], redact)[0], bool(permanent)


class SourceConnector:
    """Opens the source of one camera, as often as needed.

    Args:
        config: The camera.
        redact: Removes the camera's secrets from a text.
        keep_running: Called at least every `POLL_S` seconds; False asks to give up.
        on_decoding: Called by the thread that is about to decode in this process.
        metrics: Counts the failures of proxy and connect filter.
    """

    def __init__(
        self,
        config: CaptureConfig,
        redact: Callable[[str], str],
        keep_running: Callable[[], bool],
        on_decoding: Callable[[CaptureConfig], None],
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._redact = redact
        self._keep_running = keep_running
        self._on_decoding = on_decoding
        self._metrics = metrics
        self._proxy: EgressProxy | None = None
        self._connect_filter: ConnectFilter | None = None
        self._filter_unavailable = False
        self._hides_size = False
        """True once this FFmpeg has written pictures without reporting their size."""

    def open(self) -> OpenSource:
        """Connect to the source.

        Raises:
            OpenError: No pictures arrive.
            SourceError, FfmpegMissing: The source is refused, or there is no FFmpeg.
            OSError: FFmpeg cannot be started.
        """
        options = self._build_options()
        if self._config.backend == "pyav":
            return self._open_with_pyav(options)
        if ffmpeg_args.reports_geometry(options, self._config.pix_fmt) and not self._hides_size:
            return self._open_stream(options)
        return self._open_after_probe(options)

    def close(self) -> None:
        """Close the proxy and the connect filter that all connections share."""
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
            self._proxy = EgressProxy(camera.allowed_hosts, self._metrics)
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
        """Start the filter for redirections of an rtsp server, where the system supports it."""
        if self._connect_filter is None and not self._filter_unavailable:
            try:
                self._connect_filter = ConnectFilter(self._config.allowed_hosts, self._metrics)
            except ConnectFilterUnavailable as error:
                self._filter_unavailable = True
                log.warning(
                    "camera %s: redirections of its rtsp server cannot be checked (%s)", self._config.camera_id, error
                )
        if self._connect_filter:
            self._connect_filter.refusal = None

    def _start_filtered(self, start: Callable[[], T]) -> T:
        """Start a decoder under the connect filter, where there is one."""
        return self._connect_filter.run(start) if self._connect_filter else start()

    def _resolve(self) -> None:
        """Resolve and check an rtsp host in a thread: a resolver may take half a minute."""
        answer: queue.SimpleQueue[url_policy.SourceError | None] = queue.SimpleQueue()
        host, allowed = urlsplit(self._config.url).hostname or "", self._config.allowed_hosts

        def resolve() -> None:
            refusal = None
            try:
                # FFmpeg reports an unknown name itself.
                with contextlib.suppress(OSError):
                    url_policy.resolve_addresses(host, 554, allowed)
            except url_policy.SourceError as error:
                refusal = error
            answer.put(refusal)

        threading.Thread(target=resolve, name="resolver", daemon=True).start()
        deadline = time.monotonic() + RESOLVE_TIMEOUT_S
        while self._keep_running() and time.monotonic() < deadline:
            try:
                refusal = answer.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if refusal:
                raise refusal
            return
        raise OpenError("source", f"the host name {host!r} was not resolved within {RESOLVE_TIMEOUT_S:g} s", [])

    def _open_stream(self, options: SourceOptions) -> OpenSource:
        """Open with one connection: FFmpeg reports the source and then writes its pictures."""
        for long_probe in (False, True):
            args = ffmpeg_args.build_stream_args(replace(options, long_probe=long_probe), self._config.analysis_width)
            child = self._start_filtered(partial(FfmpegProcess, args, self._redact))
            deadline, report, report_deadline = self._compute_deadline(), None, 0.0
            while report is None and time.monotonic() < deadline and self._keep_running():
                has_log = child.read_log(POLL_S)
                report = probe.parse_stream_info("\n".join(child.info_lines))
                if report is None and child.has_output():
                    report_deadline = report_deadline or time.monotonic() + (SIZE_REPORT_TIMEOUT_S if has_log else 0.0)
                    if time.monotonic() >= report_deadline:
                        child.terminate()
                        log.warning(
                            "camera %s: FFmpeg does not report its picture size; probing first from now on",
                            self._config.camera_id,
                        )
                        self._hides_size = True
                        return self._open_after_probe(options)
                elif not has_log:
                    break
            if report:
                source_info = ffmpeg_args.with_effective_rate(options, report[0])
                spec = probe.build_ring_spec(self._config, source_info, report[1:])
                return OpenSource(child, spec, source_info.fps, False)
            child.terminate()
            self._raise_unless_retryable(long_probe, time.monotonic() >= deadline, child.info_lines, child.error_lines)
        raise AssertionError("unreachable")

    def _open_after_probe(self, options: SourceOptions) -> OpenSource:
        """Probe the source, then open it again with the known size."""
        source_info, options = self._probe(options)
        source_info = ffmpeg_args.with_effective_rate(options, source_info)
        spec = probe.build_ring_spec(self._config, source_info)
        # A recording, local or on a web server, has an end and can be read faster than real time.
        paced = options.source.kind == "file" or (options.source.kind == "http" and source_info.is_finite)
        options = replace(options, paced=paced, loop=self._config.loop and paced)
        args = ffmpeg_args.build_capture_args(options, spec)
        child = self._start_filtered(partial(FfmpegProcess, args, self._redact))
        return OpenSource(child, spec, source_info.fps, paced and not self._config.loop)

    def _probe(self, options: SourceOptions) -> tuple[SourceInfo, SourceOptions]:
        """Probe the source; retry with a long probe where the short one finds no size."""
        for long_probe in (False, True):
            options = replace(options, long_probe=long_probe)
            child = self._start_filtered(partial(FfmpegProcess, ffmpeg_args.build_probe_args(options), self._redact))
            deadline = self._compute_deadline()
            while child.drain(POLL_S) and time.monotonic() < deadline and self._keep_running():
                pass
            child.terminate()
            source_info = probe.parse_source_info("\n".join(child.info_lines))
            if source_info:
                return source_info, options
            errors = [line for line in child.error_lines if "At least one output file" not in line]
            report = "\n".join(child.info_lines)
            if "Stream #" in report and "Video:" not in report:
                errors.append(_NO_VIDEO)
            self._raise_unless_retryable(long_probe, time.monotonic() >= deadline, child.info_lines, errors)
        raise AssertionError("unreachable")

    def _open_with_pyav(self, options: SourceOptions) -> OpenSource:
        """Open with one connection, decoded in this process; the first picture gives the size."""
        try:
            # Imported here: it costs 40 MB per process, and it is optional.
            from crowdperf.capture.pyav_decoder import PyavDecoder
        except ImportError as error:
            raise url_policy.SourceError(
                f"the backend pyav needs the Python package av ({error}). Remedy: install it, or set backend: ffmpeg."
            ) from None
        for long_probe in (False, True):
            # Longer than stall_s, so that a stall is reported as a stall.
            read_timeout_s = max(self._config.stall_s, 1.0) + 1.0
            make = partial(
                PyavDecoder, replace(options, long_probe=long_probe), self._config.loop, read_timeout_s, self._redact
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
                source_info = ffmpeg_args.with_effective_rate(options, child.source_info)
                spec = probe.build_ring_spec(self._config, source_info)
                child.set_ring_spec(spec)
                return OpenSource(child, spec, source_info.fps, source_info.is_finite and not self._config.loop)
            child.terminate()
            info_lines = [] if child.error_lines else ["Video:"]
            self._raise_unless_retryable(long_probe, time.monotonic() >= deadline, info_lines, child.error_lines)
        raise AssertionError("unreachable")

    def _compute_deadline(self) -> float:
        return time.monotonic() + max(self._config.stall_s, 1.0)

    def _raise_unless_retryable(
        self, long_probe: bool, timed_out: bool, info_lines: Iterable[str], errors: Iterable[str]
    ) -> None:
        """Return only where a second attempt with a long probe may find the picture size."""
        if self._connect_filter and self._connect_filter.refusal:
            raise self._connect_filter.refusal
        if timed_out:
            lines = redact_lines(errors, self._redact)
            raise OpenError("stall", "the source was opened but gave no picture in time", lines)
        size_unknown = ("unspecified size", "Video:", _NO_VIDEO)
        if long_probe or not any(phrase in line for phrase in size_unknown for line in (*info_lines, *errors)):
            detail, permanent = explain_failure(errors, "the source holds no video", self._redact)
            raise OpenError("source", detail, redact_lines(errors, self._redact), permanent)
