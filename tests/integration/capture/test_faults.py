"""FFmpegs and cameras that misbehave on cue: each fault has its state, its count and its end; nothing is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from crowdperf.capture import connector, ffmpeg_process
from crowdperf.capture.connector import OpenError, SourceConnector
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.frames import segment
from crowdperf.frames.ring import FrameWriter, RingSpec
from crowdperf.runtime.ffmpeg_binary import DEFAULT_FEATURES, detect_features
from crowdperf.runtime.metrics import Metrics
from tests.conftest import wait_until
from tests.support import fake_ffmpeg
from tests.support.capturing import Camera, CaptureProcess, RingTail, alive, make_clip, make_config
from tests.support.rtsp_server import Mount, RtspServer

FRAME = 320 * 240 * 3 // 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def faulty(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Camera]]:
    """Makes a camera by RTSP, with a password, whose FFmpeg misbehaves."""
    made: list[Camera] = []
    mount = Mount(clip, 10, loop=True, user="admin", password="S3cretPass")
    with RtspServer({"a": mount}) as server:

        def make(mode: str, **changes: object) -> Camera:
            monkeypatch.setenv("CROWDPERF_FFMPEG", fake_ffmpeg.make(tmp_path, mode))
            made.append(Camera(server.url("a"), tmp_path, **changes))
            return made[-1]

        yield make
        for each in made:
            each.tail.close()
            each.capture.close()
            assert b"S3cret" not in repr([each.metrics.snapshot("x", 0), each.events]).encode()
            assert not Path(each.config.ring).exists()
    assert [child.name() for child in psutil.Process().children() if "ffmpeg" in child.name()] == []


def waits(cam: Camera, times: int) -> list[float]:
    """The back-offs, as they are shown, of the next so many failures."""
    found: list[float] = []
    left = 0.0

    def shown() -> bool:
        nonlocal left
        before = left
        left = cam.metrics.snapshot("x", 0).gauges.get("backoff_s", {}).get("cam", 0.0)
        if left > before:
            # It only ever runs down, so this is the next one.
            found.append(left)
        return len(found) >= times

    cam.run_until(shown, what=f"{times} back-offs, {found}")
    return found


def test_end_inside_a_picture_is_a_short_read_with_double_wait(
    faulty: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    cam = faulty("broken 1")
    # The longest of its waits each time: with their jitter two in a row may be alike.
    monkeypatch.setattr(cam.capture._connection._backoff, "_random", lambda: 1.0)
    found = waits(cam, 3)
    assert 0.0 < found[0] <= 0.5
    assert 0.5 < found[1] <= 1.0
    assert 1.0 < found[2] <= 2.0
    assert cam.counter("short_reads_total") == 3
    assert cam.counter("frames_captured") == 3, "what was whole is kept"
    assert cam.counter("ffmpeg_restarts_ended") == cam.counter("ffmpeg_restarts_total") == 2
    assert {len(picture) for picture in cam.tail.pictures} == {FRAME}
    assert cam.states()[:3] == ["connecting", "live", "backing_off"]


def test_half_a_picture_and_silence_is_three_short_reads(faulty: Callable[..., Camera]) -> None:
    cam = faulty("half")
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_short_reads") == 1, 30)
    assert cam.counter("short_reads_total") >= 3
    assert cam.counter("frames_captured") == 0
    assert "bytes" in cam.error()


def test_a_picture_has_the_time_of_its_first_byte(faulty: Callable[..., Camera], tmp_path: Path) -> None:
    cam = faulty("paused")
    cam.run_until(lambda: cam.capture._session and cam.capture._session.filled == FRAME // 2)
    wall_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
    (tmp_path / "ffmpeg-paused.go").touch()
    cam.run_until(lambda: cam.tail.stamps)
    (stamp,) = cam.tail.stamps
    assert stamp.captured_at_ns < wall_ns
    assert stamp.monotonic_ns < monotonic_ns


def test_a_silent_one_that_ignores_requests_is_killed(faulty: Callable[..., Camera]) -> None:
    cam = faulty("silent 3", stall_s=1.0)
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    (child,) = [each for each in psutil.Process().children() if "ffmpeg" in each.name()]
    # On a busy machine the start itself may be a stall, and is then tried again.
    before, stalls = len(cam.states()), cam.counter("ffmpeg_restarts_stall")
    cam.run_until(lambda: "backing_off" in cam.states()[before:])
    assert cam.states()[0] == "connecting"
    assert cam.states()[before - 1 :] == ["live", "stalled", "backing_off"]
    assert not alive(child.pid)
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_stall") > stalls)


@pytest.mark.parametrize("mode", ["whole 0", "crash"])
def test_one_that_leaves_at_once_is_started_again(faulty: Callable[..., Camera], mode: str) -> None:
    cam = faulty(mode)
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 2)
    assert cam.states()[:2] == ["connecting", "backing_off"]
    assert cam.error()


@pytest.mark.parametrize("mode", ["flood", "noise"])
def test_a_flood_of_error_lines_stops_no_picture(faulty: Callable[..., Camera], mode: str) -> None:
    cam = faulty(mode)
    cam.run_until(lambda: len(cam.tail.stamps) >= 10)
    cam.run_until(lambda: cam.metrics.snapshot("x", 0).texts.get("ffmpeg_stderr"))
    lines = cam.metrics.snapshot("x", 0).texts["ffmpeg_stderr"]["cam"].split("\n")
    assert 0 < len(lines) <= 100
    assert max(map(len, lines)) <= 500
    assert cam.states() == ["connecting", "live"]


def test_source_that_floods_while_opening_is_retried(faulty: Callable[..., Camera]) -> None:
    cam = faulty("outburst")
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 1)
    assert cam.states() == ["connecting", "backing_off"]
    assert cam.error().startswith("error at ")


def test_pictures_without_end_are_taken_at_a_bounded_rate(faulty: Callable[..., Camera]) -> None:
    cam = faulty("huge")
    cam.run_until(lambda: cam.states() == ["connecting", "live"])
    while cam.counter("frames_captured") < 600:
        cam.capture.step()
        cam.tail.poll()
    # The times of the ring, not of this test: no second of them holds more than the bound, with one of slack.
    times = [stamp.monotonic_ns / 1e9 for stamp in cam.tail.stamps]
    assert max(sum(1 for other in times if t <= other < t + 1) for t in times) <= 2 * 240 + 2


def test_a_late_one_is_waited_for(faulty: Callable[..., Camera]) -> None:
    cam = faulty("late 1")
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    assert cam.counter("ffmpeg_restarts_total") == 0


def test_opening_time_is_no_part_of_a_stall(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look of 2 s, then 2 s until the first picture: each within `stall_s`, both together never."""
    monkeypatch.setenv("CROWDPERF_FFMPEG", fake_ffmpeg.make(tmp_path, "slow 2"))
    cam = Camera(str(clip), clip.parent, doorbell=str(tmp_path / "bell"), stall_s=3.5)
    # On a busy machine one of them may be a stall, and is then tried again.
    cam.run_until(lambda: "live" in cam.states(), 60)
    cam.tail.close()
    cam.capture.close()


