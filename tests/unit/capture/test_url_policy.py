"""Which sources may be opened, and what of them may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowdperf.capture.network import url_policy
from crowdperf.capture.network.url_policy import CheckedSource, SourceError
from crowdperf.capture.probe import SourceInfo, build_ring_spec, compute_analysis_size, parse_source_info
from crowdperf.primitives.redaction import make_redactor
from crowdperf.settings.process_config import RingSettings


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rtsp://u:p@10.0.0.7:554/ch1", "rtsp"),
        ("rtsps://camera/1", "rtsp"),
        ("http://camera/video.mjpg?x=1", "http"),
        ("https://192.168.1.4/a", "http"),
        ("rtsp://[fd00::7]/a", "rtsp"),
        ("http://127.0.0.1:81/a", "http"),
    ],
)
def test_network_sources(url: str, kind: str) -> None:
    assert url_policy.check_url(url, ()) == CheckedSource(kind, url)


@pytest.mark.parametrize(
    "url",
    [
        "-i",
        "--help",
        "concat:/etc/passwd",
        "lavfi:testsrc",
        "ftp://x/y",
        "pipe:0",
        "rtsp:///nohost",
        "rtsp://h:notaport/",
        "rtsp://[::1",
        "http://169.254.169.254/latest/meta-data/",
        "http://user@169.254.169.254/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://169.16689662/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1%25eth0]/",
        "http://metadata.google.internal./",
        "http://METADATA.google.internal/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://168.63.129.16/",
        "http://[fd00:ec2::254]/",
        "http://[::169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://169.254.169.254:80@169.254.169.254/",
        "rtsp://169.254.169.254:554/x",
        "rtsp://cam/a\r\nHost: x",
        "file:///etc/passwd\n",
        "FILE:///../etc/../bin",
        "data:video/mp4,x",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "crypto+file:///etc/passwd",
        "tcp://169.254.169.254:80",
        "unix:/run/x.sock",
        "a\0b",
    ],
)
def test_what_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="Remedy"):
        url_policy.check_url(url, ("/",))


def test_the_operator_may_let_a_host_through() -> None:
    allowed = ("169.254.7.9", "metadata.google.internal")
    assert url_policy.check_url("rtsp://169.254.7.9/a", (), allowed).kind == "rtsp"
    assert url_policy.check_url("http://Metadata.google.internal./a", (), allowed).kind == "http"
    with pytest.raises(SourceError, match="allowed_hosts"):
        url_policy.check_url("rtsp://169.254.7.8/a", (), allowed)


def test_files_only_below_the_roots(tmp_path: Path) -> None:
    root, outside = tmp_path / "media", tmp_path / "secret.mp4"
    root.mkdir()
    outside.touch()
    clip = root / "a clip.mp4"
    clip.touch()
    (root / "link.mp4").symlink_to(outside)
    roots = (str(root),)
    for url in (str(clip), "a clip.mp4", f"file://{root}/a%20clip.mp4"):
        assert url_policy.check_url(url, roots) == CheckedSource("file", str(clip))
    (root / "folder").symlink_to(tmp_path)
    for url in ("folder/secret.mp4", f"file://{root}/%2e%2e/secret.mp4", f"file:{outside}", f"file://x{outside}"):
        with pytest.raises(SourceError, match="outside media_roots"):
            url_policy.check_url(url, roots)
    for url in (str(outside), str(root / ".." / "secret.mp4"), "../secret.mp4", "link.mp4", f"file://{outside}"):
        with pytest.raises(SourceError, match="outside media_roots"):
            url_policy.check_url(url, roots)
    with pytest.raises(SourceError, match="does not exist"):
        url_policy.check_url("none.mp4", roots)
    with pytest.raises(SourceError):
        url_policy.check_url(str(root), roots)


def test_flags_by_allow_list() -> None:
    assert url_policy.parse_flags("-loglevel warning -an -max_delay '-1'", "x") == [
        "-loglevel",
        "warning",
        "-an",
        "-max_delay",
        "-1",
    ]
    for text in (
        "-f lavfi",
        "-i /etc/passwd",
        "-vf movie=/etc/passwd",
        "-y out.mp4",
        "out.mp4",
        "-loglevel",
        "-c:v -i",
        "'",
        "-rtsp_flags listen",
        "-user_agent 'a\r\nCookie: b'",
        "-protocol_whitelist file",
        "-format_whitelist hls",
        "-http_proxy http://x",
        "-filter_complex_script /etc/passwd",
        "-init_hw_device vaapi=x:/etc/passwd",
    ):
        with pytest.raises(SourceError, match=r"FLAGS.*Remedy"):
            url_policy.parse_flags(text, "FLAGS")


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:S3cret%40x@cam/1",
        "rtsp://admin:S3cret@x@cam/1",
        "http://cam/v?token=S3cret",
        "rtsp://admin:S3cr/et@cam/1",
        "http://u:S3@cam/v?S3r",
    ],
)
def test_no_secret_passes_the_redactor(url: str) -> None:
    clean = make_redactor(url)
    for text in (f"[in#0] Error opening input {url}.", url.partition("//")[2], f"failed: {url.replace('%40', '@')}"):
        assert "S3" not in clean(text)
    assert clean("plain words, admin's too") == "plain words, admin's too"
    assert "cam" in clean(f"cannot open {url}")


@pytest.mark.parametrize("url", ["rtsp://cam/live?1", "rtsp://cam/live?x", "http://x:1@cam/404"])
def test_short_secret_is_redacted_only_inside_its_url(url: str) -> None:
    clean = make_redactor(url)
    assert clean(H264) == H264
    assert clean("401 Unauthorized") == "401 Unauthorized"
    assert "***" in clean(f"Error opening input file {url}.")
    assert "***" in clean(f"-> {url.partition('//')[2]}: 404 Not Found")
    assert not {"?1", "?x", "x:1@"} & {clean(url)[at : at + size] for size in (2, 4) for at in range(len(url))}


H264 = """Input #0, rtsp, from 'rtsp://x/wz':
  Duration: N/A, bitrate: N/A
  Stream #0:0: Video: h264 (High), yuv420p(progressive), 480x270 [SAR 1:1 DAR 16:9], 15 fps, 30 tbr, 90k tbn"""
