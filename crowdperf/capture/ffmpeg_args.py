"""FFmpeg's command line: pure, and in one place.

The command that this system has always documented,

    ffmpeg -loglevel error -rtsp_transport tcp -fflags nobuffer -flags low_delay -analyzeduration 0 -probesize 32
           -stimeout 5000000 -i URL -f rawvideo -pix_fmt bgr24 -

comes out token for token for `pix_fmt: bgr24`, a picture that needs no scaling and an FFmpeg 4. Everywhere else it is
changed where measurement says so (docs/capture.md): `nobuffer` goes, because it throws away the packets read while
probing, the first keyframe among them; one picture in gives one picture out; and so on, each change with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from msgspec import Struct

from crowdperf.capture.network.url_policy import CheckedSource
from crowdperf.capture.probe import SourceInfo
from crowdperf.frames.layout import RingSpec
from crowdperf.runtime.ffmpeg_binary import FfmpegFeatures

SHORT_PROBE_FLAGS = ("-analyzeduration", "0", "-probesize", "32")
LONG_PROBE_FLAGS = ("-analyzeduration", "10000000", "-probesize", "5000000")
"""For a stream that does not show its picture size at once, as when one joins it long before its next keyframe."""
_QUIET_LOG_FLAGS = ("-loglevel", "error")
_INFO_LOG_FLAGS = ("-hide_banner", "-nostats", "-loglevel", "level+info")
_VERBOSE_LOG_FLAGS = ("-hide_banner", "-nostats", "-loglevel", "level+verbose")
"""At this level every FFmpeg tells the size of the pictures that its filters get, and tells it anew when it changes.
Measured with 4.2, 7.0 and 9.0: two to three times the lines of `info`, at the start and the end, none for a picture."""
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
"""Recordings as they are. Formats that name further files (playlists, concat, image sequences) are not among them."""


class SourceOptions(Struct, frozen=True, kw_only=True):
    """Everything that shapes the command line besides the picture."""

    binary: str
    features: FfmpegFeatures
    source: CheckedSource
    rtsp_transport: str = "tcp"
    timeout_usec: int = 5_000_000
    http_proxy: str = ""
    """What http is read through (`guard`)."""
    loop: bool = False
    paced: bool = False
    """Read no faster than the source's own clock: for what can be read faster than it was filmed."""
    long_probe: bool = False
    report_timestamps: bool = False
    """Tell each picture's time on stderr, in the order of the pictures: a rawvideo pipe carries none."""
    extra_flags: tuple[str, ...] = ()
    """FFMPEG_EXTRA_FLAGS: before the input; one of them replaces the same option of ours."""
    output_flags: tuple[str, ...] = ()
    """The camera's ffmpeg_flags: before the `-`, since FFmpeg ignores what follows it."""


def build_capture_args(options: SourceOptions, spec: RingSpec) -> list[str]:
    """The command that writes the source's pictures, of the ring's geometry and format, to standard output."""
    content = spec.content
    scaled = (spec.source_width, spec.source_height) != (spec.width, spec.height)
    if (
        options.source.kind == "rtsp"
        and spec.pix_fmt == "bgr24"
        and not scaled
        and options.features.timeout == "-stimeout"
    ):
        middle = _build_input_args(options, ("-fflags", "nobuffer", "-flags", "low_delay"))
        return [*middle, "-f", "rawvideo", "-pix_fmt", "bgr24", *options.output_flags, "-"]
    argv = _build_input_args(
        options,
        # One thread per camera: automatic threading costs 15 % more processor time, and memory for each thread.
        ("-flags", "low_delay", "-threads", "1", "-protocol_whitelist", PROTOCOLS[options.source.kind]),
        _INFO_LOG_FLAGS
        if options.report_timestamps
        else _QUIET_LOG_FLAGS
        if options.paced or options.source.kind == "file"
        else _VERBOSE_LOG_FLAGS,
    )
    filters = []
    if scaled or spec.pix_fmt == "yuv420p":
        colour = ":out_color_matrix=bt601:out_range=tv" if spec.pix_fmt == "yuv420p" else ""
        filters.append(f"scale={content.w}:{content.h}:flags=fast_bilinear{colour}")
    if (content.w, content.h) != (spec.width, spec.height):
        filters.append(f"pad={spec.width}:{spec.height}:{content.x0}:{content.y0}")
    if options.report_timestamps:
        filters.append("showinfo=checksum=0")
    if filters:
        argv += ["-vf", ",".join(filters)]
    return [
        *argv,
        *_get_passthrough_flags(options),
        "-f",
        "rawvideo",
        "-pix_fmt",
        spec.pix_fmt,
        *options.output_flags,
        "-",
    ]


def build_stream_args(options: SourceOptions, analysis_width: int) -> list[str]:
    """The command that both says what a stream is and writes its pictures (yuv420p): one connection to the camera.

    A camera may allow few connections, and a stream that begins with its first PLAY would lose what a probe of its own
    has seen. FFmpeg chooses the height that fits the source's shape; its report on stderr tells both sizes, before the
    first picture. It keeps that size until it ends, whatever the source does (its option `-autoscale`).
    """
    argv = _build_input_args(
        options,
        ("-flags", "low_delay", "-threads", "1", "-protocol_whitelist", PROTOCOLS[options.source.kind]),
        _VERBOSE_LOG_FLAGS,
    )
    size = f"w='trunc(min({analysis_width},iw)/2)*2':h=-2"
    argv += [
        "-vf",
        f"scale={size}:flags=fast_bilinear:out_color_matrix=bt601:out_range=tv",
        *_get_passthrough_flags(options),
    ]
    return [*argv, "-f", "rawvideo", "-pix_fmt", "yuv420p", *options.output_flags, "-"]


