"""Build FFmpeg command lines. Pure functions.

The documented command,

    ffmpeg -loglevel error -rtsp_transport tcp -fflags nobuffer -flags low_delay -analyzeduration 0 -probesize 32
           -stimeout 5000000 -i URL -f rawvideo -pix_fmt bgr24 -

is built token for token for `pix_fmt: bgr24`, a picture without scaling and FFmpeg 4. All other commands differ where
measurements say so (docs/capture.md). For one, `nobuffer` is left out: it drops the packets read while probing, the
first keyframe among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from fractions import Fraction
from itertools import pairwise

from msgspec import Struct

from crowdperf.capture.network.url_policy import CheckedSource
from crowdperf.capture.probe import SourceInfo
from crowdperf.frames.layout import RingSpec
from crowdperf.runtime.ffmpeg_binary import FfmpegFeatures

_PROBE_FLAGS = {
    False: ("-analyzeduration", "0", "-probesize", "32"),
    True: ("-analyzeduration", "10000000", "-probesize", "5000000"),
}
"""The long probe is for a stream that does not show its size at once, such as one joined long before a keyframe."""
_QUIET_LOG_FLAGS = ("-loglevel", "error")
_INFO_LOG_FLAGS = ("-hide_banner", "-nostats", "-loglevel", "level+info")
_VERBOSE_LOG_FLAGS = ("-hide_banner", "-nostats", "-loglevel", "level+verbose")
"""Every FFmpeg logs the input size of its filters at this level, and logs it again on a change.

Measured with 4.2, 7.0 and 9.0: two to three times the lines of `info`, at start and end only, none per picture.
"""
PROTOCOLS = {
    "rtsp": "rtsp,rtsps,rtp,srtp,tcp,udp,tls",
    "http": "http,https,httpproxy,tcp,tls,crypto",
    "file": "file",
}
RTSP_ONLY_FLAGS = ("-rtsp_flags", "-reorder_queue_size", "-buffer_size")
FILE_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,h264,hevc,vvc,m4v,mpegvideo,mjpeg,mpjpeg,ogg,ivf,obu,mxf,nut,rm,"
    "dhav,dv,wtv,yuv4mpegpipe"
)
"""Plain recordings only. Formats that name further files (playlists, concat, image sequences) are left out."""


class SourceOptions(Struct, frozen=True, kw_only=True):
    """Everything that shapes the command line except the picture."""

    binary: str
    features: FfmpegFeatures
    source: CheckedSource
    rtsp_transport: str = "tcp"
    timeout_usec: int = 5_000_000
    http_proxy: str = ""
    loop: bool = False
    paced: bool = False
    """Read no faster than real time: for sources that could be read faster."""
    long_probe: bool = False
    report_timestamps: bool = False
    """Log each picture's timestamp on stderr, in order: a rawvideo pipe carries none."""
    extra_flags: tuple[str, ...] = ()
    """FFMPEG_EXTRA_FLAGS, placed before the input; a flag here replaces the built-in one."""
    output_flags: tuple[str, ...] = ()
    """The camera's ffmpeg_flags, placed before the `-`: FFmpeg ignores flags after it."""


def build_capture_args(options: SourceOptions, spec: RingSpec) -> list[str]:
    """Build the command that writes raw pictures of the ring's size and format to standard output."""
    content = spec.content
    scaled = (spec.source_width, spec.source_height) != (spec.width, spec.height)
    is_old_rtsp = options.source.kind == "rtsp" and options.features.timeout == "-stimeout"
    if is_old_rtsp and spec.pix_fmt == "bgr24" and not scaled:
        args = _build_input_args(options, ("-fflags", "nobuffer", "-flags", "low_delay"))
        return [*args, "-f", "rawvideo", "-pix_fmt", "bgr24", *options.output_flags, "-"]
    log_flags = _QUIET_LOG_FLAGS if options.paced or options.source.kind == "file" else _VERBOSE_LOG_FLAGS
    filters = []
    if scaled or spec.pix_fmt == "yuv420p":
        colour = ":out_color_matrix=bt601:out_range=tv" if spec.pix_fmt == "yuv420p" else ""
        filters.append(f"scale={content.w}:{content.h}:flags=fast_bilinear{colour}")
    if (content.w, content.h) != (spec.width, spec.height):
        filters.append(f"pad={spec.width}:{spec.height}:{content.x0}:{content.y0}")
    if options.report_timestamps:
        log_flags = _INFO_LOG_FLAGS
        filters.append("showinfo=checksum=0")
    return _build_picture_args(options, log_flags, filters, spec.pix_fmt)


def build_stream_args(options: SourceOptions, analysis_width: int) -> list[str]:
    """Build the command that reports a stream's size and writes its pictures (yuv420p) in one connection.

    A camera may allow few connections, and a stream that begins with the first PLAY would lose what a probe reads.
    FFmpeg chooses the height that fits the source's shape. It logs both sizes before the first picture, and keeps the
    output size until it ends, even if the source changes (option `-autoscale`).
    """
    size = f"w='trunc(min({analysis_width},iw)/2)*2':h=-2"
    scale = f"scale={size}:flags=fast_bilinear:out_color_matrix=bt601:out_range=tv"
    return _build_picture_args(options, _VERBOSE_LOG_FLAGS, [scale], "yuv420p")


