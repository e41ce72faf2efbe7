"""Capture with a real FFmpeg, against a real RTSP server, files, and what is neither."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import psutil
import pytest

from crowdperf.capture.connector import SourceConnector
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.probe import compute_slot_count
from crowdperf.frames.ring import FrameReader
from crowdperf.messaging.consumer import Consumer
from crowdperf.messaging.schema import AnyEvent, CameraChanged
from crowdperf.messaging.streams import EVENTS
from crowdperf.primitives.redaction import make_redactor
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.runtime.metrics import Metrics
from tests.conftest import RedisServer, wait_until
from tests.support.capturing import (
    Camera,
    CaptureProcess,
    RingTail,
    alive,
    decoded,
    make_clip,
    make_config,
)
from tests.support.ports import free_port
from tests.support.rtsp_server import Mount, RtspServer

NOKEY = "-skip_frame nokey"
SCALE = "scale={w}:{h}:flags=fast_bilinear:out_color_matrix=bt601:out_range=tv"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def reference(clip: Path) -> list[bytes]:
    return decoded(clip, SCALE.format(w=320, h=240), "yuv420p", 320 * 240 * 3 // 2)


@pytest.fixture(params=["ffmpeg", "pyav"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def camera(backend: str, tmp_path: Path, clip: Path) -> Iterator[Callable[..., Camera]]:
    """Makes cameras of either backend: what is promised of the one is promised of the other."""
    made: list[Camera] = []

    def make(url: str, **changes: Any) -> Camera:
        made.append(Camera(url, clip.parent, **{"doorbell": str(tmp_path / "bell"), "backend": backend, **changes}))
        return made[-1]

    yield make
    for each in made:
        each.tail.close()
        each.capture.close()
        assert not Path(each.config.ring).exists()


# Every frame of a source that plays once, from the first on, in order and unaltered


def test_a_camera_is_connected_to_once(camera: Callable[..., Camera], clip: Path) -> None:
    with RtspServer({"a": Mount(clip, 10)}) as server:
        cam = camera(server.url("a"))
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        assert server.mounts["a"].plays == 1


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_gives_every_frame(
    camera: Callable[..., Camera], clip: Path, reference: list[bytes], transport: str
) -> None:
    with RtspServer({"a": Mount(clip, 10, replay=False)}) as server:
        # FFmpeg notices the end of a UDP stream by its time-out only, and keeps the last two frames until then.
        patience = 3_000_000 if transport == "udp" else 10_000_000
        cam = camera(server.url("a"), rtsp_transport=transport, rtsp_stimeout_usec=patience)
        cam.run_until(lambda: len(cam.tail.stamps) >= len(reference), 40)
    assert cam.tail.pictures == reference
    assert [stamp.sequence for stamp in cam.tail.stamps] == list(range(1, len(reference) + 1))
    assert cam.counter("frames_captured") == len(reference)


@pytest.mark.parametrize("backend", ["pyav"])
def test_the_camera_s_own_clock_tells_how_old_a_picture_is(camera: Callable[..., Camera], clip: Path) -> None:
    if not hasattr(av.container.InputContainer, "start_time_realtime"):
        pytest.skip("av 18 is the first that tells the stream's wall clock")
    with RtspServer({"a": Mount(clip, 10, loop=True, clock_offset_s=1_000.0)}) as server:
        cam = camera(server.url("a"))
        cam.run_until(lambda: "glass_to_capture_ms" in cam.metrics.snapshot("x", 0).gauges)
        age_ms = cam.metrics.snapshot("x", 0).gauges["glass_to_capture_ms"]["cam"]
    # A busy machine may add to it, nothing takes away: 1,000 s less than a frame period.
    assert 999_900 < age_ms < 1_100_000


def test_a_single_group_of_pictures_with_b_frames(camera: Callable[..., Camera], clip: Path) -> None:
    """The case that `-fflags nobuffer` and a constant output rate spoil; parameter sets only inside the stream."""
    hard = make_clip(clip.with_name("hard.mp4"), options="-profile:v high -bf 3 -g 250")
    want = decoded(hard, SCALE.format(w=320, h=240), "yuv420p", 320 * 240 * 3 // 2)
    with RtspServer({"a": Mount(hard, 10, sprop=False, replay=False)}) as server:
        cam = camera(server.url("a"))
        cam.run_until(lambda: len(cam.tail.stamps) >= len(want))
    assert cam.tail.pictures == want


def test_a_file_is_paced_and_played_once(camera: Callable[..., Camera], clip: Path, reference: list[bytes]) -> None:
    began_ns = time.monotonic_ns()
    cam = camera(str(clip))
    cam.run_until(lambda: cam.states()[-1:] == ["stopped"])
    assert cam.tail.pictures == reference
    # From before the first picture, which a busy machine may take later than it came, the others then in a hurry.
    span = (cam.tail.stamps[-2].monotonic_ns - began_ns) / 1e9
    assert span >= 0.9 * (len(reference) - 2) / 10, "the file was read faster than it was filmed"
    for _ in range(5):
        cam.capture.step()
    assert cam.states() == ["connecting", "live", "stopped"], "it must not be replayed"
    assert cam.events[-1].id == f"cam:state:{int(cam.events[-1].ts * 1000)}:stopped"


def test_flags_reach_the_decoder(camera: Callable[..., Camera], clip: Path, reference: list[bytes]) -> None:
    cam = camera(str(clip), ffmpeg_extra_flags="-skip_frame nokey")
    cam.run_until(lambda: cam.states()[-1:] == ["stopped"])
    assert cam.tail.pictures == reference[::20], "keyframes"


@pytest.mark.parametrize("backend", ["pyav"])
def test_an_invalid_decoder_flag_is_reported(camera: Callable[..., Camera], clip: Path) -> None:
    cam = camera(str(clip), ffmpeg_extra_flags="-skip_frame sometimes")
    cam.run_until(lambda: cam.states()[-1:] == ["misconfigured"])
    assert "Invalid argument" in cam.error()


def test_a_looped_file_goes_on(camera: Callable[..., Camera], clip: Path) -> None:
    short = make_clip(clip.with_name("short.mp4"), seconds=1)
    cam = camera("short.mp4", loop=True)
    cam.run_until(lambda: len(cam.tail.stamps) > 25)
    assert cam.tail.pictures[0] == cam.tail.pictures[10] == cam.tail.pictures[20]
    assert cam.counter("ffmpeg_restarts_total") == 0
    assert short.exists()


def test_bgr_and_scaling(camera: Callable[..., Camera], clip: Path) -> None:
    cam = camera(str(clip), pix_fmt="bgr24", analysis_width=160)
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    assert cam.tail.reader is not None
    spec = cam.tail.reader.spec
    assert (spec.width, spec.height, spec.source_width, spec.pix_fmt) == (160, 120, 320, "bgr24")
    want = decoded(clip, "scale=160:120:flags=fast_bilinear", "bgr24", 160 * 120 * 3)[:3]
    if cam.config.backend == "ffmpeg":
        assert cam.tail.pictures[:3] == want
    # PyAV converts in one step what FFmpeg's program does in two: alike, not the same.
    for picture, expected in zip(cam.tail.pictures, want):
        difference = np.abs(np.frombuffer(picture, np.uint8).astype(int) - np.frombuffer(expected, np.uint8))
        assert difference.mean() < 4


def test_http(camera: Callable[..., Camera], clip: Path, reference: list[bytes]) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(clip.parent))
    handler.func.log_message = lambda *_: None  # type: ignore[method-assign]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cam = camera(f"http://127.0.0.1:{server.server_port}/clip.mp4")
        cam.run_until(lambda: "stopped" in cam.states())
        server.shutdown()
    assert cam.tail.pictures == reference


def test_a_turned_recording_comes_upright(camera: Callable[..., Camera], clip: Path) -> None:
    """As a telephone held upright makes them: stored lying, with a note that it be turned."""
    turned = clip.with_name("turned.mp4")
    command = [find_ffmpeg(), "-loglevel", "error", "-y", "-display_rotation", "90", "-i", str(clip)]
    subprocess.run([*command, "-c", "copy", str(turned)], check=True, stdin=subprocess.DEVNULL)
    want = decoded(turned, SCALE.format(w=240, h=320), "yuv420p", 320 * 240 * 3 // 2)
    cam = camera(str(turned))
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    assert cam.tail.reader is not None
    assert (cam.tail.reader.spec.width, cam.tail.reader.spec.height) == (240, 320)
    assert cam.tail.pictures[:3] == want[:3]


# Trouble: one clear state, and never an end


def test_a_wrong_path_is_misconfigured_and_retried(camera: Callable[..., Camera], clip: Path) -> None:
    with RtspServer({"a": Mount(clip, 10)}) as server:
        cam = camera(server.url("a") + "x")
        cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
        # Every look at it until now has failed, and the second wait is at least half of a second long.
        cam.run_until(lambda: cam.metrics.snapshot("x", 0).gauges.get("backoff_s", {}).get("cam", 0) > 0.25)
        assert "404" in cam.metrics.snapshot("x", 0).texts["ffmpeg_stderr"]["cam"]
        cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 2)
        if cam.config.backend == "pyav":
            # Its verdict takes ten seconds, and knows no backend.
            cam.run_until(lambda: cam.metrics.snapshot("x", 0).texts.get("quality"))
            assert cam.metrics.snapshot("x", 0).texts["quality"]["cam"] == "unusable"
        assert cam.counter("ffmpeg_restarts_source") == cam.counter("ffmpeg_restarts_total") >= 2
        assert "404" in cam.error()
        assert cam.states() == ["connecting", "misconfigured"], "retries are not events"
        assert not Path(cam.config.ring).exists()


def test_a_camera_that_comes_later(camera: Callable[..., Camera], clip: Path) -> None:
    port = free_port()
    cam = camera(f"rtsp://127.0.0.1:{port}/a")
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
    assert "refused" in cam.error()
    with RtspServer({"a": Mount(clip, 10, loop=True)}, port) as server:
        assert server.port == port
        cam.run_until(lambda: cam.states()[-1] == "live")
    assert cam.states() == ["connecting", "backing_off", "live"]


@pytest.mark.parametrize("content", [b"this is no video", b"", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_file_that_is_no_video(camera: Callable[..., Camera], clip: Path, content: bytes) -> None:
    clip.with_name("bad.mp4").write_bytes(content)
    cam = camera("bad.mp4")
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
    assert cam.states() == ["connecting", "misconfigured"]
    assert cam.error()


def test_a_file_of_sound_alone(camera: Callable[..., Camera], clip: Path) -> None:
    sound = ["-f", "lavfi", "-i", "sine=duration=2", "-c:a", "aac", str(clip.with_name("sound.m4a"))]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", "-y", *sound], check=True, stdin=subprocess.DEVNULL)
    cam = camera("sound.m4a")
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
    assert cam.states() == ["connecting", "misconfigured"]
    assert cam.error() == "the source does not contain any stream of video"


def test_a_missing_file_that_is_copied_in_later(camera: Callable[..., Camera], clip: Path) -> None:
    late = clip.with_name("late.mp4")
    cam = camera("late.mp4")
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
    assert "does not exist" in cam.error()
    assert "Remedy" in cam.error()
    os.link(clip, late)
    cam.run_until(lambda: "live" in cam.states())
    late.unlink()


@pytest.mark.parametrize("backend", ["ffmpeg"])
def test_no_ffmpeg(camera: Callable[..., Camera], clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROWDPERF_FFMPEG", "/nonexistent/ffmpeg")
    cam = camera(str(clip))
    cam.run_until(lambda: cam.states()[-1:] == ["misconfigured"])
    assert "CROWDPERF_FFMPEG" in cam.error()


def test_a_stall_is_ended_and_the_ring_goes_on(camera: Callable[..., Camera], clip: Path) -> None:
    mount = Mount(clip, 10, loop=True)
    with RtspServer({"a": mount}) as server:
        cam = camera(server.url("a"), stall_s=1.5)
        cam.run_until(lambda: len(cam.tail.stamps) >= 5)
        # On a busy machine the start itself may be a stall, and is then tried again.
        before, stalls = len(cam.states()), cam.counter("ffmpeg_restarts_stall")
        mount.stalled = True
        cam.run_until(lambda: "backing_off" in cam.states()[before:])
        head = cam.tail.stamps[-1]
        mount.stalled = False
        cam.run_until(lambda: cam.tail.stamps[-1].sequence > head.sequence + 3)
        # A thread that was stuck in a read must not stay for ever.
        inside = ["pyav"] if cam.config.backend == "pyav" else []
        cam.run_until(lambda: [each.name for each in threading.enumerate() if each.name == "pyav"] == inside)
    assert cam.states()[0] == "connecting"
    assert cam.states()[before - 1 : before + 2] == ["live", "stalled", "backing_off"]
    assert cam.tail.stamps[-1].epoch == head.epoch
    assert [s.sequence for s in cam.tail.stamps] == list(range(1, len(cam.tail.stamps) + 1))
    assert cam.counter("ffmpeg_restarts_stall") > stalls


def test_a_reset_connection_comes_back(camera: Callable[..., Camera], clip: Path) -> None:
    with RtspServer({"a": Mount(clip, 10, loop=True)}) as server:
        cam = camera(server.url("a"))
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        server.reset_connections()
        cam.run_until(lambda: cam.states().count("live") == 2)
    assert cam.counter("ffmpeg_restarts_total") >= 1


def test_garbage_and_a_slow_start_do_no_harm(camera: Callable[..., Camera], clip: Path) -> None:
    mount = Mount(clip, 10, loop=True, slow_start_s=1.0)
    with RtspServer({"a": mount}) as server:
        cam = camera(server.url("a"), stall_s=6.0)
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        mount.garbage = True
        plays = mount.plays
        cam.run_until(lambda: cam.counter("frames_captured") >= 8 or mount.plays > plays, 40)
        mount.garbage = False
        before = cam.counter("frames_captured")
        cam.run_until(lambda: cam.counter("frames_captured") >= before + 15, 60)
    assert all(len(picture) == 320 * 240 * 3 // 2 for picture in cam.tail.pictures)


def plane_means(picture: bytes, width: int, height: int) -> list[float]:
    """Mean of Y, U and V."""
    planes = np.split(np.frombuffer(picture, np.uint8), [width * height, width * height * 5 // 4])
    return [float(plane.mean()) for plane in planes]


@pytest.mark.parametrize("codec", ["hevc", "mjpeg"])
def test_another_codec_size_and_rate_at_reconnect(camera: Callable[..., Camera], clip: Path, codec: str) -> None:
    """The camera has been configured anew: H.264 320x240 at 10 frames/s has become something else."""
    wide = make_clip(clip.with_name("wide25.mp4"), size="480x272", fps=25)
    want = decoded(wide, SCALE.format(w=480, h=272), "yuv420p", 480 * 272 * 3 // 2)
    with RtspServer({"a": Mount(clip, 10, loop=True), "b": Mount(wide, 25, codec=codec)}) as server:
        cam = camera(server.url("a"))
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        first = cam.tail.stamps[-1].epoch
        server.mounts["a"] = server.mounts["b"]
        server.reset_connections()
        cam.run_until(lambda: cam.tail.stamps[-1].epoch > first and cam.tail.stamps[-1].sequence >= 5)
    assert cam.tail.reader is not None
    spec = cam.tail.reader.spec
    assert (spec.width, spec.height, spec.source_width, spec.source_height) == (480, 272, 480, 272)
    sizes = {stamp.epoch: set() for stamp in cam.tail.stamps}  # type: dict[int, set[int]]
    for stamp, picture in zip(cam.tail.stamps, cam.tail.pictures):
        sizes[stamp.epoch].add(len(picture))
    assert sizes == {first: {320 * 240 * 3 // 2}, cam.tail.stamps[-1].epoch: {480 * 272 * 3 // 2}}
    # The same pattern, by another codec: alike in each plane, which no shifted or mis-sized picture is.
    last = cam.tail.pictures[-1]
    assert np.allclose(plane_means(last, 480, 272), plane_means(want[0], 480, 272), atol=6)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
def test_a_size_that_changes_while_it_plays(camera: Callable[..., Camera], clip: Path, pix_fmt: str) -> None:
    """New parameter sets inside the stream, without a new connection."""
    wide = make_clip(clip.with_name("wide.mp4"), size="480x272", seconds=20)
    with RtspServer({"a": Mount(clip, 10), "b": Mount(wide, 10)}) as server:
        mount = server.mounts["a"]
        mount.frames, mount.times = mount.frames[:10], mount.times[:10]
        mount.times += [10 + time for time in server.mounts["b"].times]
        mount.frames += server.mounts["b"].frames
        cam = camera(server.url("a"), pix_fmt=pix_fmt)
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        first = cam.tail.stamps[-1].epoch
        server.mounts["a"] = server.mounts["b"]
        cam.run_until(lambda: cam.tail.stamps[-1].epoch > first)
    assert cam.tail.reader is not None
    assert cam.tail.reader.spec.source_width == 480
    assert "size changed" in cam.error(), "and not because the stream came to its end"
    assert len(cam.tail.pictures[-1]) == cam.tail.reader.spec.frame_bytes


def test_a_recording_whose_size_changes_is_played_to_its_end(camera: Callable[..., Camera], clip: Path) -> None:
    """To begin anew, as a camera's connection does, would never get beyond the change."""
    options = "-g 10 -bf 0 -f mpegts"
    parts = [
        make_clip(clip.with_name(f"{size}.ts"), 1, size=size, options=f"{options} -output_ts_offset {offset}")
        for offset, size in enumerate(("320x240", "480x272"))
    ]
    clip.with_name("both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    cam = camera("both.ts")
    cam.run_until(lambda: cam.states()[-1:] in (["stopped"], ["backing_off"]))
    assert cam.states() == ["connecting", "live", "stopped"]
    assert cam.counter("frames_captured") == 20
    assert {len(picture) for picture in cam.tail.pictures} == {320 * 240 * 3 // 2}


@pytest.mark.parametrize(
    ("backend", "flags", "fps"),
    [
        ("ffmpeg", {"ffmpeg_flags": "-r 5"}, 5.0),
        ("ffmpeg", {"ffmpeg_extra_flags": NOKEY}, 0.0),
        ("pyav", {"ffmpeg_extra_flags": NOKEY}, 0.0),
    ],
)
def test_the_rate_that_flags_leave_is_what_is_expected(
    clip: Path, backend: str, flags: dict[str, str], fps: float
) -> None:
    """Else the quality would be unusable for good, and the ring too large."""
    config = make_config(str(clip), clip.parent, backend=backend, **flags)
    connector = SourceConnector(config, str, lambda: True, lambda _: None, Metrics())
    opened = connector.open()
    opened.decoder.terminate()
    connector.close()
    assert opened.fps == fps
    # Without a rate: as many as the target's.
    assert opened.spec.slots == compute_slot_count(opened.spec, fps, config.queue_max)


def test_half_packets_do_no_harm(camera: Callable[..., Camera], clip: Path) -> None:
    mount = Mount(clip, 10, loop=True)
    with RtspServer({"a": mount}) as server:
        cam = camera(server.url("a"), stall_s=2.0)
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        mount.truncated = True
        plays = mount.plays
        cam.run_until(lambda: cam.counter("frames_captured") >= 12 or mount.plays > plays, 40)
        mount.truncated = False
        before = cam.counter("frames_captured")
        cam.run_until(lambda: cam.counter("frames_captured") >= before + 10, 60)
    assert {len(picture) for picture in cam.tail.pictures} == {320 * 240 * 3 // 2}


@pytest.mark.parametrize("backend", ["ffmpeg"])
def test_a_short_read_is_counted(camera: Callable[..., Camera], clip: Path, tmp_path: Path) -> None:
    """An FFmpeg that breaks off inside a picture, each time."""
    fake = tmp_path / "ffmpeg"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *rawvideo*) head -c 200000 /dev/zero;; *) exec {find_ffmpeg()} "$@";; esac\n'
    )
    fake.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROWDPERF_FFMPEG", str(fake))
        cam = camera(str(clip), loop=True)
        cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
    assert cam.counter("short_reads_total") >= 1
    assert cam.counter("frames_captured") == cam.counter("short_reads_total")