def reports_geometry(options: SourceOptions, pix_fmt: str) -> bool:
    """Whether `stream` can be used: for a live stream, unless the operator has set FFmpeg's log level."""
    return options.source.kind == "rtsp" and pix_fmt == "yuv420p" and not {"-loglevel", "-v"} & set(options.extra_flags)


def build_probe_args(options: SourceOptions) -> list[str]:
    """The command that prints what the source is, and ends."""
    patience = LONG_PROBE_FLAGS if options.long_probe else SHORT_PROBE_FLAGS
    return [
        *(options.binary, *_INFO_LOG_FLAGS, *_remove_log_level(_filter_extra_flags(options))),
        *(*_get_transport_flags(options), *patience),
        *(
            "-protocol_whitelist",
            PROTOCOLS[options.source.kind],
            *_get_protocol_flags(options),
            "-i",
            options.source.target,
        ),
    ]


def build_snapshot_args(options: SourceOptions, width: int) -> list[str]:
    """The command that writes one picture as a JPEG, and reports what the source is."""
    argv = _build_input_args(
        options,
        ("-threads", "1", "-protocol_whitelist", PROTOCOLS[options.source.kind]),
        _INFO_LOG_FLAGS,
    )
    return [*argv, "-vf", f"scale=w='min({width},iw)':h=-2", "-frames:v", "1", "-f", "image2pipe", "-c:v", "mjpeg", "-"]


def with_effective_rate(options: SourceOptions, source_info: SourceInfo) -> SourceInfo:
    """The source with the rate that the operator's flags leave of it, as far as they tell."""
    before, behind = (dict(pairwise(flags)) for flags in (options.extra_flags, options.output_flags))
    skipped = {given["-skip_frame"] for given in (before, behind) if "-skip_frame" in given} - {"none", "default"}
    if skipped or "-r" in before:
        return source_info._replace(fps=0.0)
    try:
        return source_info._replace(fps=max(0.0, float(Fraction(behind["-r"])))) if "-r" in behind else source_info
    except (ValueError, ZeroDivisionError):
        # FFmpeg also knows names, such as `ntsc`.
        return source_info._replace(fps=0.0)


def _get_passthrough_flags(options: SourceOptions) -> tuple[str, ...]:
    """Otherwise FFmpeg makes a constant rate of a camera's times: measured, it doubled and dropped pictures."""
    return () if {"-fps_mode", "-vsync", "-r"} & set(options.output_flags) else options.features.passthrough


def _filter_extra_flags(options: SourceOptions) -> list[str]:
    """FFMPEG_EXTRA_FLAGS without what this kind of source would call an error: they are the same for all cameras."""
    kind, target = options.source.kind, options.source.target
    unknown = set(RTSP_ONLY_FLAGS) if kind != "rtsp" else set()
    if kind == "file":
        unknown.add("-user_agent")
    if not target.startswith(("https:", "rtsps:")):
        unknown.add("-tls_verify")
    return _remove_flags(options.extra_flags, unknown)


def _remove_log_level(flags: list[str]) -> list[str]:
    return _remove_flags(flags, {"-loglevel", "-v"})


def _remove_flags(flags: Iterable[str], unwanted: set[str]) -> list[str]:
    """`flags` without some that have a value each."""
    found, rest = [], iter(flags)
    for flag in rest:
        if flag in unwanted:
            next(rest, None)
        else:
            found.append(flag)
    return found


def _build_input_args(
    options: SourceOptions, flags: tuple[str, ...], loglevel: tuple[str, ...] = _QUIET_LOG_FLAGS
) -> list[str]:
    """From the program to the input."""
    given = set(options.extra_flags)
    if {"-loglevel", "-v"} & given:
        loglevel = ()
    own: list[str] = []
    if options.loop:
        own += ["-stream_loop", "-1"]
    if options.paced:
        own += ["-re"]
        if options.features.initial_burst:
            # Its default is half a second's pictures at once, more than anybody downstream would take.
            own += ["-readrate_initial_burst", "0.001"]
    pairs = [
        *_get_transport_flags(options),
        *flags,
        *(LONG_PROBE_FLAGS if options.long_probe else SHORT_PROBE_FLAGS),
        *_get_protocol_flags(options),
    ]
    for name, value in zip(pairs[::2], pairs[1::2]):
        if name not in given:
            own += [name, value]
    return [options.binary, *loglevel, *_filter_extra_flags(options), *own, "-i", options.source.target]


def _get_transport_flags(options: SourceOptions) -> tuple[str, ...]:
    return ("-rtsp_transport", options.rtsp_transport) if options.source.kind == "rtsp" else ()


def _get_protocol_flags(options: SourceOptions) -> tuple[str, ...]:
    """Microseconds. Only these protocols know them; anything else calls them an error."""
    if options.source.kind == "rtsp":
        return (options.features.timeout, str(options.timeout_usec))
    if options.source.kind == "http":
        proxy = ("-http_proxy", options.http_proxy) if options.http_proxy else ()
        return ("-rw_timeout", str(options.timeout_usec), *proxy)
    return ("-format_whitelist", FILE_FORMATS)