def test_a_camera_may_take_as_long_to_open_as_it_may_be_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each turn of the opening moves by ten seconds."""
    monkeypatch.setenv("CROWDPERF_FFMPEG", fake_ffmpeg.make(tmp_path, "dead"))
    clock = 0.0

    def turn() -> bool:
        nonlocal clock
        clock += 10.0
        return True

    source_connector = SourceConnector(
        make_config("rtsp://127.0.0.1/a", tmp_path, stall_s=90.0), str, turn, lambda _: None, Metrics()
    )
    monkeypatch.setattr(connector, "time", SimpleNamespace(monotonic=lambda: clock))
    with pytest.raises(OpenError, match="no picture in time"):
        source_connector.open()
    source_connector.close()
    assert clock >= 90.0


def test_an_old_ring_makes_way_where_there_is_no_room_for_two(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cam = Camera(str(clip), clip.parent, doorbell=str(tmp_path / "bell"), loop=True)
    ring = Path(cam.config.ring)
    # Of a time to come: the clock has been put back since.
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 1 << 62)
        old = FrameWriter(ring, RingSpec(64, 48, "yuv420p", 64, 48, 4, 10.0, 0))
    old.close(unlink=False)
    # Free once the file has lost its name, and those who still read it have let go of it when it is asked again.
    asked = [1 << 40, 0]
    monkeypatch.setattr(segment, "_free", lambda path: 0 if path.exists() else asked.pop())
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    cam.tail.close()
    cam.capture.close()
    assert [(event.state, "MiB free" in event.detail) for event in cam.events[:3]] == [
        ("connecting", False),
        ("backing_off", True),
        ("live", False),
    ]
    assert cam.tail.stamps[0].epoch > old.epoch


def test_a_ring_that_cannot_be_opened_is_no_fault_of_ffmpeg(tmp_path: Path, clip: Path) -> None:
    cam = Camera(str(clip), clip.parent, doorbell=str(tmp_path / "bell"))
    ring = Path(cam.config.ring)
    ring.parent.mkdir(mode=0o700, exist_ok=True)
    ring.mkdir()
    cam.run_until(lambda: cam.states()[-1:] == ["misconfigured"])
    ring.rmdir()
    cam.capture.close()
    assert f"ring {cam.config.ring!r} cannot be opened" in cam.error()


@pytest.mark.parametrize("written", [False, True])
def test_camera_that_ends_while_down_leaves_no_ring(tmp_path: Path, written: bool) -> None:
    """As after kill -9: the ring is there, and this process has not opened it."""
    cam = Camera("missing.mp4", tmp_path)
    other = FrameWriter(Path(cam.config.ring), RingSpec(64, 48, "yuv420p", 64, 48, 4, 10.0, 0))
    if not written:
        other.close(unlink=False)
    cam.run_until(lambda: cam.states()[-1:] == ["misconfigured"])
    cam.capture.close()
    assert Path(cam.config.ring).exists() == written
    other.close(unlink=True)


def test_a_wrapper_is_ended_with_what_it_runs(faulty: Callable[..., Camera]) -> None:
    cam = faulty("wrapped")
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    family = [each.pid for each in psutil.Process().children(recursive=True) if "ffmpeg" in each.name()]
    assert len(family) == 2
    cam.capture.close()
    wait_until(lambda: not any(map(alive, family)), 5, "the end of both")


def test_child_of_a_wrapper_ends_when_capture_is_killed(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROWDPERF_FFMPEG", fake_ffmpeg.make(tmp_path, "wrapped"))
    with (
        RtspServer({"a": Mount(clip, 10, loop=True)}) as server,
        CaptureProcess(make_config(server.url("a"), tmp_path)) as capture,
    ):
        tail = RingTail(capture.config.ring)
        tail.collect(lambda: len(tail.stamps) >= 3)
        family = [each.pid for each in capture.list_children() if "ffmpeg" in each.name()]
        assert len(family) == 2
        capture.end(signal.SIGKILL)
        wait_until(lambda: not any(map(alive, family)), what="the end of both")
        tail.close()


def test_an_ffmpeg_without_size_report_is_probed_first(faulty: Callable[..., Camera]) -> None:
    cam = faulty("mute")
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    assert cam.counter("ffmpeg_restarts_total") == 0
    assert cam.states() == ["connecting", "live"]


def test_help_without_end_is_taken_for_none(tmp_path: Path) -> None:
    assert detect_features(fake_ffmpeg.make(tmp_path, "helpless")) == DEFAULT_FEATURES


def test_one_that_is_silent_from_the_start_is_a_stall(faulty: Callable[..., Camera]) -> None:
    cam = faulty("dead", stall_s=1.0)
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_stall") == 1)
    assert cam.states()[:3] == ["connecting", "stalled", "backing_off"]


@pytest.mark.parametrize("read", [FfmpegProcess.drain, FfmpegProcess.read_log])
def test_a_flood_of_error_lines_has_to_wait(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[FfmpegProcess, float], bool]
) -> None:
    # All in one second, however long it takes.
    monkeypatch.setattr(ffmpeg_process, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=time.sleep))
    child = FfmpegProcess(["sh", "-c", "yes an error >&2"], str)

    def is_reported() -> bool:
        assert read(child, 0.1)
        return any("error output paused" in line for line in child.tail)

    wait_until(is_reported, what="the limit")
    assert read(child, 0.1)
    child.terminate()
    assert child.tail[-1].startswith("(error output paused"), "nothing more is read in that second"