# The process


def _still(tail: RingTail) -> bool:
    """Whether no frame has come for a second (ten frame periods)."""
    tail.poll()
    return time.monotonic_ns() - tail.stamps[-1].monotonic_ns > 1_000_000_000


def _ffmpegs(capture: CaptureProcess, backend: str) -> list[int]:
    """The FFmpeg children: one, or none where this process decodes."""
    found = [child.pid for child in capture.list_children()]
    assert len(found) == (1 if backend == "ffmpeg" else 0)
    return found


def test_kill_9_leaves_no_ffmpeg_and_the_sequence_goes_on(clip: Path, backend: str) -> None:
    with RtspServer({"a": Mount(clip, 10, loop=True, shared_clock=True)}) as server:
        config = make_config(server.url("a"), clip.parent, rtsp_stimeout_usec=60_000_000, backend=backend)
        with CaptureProcess(config) as capture:
            tail = RingTail(capture.config.ring)
            tail.collect(lambda: len(tail.stamps) >= 5, 30)
            ffmpegs = _ffmpegs(capture, backend)
            # An FFmpeg that has something to write would also die of the broken pipe.
            server.mounts["a"].stalled = True
            drained = functools.partial(_still, tail)
            wait_until(drained, what="the stall")
            capture.end(signal.SIGKILL)
            wait_until(lambda: not any(map(alive, ffmpegs)), 5, "the end of FFmpeg")
            server.mounts["a"].stalled = False
            last = tail.stamps[-1]
            capture.start()
            tail.collect(lambda: tail.stamps[-1].sequence > last.sequence + 3, 30)
            assert {stamp.epoch for stamp in tail.stamps} == {last.epoch}
            assert len({stamp.sequence for stamp in tail.stamps}) == len(tail.stamps)
            ffmpegs = _ffmpegs(capture, backend)
            assert capture.end(signal.SIGTERM) == 0, capture.log.decode(errors="replace")
            assert not any(map(alive, ffmpegs))
            assert not Path(capture.config.ring).exists()
            tail.close()


