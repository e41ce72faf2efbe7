"""FFmpeg's command line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from crowdperf.capture import ffmpeg_args
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.network.url_policy import CheckedSource
from crowdperf.capture.probe import SourceInfo
from crowdperf.frames.layout import RingSpec
from crowdperf.runtime.ffmpeg_binary import FfmpegFeatures, FfmpegMissing, detect_features, find_ffmpeg

URL = "rtsp://camera/stream"
FFMPEG_4 = FfmpegFeatures("-stimeout", ("-vsync", "passthrough"), initial_burst=False)
FFMPEG_9 = FfmpegFeatures("-timeout", ("-fps_mode", "passthrough"), initial_burst=True)
NATIVE_BGR = RingSpec(1280, 720, "bgr24", 1280, 720, 4, 10.0, 0)
SCALED = RingSpec(640, 360, "yuv420p", 1920, 1080, 4, 10.0, 0)


def options(kind: str = "rtsp", target: str = URL, knows: FfmpegFeatures = FFMPEG_9) -> SourceOptions:
    return SourceOptions(binary="ffmpeg", features=knows, source=CheckedSource(kind, target))


def after(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_the_documented_command_token_for_token() -> None:
    documented = (
        "ffmpeg -loglevel error -rtsp_transport tcp -fflags nobuffer -flags low_delay -analyzeduration 0 -probesize 32 "
        f"-stimeout 5000000 -i {URL} -f rawvideo -pix_fmt bgr24 -"
    )
    assert ffmpeg_args.build_capture_args(options(knows=FFMPEG_4), NATIVE_BGR) == documented.split()
    given = replace(options(knows=FFMPEG_4), extra_flags=("-loglevel", "error"))
    assert ffmpeg_args.build_capture_args(given, NATIVE_BGR) == documented.split()


def test_the_default_command() -> None:
    expected = (
        "ffmpeg -hide_banner -nostats -loglevel level+verbose -rtsp_transport tcp -flags low_delay -threads 1 "
        "-protocol_whitelist rtsp,rtsps,rtp,srtp,tcp,udp,tls -analyzeduration 0 -probesize 32 -timeout 5000000 "
        f"-i {URL} -vf scale=640:360:flags=fast_bilinear:out_color_matrix=bt601:out_range=tv -fps_mode passthrough "
        "-f rawvideo -pix_fmt yuv420p -"
    )
    assert ffmpeg_args.build_capture_args(options(), SCALED) == expected.split()


def test_the_camera_s_flags_come_before_the_dash() -> None:
    command = ffmpeg_args.build_capture_args(replace(options(), output_flags=("-an", "-threads", "2")), SCALED)
    assert command[-4:] == ["-an", "-threads", "2", "-"]
    old = ffmpeg_args.build_capture_args(replace(options(knows=FFMPEG_4), output_flags=("-an",)), NATIVE_BGR)
    assert old[-2:] == ["-an", "-"]


def test_extra_flags_come_first_and_replace_ours() -> None:
    command = ffmpeg_args.build_capture_args(
        replace(options(), extra_flags=("-v", "info", "-probesize", "5000")), SCALED
    )
    assert command[:5] == ["ffmpeg", "-v", "info", "-probesize", "5000"]
    assert command.count("-probesize") == 1
    assert "-loglevel" not in command


def test_unknown_flag_is_left_out_and_the_probe_has_the_rest() -> None:
    flags = ("-loglevel", "error", "-tls_verify", "0", "-user_agent", "x", "-rtsp_flags", "prefer_tcp", "-threads", "2")
    found = {}
    for kind, target in (("rtsp", URL), ("rtsp", "rtsps://x"), ("http", "https://x"), ("file", "/media/a.mp4")):
        given = replace(options(kind, target), extra_flags=flags)
        command = ffmpeg_args.build_capture_args(given, SCALED)
        assert command[:3] == ["ffmpeg", "-loglevel", "error"]
        assert after(command, "-threads") == after(ffmpeg_args.build_probe_args(given), "-threads") == "2"
        assert after(ffmpeg_args.build_probe_args(given), "-loglevel") == "level+info"
        found[target] = {flag for flag in flags if flag in command} & {"-tls_verify", "-user_agent", "-rtsp_flags"}
        assert found[target] <= set(ffmpeg_args.build_probe_args(given))
    assert found == {
        URL: {"-user_agent", "-rtsp_flags"},
        "rtsps://x": {"-tls_verify", "-user_agent", "-rtsp_flags"},
        "https://x": {"-tls_verify", "-user_agent"},
        "/media/a.mp4": set(),
    }


@pytest.mark.parametrize("kind", ["file", "http"])
def test_only_rtsp_gets_rtsp_options(kind: str) -> None:
    command = ffmpeg_args.build_capture_args(options(kind, "/media/a.mp4"), SCALED)
    assert not {"-rtsp_transport", "-timeout", "-stimeout"} & set(command)
    assert ("-rw_timeout" in command) == (kind == "http")
    assert after(command, "-protocol_whitelist").split(",")[0] == kind
    assert "rtsp" not in after(command, "-protocol_whitelist")
    assert not {"-rtsp_transport", "-timeout"} & set(ffmpeg_args.build_probe_args(options(kind, "/media/a.mp4")))


def test_a_recording_is_paced_and_looped_on_request() -> None:
    plain = options("file", "/media/a.mp4")
    assert "-re" not in ffmpeg_args.build_capture_args(plain, SCALED)
    paced = ffmpeg_args.build_capture_args(replace(plain, paced=True), SCALED)
    assert paced.index("-re") < paced.index("-i")
    assert after(paced, "-readrate_initial_burst") == "0.001"
    assert "-stream_loop" not in paced
    looped = ffmpeg_args.build_capture_args(replace(plain, paced=True, loop=True, features=FFMPEG_4), SCALED)
    assert after(looped, "-stream_loop") == "-1"
    assert "-readrate_initial_burst" not in looped


def test_padding_where_the_shapes_differ() -> None:
    square = RingSpec(640, 640, "yuv420p", 1920, 1080, 4, 10.0, 0)
    assert after(ffmpeg_args.build_capture_args(options(), square), "-vf").endswith(",pad=640:640:0:140")


def test_bgr_of_native_size_is_not_filtered() -> None:
    assert "-vf" not in ffmpeg_args.build_capture_args(options(), NATIVE_BGR)
    assert after(ffmpeg_args.build_capture_args(options(), replace(NATIVE_BGR, width=640, height=360)), "-vf") == (
        "scale=640:360:flags=fast_bilinear"
    )


def test_long_probe_changes_only_the_probe_values() -> None:
    quick, patient = (
        ffmpeg_args.build_capture_args(replace(options(), long_probe=value), SCALED) for value in (False, True)
    )
    assert [(a, b) for a, b in zip(quick, patient) if a != b] == [("0", "10000000"), ("32", "5000000")]


def _fake_ffmpeg(folder: Path, help_text: str) -> str:
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{help_text}\nEND\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


def test_an_ffmpeg_4_is_recognised_by_its_help(tmp_path: Path) -> None:
    old = "  -stimeout          <int>        .D.... timeout\n  -timeout   <int>   .D.... wait (listen)"
    assert detect_features(_fake_ffmpeg(tmp_path, old)) == FFMPEG_4


def test_the_installed_ffmpeg_answers() -> None:
    assert detect_features(find_ffmpeg()).timeout in ("-timeout", "-stimeout")


def test_a_missing_ffmpeg_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROWDPERF_FFMPEG", str(tmp_path / "none"))
    with pytest.raises(FfmpegMissing, match="Remedy"):
        find_ffmpeg()
    (tmp_path / "broken").write_text("no program")
    os.chmod(tmp_path / "broken", 0o700)
    with pytest.raises(FfmpegMissing, match="does not run"):
        detect_features(str(tmp_path / "broken"))


def test_a_stream_tells_its_own_size() -> None:
    command = ffmpeg_args.build_stream_args(options(), 640)
    assert command[: command.index("-rtsp_transport")] == [
        "ffmpeg",
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "level+verbose",
    ]
    assert after(command, "-vf").startswith("scale=w='trunc(min(640,iw)/2)*2':h=-2:")
    assert ffmpeg_args.reports_geometry(options(), "yuv420p")
    assert not ffmpeg_args.reports_geometry(options(), "bgr24")
    assert not ffmpeg_args.reports_geometry(options("file", "/a.mp4"), "yuv420p")
    assert not ffmpeg_args.reports_geometry(replace(options(), extra_flags=("-loglevel", "error")), "yuv420p")


def test_changes_of_size_are_asked_for_where_a_source_is_live() -> None:
    for live in (options(), options("http", "http://x")):
        assert after(ffmpeg_args.build_capture_args(live, SCALED), "-loglevel") == "level+verbose"
        assert after(ffmpeg_args.build_capture_args(live, NATIVE_BGR), "-loglevel") == "level+verbose"
        assert (
            after(
                ffmpeg_args.build_capture_args(replace(live, extra_flags=("-loglevel", "error")), SCALED), "-loglevel"
            )
            == "error"
        )
    for recording in (options("file", "/a.mp4"), replace(options("http", "http://x"), paced=True)):
        assert after(ffmpeg_args.build_capture_args(recording, SCALED), "-loglevel") == "error"


@pytest.mark.parametrize(
    ("before", "behind", "fps"),
    [
        ("", "", 25.0),
        ("-skip_frame none", "-an", 25.0),
        ("", "-r 5", 5.0),
        ("", "-r 30000/1001", 30000 / 1001),
        ("", "-r ntsc", 0.0),
        ("", "-r 1/0", 0.0),
        ("-r 5", "", 0.0),
        ("-skip_frame nokey", "", 0.0),
        ("-skip_frame nokey", "-r 5", 0.0),
    ],
)
def test_effective_rate_after_flags(before: str, behind: str, fps: float) -> None:
    given = replace(options(), extra_flags=tuple(before.split()), output_flags=tuple(behind.split()))
    assert ffmpeg_args.with_effective_rate(given, SourceInfo(640, 360, 25.0, False)) == SourceInfo(640, 360, fps, False)


def test_a_timed_command_differs_by_the_filter_that_tells_times() -> None:
    plain, timed = (
        ffmpeg_args.build_capture_args(replace(options("file", "/a.mp4"), report_timestamps=on), SCALED)
        for on in (False, True)
    )
    assert after(timed, "-vf") == after(plain, "-vf") + ",showinfo=checksum=0"
    assert timed[timed.index("-flags") : timed.index("-vf")] == plain[plain.index("-flags") : plain.index("-vf")]
    assert after(timed, "-loglevel") == "level+info"