AVI = """Input #0, avi, from 'v.avi':
  Duration: 00:01:19.50, start: 0.000000, bitrate: 818 kb/s
  Stream #0:0: Video: msmpeg4v3 (msmpeg4) (div3 / 0x33766964), yuv420p, 768x576, 816 kb/s, 10 fps, 10 tbr, 10 tbn"""
PHONE = """  Duration: 00:00:01.00, start: 0.000000
  Stream #0:1[0x2](und): Audio: aac (LC) (mp4a / 0x6134706D), 48000 Hz, stereo
  Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709), 1920x1080, 17 kb/s, 29.97 fps
      Side data:
        displaymatrix: rotation of -90.00 degrees"""


def test_the_probe_s_report() -> None:
    assert parse_source_info(H264) == SourceInfo(480, 270, 15.0, is_finite=False)
    assert parse_source_info(AVI) == SourceInfo(768, 576, 10.0, is_finite=True)
    assert parse_source_info(PHONE) == SourceInfo(1080, 1920, 29.97, is_finite=True)
    assert parse_source_info(AVI.replace("00:01:19.50", "00:00:00.00")) == SourceInfo(
        768, 576, 10.0, is_finite=False
    ), "FLV, live"
    live = AVI.replace("bitrate: 818 kb/s", "bitrate: N/A")
    assert parse_source_info(live) == SourceInfo(768, 576, 10.0, is_finite=False)
    playlist = f"Input #0, hls, from 'http://192.0.2.7/list.m3u8':\n{live}"
    assert parse_source_info(playlist) == SourceInfo(768, 576, 10.0, is_finite=True)
    assert parse_source_info("Stream #0:0: Audio: aac, 48000 Hz\nInvalid data found") is None
    assert parse_source_info(H264.replace("480x270", "none")) is None


@pytest.mark.parametrize(
    ("source_size", "width", "size"),
    [
        ((1920, 1080), 640, (640, 360)),
        ((320, 240), 640, (320, 240)),
        ((1366, 768), 640, (640, 360)),
        ((1080, 1920), 640, (640, 1138)),
        ((481, 271), 640, (480, 270)),
    ],
)
def test_analysis_size(source_size: tuple[int, int], width: int, size: tuple[int, int]) -> None:
    assert compute_analysis_size(source_size, width) == size


@pytest.mark.parametrize(
    ("width", "queue_max", "fps", "target_fps", "frame_skip", "slots"),
    [
        (640, 1, 10, 10, 0, 7),
        (640, 2, 10, 10, 0, 7),
        (640, 8, 10, 10, 0, 10),
        (640, 2, 29.97, 10, 0, 17),
        (640, 2, 25, 10, 500, 15),
        (640, 2, 0, 10, 0, 7),
        (640, 2, 90_000, 10, 0, 32),
        (640, 2, 1, 10, 0, 4),
        # Half a second of large pictures is too much: what is due, and the frames between.
        (1920, 1, 10, 10, 0, 5),
        (1920, 2, 30, 10, 0, 8),
        (1920, 2, 25, 5, 0, 12),
        (1920, 2, 25, 2, 0, 15),
        (1920, 2, 10, 10, 3, 7),
    ],
)
def test_a_ring_holds_half_a_second_or_what_is_due(
    width: int, queue_max: int, fps: float, target_fps: float, frame_skip: int, slots: int
) -> None:
    settings = RingSettings(
        pix_fmt="yuv420p",
        analysis_width=width,
        queue_max=queue_max,
        target_fps=target_fps,
        frame_skip=frame_skip,
    )
    spec = build_ring_spec(settings, SourceInfo(1920, 1080, fps, False))
    assert (spec.slots, spec.width, spec.source_height) == (slots, width, 1080)