def test_a_silent_camera_does_not_hold_up_the_stop(clip: Path, backend: str) -> None:
    mount = Mount(clip, 10, loop=True)
    with RtspServer({"a": mount}) as server:
        config = make_config(server.url("a"), clip.parent, rtsp_stimeout_usec=60_000_000, backend=backend, stall_s=60.0)
        with CaptureProcess(config) as capture:
            tail = RingTail(capture.config.ring)
            tail.collect(lambda: len(tail.stamps) >= 3, 30)
            mount.stalled = True
            wait_until(functools.partial(_still, tail), what="the stall")
            assert capture.end(signal.SIGTERM) == 0, capture.log.decode(errors="replace")
            assert b'"stalled"' not in capture.log, "it waited until the stall clock had run down"
            assert not Path(capture.config.ring).exists()
            tail.close()


def test_an_ffmpeg_that_ignores_requests_is_killed() -> None:
    """A stand-in: the real one does so for seconds when its camera is silent."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    child = FfmpegProcess([sys.executable, "-c", code], str)
    wait_until(lambda: child.read_into(memoryview(bytearray(10)), 0.1), what="its first byte")
    assert child.terminate() == -signal.SIGKILL
    assert not alive(child.pid)


@pytest.mark.parametrize("url", ["rtsp://admin:S3cret%21@127.0.0.1:1/a", "http://127.0.0.1:1/a?token=S3cret"])
def test_ffmpeg_s_last_words_are_kept_without_credentials(url: str) -> None:
    child = FfmpegProcess([find_ffmpeg(), "-loglevel", "verbose", "-i", url, "-f", "null", "-"], make_redactor(url))
    wait_until(lambda: not child.drain(0.1), what="the end of FFmpeg")
    assert child.wait_exit_code() != 0
    output = "\n".join(child.tail)
    assert "127.0.0.1:1" in output
    assert "***" in output
    assert "S3cret" not in output


def test_digest_password_with_characters_that_urls_escape(camera: Callable[..., Camera], clip: Path) -> None:
    mount = Mount(clip, 10, loop=True, user="admin", password="S3cr/et@?#%:x", digest=True)
    with RtspServer({"a": mount}) as server:
        cam = camera(server.url("a"))
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        cam.tail.close()
        wrong = camera(server.url("a").replace("S3cr", "S3cx"))
        wrong.run_until(lambda: wrong.counter("ffmpeg_restarts_total") >= 1)
    assert wrong.states() == ["connecting", "misconfigured"]
    assert "401" in wrong.error()
    assert "S3c" not in repr([each.metrics.snapshot("x", 0) for each in (cam, wrong)] + wrong.events)


@pytest.mark.parametrize("secret", ["320", "0x2", "240x", "h264", "Video", "a?1"])
def test_a_secret_that_looks_like_what_ffmpeg_says(
    camera: Callable[..., Camera], clip: Path, backend: str, secret: str
) -> None:
    """As a password and as a query: it is taken out of what is shown, not out of what is read."""
    mount = Mount(clip, 10, loop=True, user="admin", password=secret)
    with RtspServer({"a": mount, f"a?{secret}": mount}) as server:
        url = f"{server.url('a')}?{secret}"
        cam = camera(url)
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        cam.tail.close()
        wrong = camera(url.replace("@", "x@"))
        wrong.run_until(lambda: wrong.counter("ffmpeg_restarts_total") >= 1)
    assert wrong.states() == ["connecting", "misconfigured"]
    output = repr([wrong.metrics.snapshot("x", 0), wrong.events])
    assert "401" in output
    assert not {f":{secret}x@", f":{quote(secret)}x@", f"?{secret}"} & set(re.findall(r":[^:@]*@|\?\S*", output))


def test_no_credentials_anywhere(clip: Path, backend: str) -> None:
    mount = Mount(clip, 10, loop=True, user="admin", password="S3cretPass")
    with RtspServer({"a": mount}) as server:
        wrong = server.url("a").replace("S3cretPass", "S3cretWrong")
        for url, state in ((server.url("a"), b'"live"'), (wrong, b'"misconfigured"')):
            config = make_config(url, clip.parent, ffmpeg_extra_flags="-loglevel verbose", backend=backend)
            with CaptureProcess(config) as capture:
                wait_until(lambda capture=capture, state=state: state in capture.log, what=str(state))
                if backend == "pyav":
                    assert capture.process is not None
                    processes = [psutil.Process(capture.process.pid), *capture.list_children()]
                    assert "S3cret" not in repr([process.cmdline() for process in processes])
                capture.end()
            assert b"S3cret" not in capture.log
            assert state in capture.log
        assert b"401" in capture.log


def test_state_changes_become_events_and_never_block_capture(clip: Path, redis_server: RedisServer) -> None:
    consumer: Consumer[AnyEvent] = Consumer(redis_server.client(), EVENTS, "test", "one")
    consumer.start()
    with RtspServer({"a": Mount(clip, 10, loop=True)}) as server:
        config = make_config(server.url("a"), clip.parent)
        with CaptureProcess(config, redis_url=redis_server.url) as capture:
            tail = RingTail(config.ring)
            tail.collect(lambda: len(tail.stamps) >= 2, 30)
            redis_server.kill()
            count = len(tail.stamps)
            tail.collect(lambda: len(tail.stamps) >= count + 5, 30)
            server.reset_connections()
            tail.collect(lambda: len(tail.stamps) >= count + 10, 30)
            redis_server.start()
            consumer.start()
            seen: list[str] = []

            def states() -> bool:
                for entry in consumer.read(block_ms=100):
                    assert isinstance(entry.message, CameraChanged)
                    seen.append(entry.message.state)
                return seen[-1:] == ["live"] and seen.count("live") == 2

            wait_until(states, what="the states that had to wait for Redis")
            capture.end()
            tail.close()
    assert seen[-2:] == ["backing_off", "live"]
    assert consumer.read(block_ms=2_000)[-1].message.state == "stopped"  # type: ignore[union-attr]


@pytest.mark.clips
def test_real_clips_come_through_rtsp_complete(camera: Callable[..., Camera], clips: Path) -> None:
    for name, fps in (("intel_worker_zone.mp4", 24), ("vtest.avi", 30)):
        with RtspServer({"a": Mount(clips / name, fps, replay=False)}) as server:
            frames = len(server.mounts["a"].frames)
            cam = camera(server.url("a"))
            cam.run_until(lambda frames=frames, cam=cam: cam.counter("frames_captured") >= min(frames, 60), 60)
            assert [stamp.sequence for stamp in cam.tail.stamps] == list(range(1, len(cam.tail.stamps) + 1))


def test_metrics_name_what_the_site_shows(camera: Callable[..., Camera], clip: Path) -> None:
    cam = camera(str(clip), loop=True)
    cam.run_until(lambda: cam.metrics.snapshot("x", 0).gauges.get("fps_captured", {}).get("cam", 0) > 5)
    snapshot = cam.metrics.snapshot("x", 0)
    assert snapshot.texts["state"]["cam"] == "live"
    assert snapshot.gauges["ring_epoch"]["cam"] == cam.tail.stamps[0].epoch
    assert snapshot.gauges["ring_head"]["cam"] == snapshot.counters["frames_captured"]["cam"]
    assert json.dumps(snapshot.gauges)
    reader = FrameReader(Path(cam.config.ring))
    assert reader.heartbeat_ns() > 0
    newest = reader.head()
    if cam.config.backend == "ffmpeg":
        names = [child.name() for child in psutil.Process().children()]
        assert any("ffmpeg" in name for name in names), "FFmpeg is a child of the process that captures"
        assert snapshot.texts["pts_source"]["cam"] == "none"
        assert reader.pts(newest) is None
    else:
        assert snapshot.texts["pts_source"]["cam"] == "stream"
        assert reader.pts(newest) == (newest - 1) * 100_000, "microseconds, over the end of the loop as well"
    reader.close()