def _build_picture_args(
    options: SourceOptions, log_flags: tuple[str, ...], filters: list[str], pix_fmt: str
) -> list[str]:
    # One thread per camera: automatic threading costs 15 % more CPU time, and memory per thread.
    flags = ("-flags", "low_delay", "-threads", "1", "-protocol_whitelist", PROTOCOLS[options.source.kind])
    args = _build_input_args(options, flags, log_flags)
    if filters:
        args += ["-vf", ",".join(filters)]
    # Without these flags FFmpeg forces a constant rate: measured, it doubled and dropped pictures.
    if not {"-fps_mode", "-vsync", "-r"} & set(options.output_flags):
        args += options.features.passthrough
    return [*args, "-f", "rawvideo", "-pix_fmt", pix_fmt, *options.output_flags, "-"]


def reports_geometry(options: SourceOptions, pix_fmt: str) -> bool:
    """Check for use of `build_stream_args`: a live stream, and no log level set by the operator."""
    return options.source.kind == "rtsp" and pix_fmt == "yuv420p" and not {"-loglevel", "-v"} & set(options.extra_flags)


def get_input_options(options: SourceOptions) -> dict[str, str]:
    """Return the options that open the source, without the operator's flags."""
    pairs = (
        *(*_get_transport_flags(options), *_PROBE_FLAGS[options.long_probe]),
        *("-protocol_whitelist", PROTOCOLS[options.source.kind], *_get_protocol_flags(options)),
    )
    return dict(zip(pairs[::2], pairs[1::2]))


def build_probe_args(options: SourceOptions) -> list[str]:
    """Build the command that reports the source's properties and ends."""
    extra = remove_flags(_filter_extra_flags(options), {"-loglevel", "-v"})
    flags = (flag for pair in get_input_options(options).items() for flag in pair)
    return [options.binary, *_INFO_LOG_FLAGS, *extra, *flags, "-i", options.source.target]


def build_snapshot_args(options: SourceOptions, width: int) -> list[str]:
    """Build the command that writes one picture as a JPEG and reports the source's properties."""
    input_flags = ("-threads", "1", "-protocol_whitelist", PROTOCOLS[options.source.kind])
    args = _build_input_args(options, input_flags, _INFO_LOG_FLAGS)
    return [*args, "-vf", f"scale=w='min({width},iw)':h=-2", "-frames:v", "1", "-f", "image2pipe", "-c:v", "mjpeg", "-"]


def with_effective_rate(options: SourceOptions, source_info: SourceInfo) -> SourceInfo:
    """Return the source with the rate that the operator's flags leave; 0.0 where they hide it."""
    extra, output = (dict(pairwise(flags)) for flags in (options.extra_flags, options.output_flags))
    skipped = {flags["-skip_frame"] for flags in (extra, output) if "-skip_frame" in flags} - {"none", "default"}
    if skipped or "-r" in extra:
        return source_info._replace(fps=0.0)
    try:
        return source_info._replace(fps=max(0.0, float(Fraction(output["-r"])))) if "-r" in output else source_info
    except (ValueError, ZeroDivisionError):
        # FFmpeg also accepts names, such as `ntsc`.
        return source_info._replace(fps=0.0)


def _filter_extra_flags(options: SourceOptions) -> list[str]:
    """Return FFMPEG_EXTRA_FLAGS without flags that this kind of source would reject."""
    kind, target = options.source.kind, options.source.target
    rejected = set(RTSP_ONLY_FLAGS) if kind != "rtsp" else set()
    if kind == "file":
        rejected.add("-user_agent")
    if not target.startswith(("https:", "rtsps:")):
        rejected.add("-tls_verify")
    return remove_flags(options.extra_flags, rejected)


def remove_flags(flags: Iterable[str], removed: Set[str]) -> list[str]:
    """Return `flags` without the removed ones, each of which has one value."""
    kept, rest = [], iter(flags)
    for flag in rest:
        if flag in removed:
            next(rest, None)
        else:
            kept.append(flag)
    return kept


def _build_input_args(
    options: SourceOptions, flags: tuple[str, ...], loglevel: tuple[str, ...] = _QUIET_LOG_FLAGS
) -> list[str]:
    """Build the part of a command from the program to the input."""
    overridden = set(options.extra_flags)
    if {"-loglevel", "-v"} & overridden:
        loglevel = ()
    args: list[str] = []
    if options.loop:
        args += ["-stream_loop", "-1"]
    if options.paced:
        args += ["-re"]
        if options.features.initial_burst:
            # By default it sends half a second of pictures at once, more than the ring holds.
            args += ["-readrate_initial_burst", "0.001"]
    pairs = [*_get_transport_flags(options), *flags, *_PROBE_FLAGS[options.long_probe], *_get_protocol_flags(options)]
    for name, value in zip(pairs[::2], pairs[1::2]):
        if name not in overridden:
            args += [name, value]
    return [options.binary, *loglevel, *_filter_extra_flags(options), *args, "-i", options.source.target]


def _get_transport_flags(options: SourceOptions) -> tuple[str, ...]:
    return ("-rtsp_transport", options.rtsp_transport) if options.source.kind == "rtsp" else ()


def _get_protocol_flags(options: SourceOptions) -> tuple[str, ...]:
    """Return the time-out (microseconds) and proxy; other protocols reject these flags."""
    if options.source.kind == "rtsp":
        return (options.features.timeout, str(options.timeout_usec))
    if options.source.kind == "http":
        proxy = ("-http_proxy", options.http_proxy) if options.http_proxy else ()
        return ("-rw_timeout", str(options.timeout_usec), *proxy)
    return ("-format_whitelist", FILE_FORMATS)
