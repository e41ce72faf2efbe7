"""Cameras that share a process: who goes where, what a crash leaves behind, and threads that crash."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crowdperf.capture import crash_report
from crowdperf.capture.crash_report import CrashRecord, compute_config_digest, fall_back_to_ffmpeg
from crowdperf.capture.multi_camera import CameraGroup
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Environment, Paths
from crowdperf.settings.process_config import CaptureConfig
from crowdperf.supervision.programs import (
    GroupAssignment,
    assign_groups,
    build_programs,
    load_groups,
    map_shared_programs,
    save_groups,
)
from tests.conftest import wait_until
from tests.support.capturing import make_config

CAMERAS = st.lists(st.sampled_from("abcdefghijklmnopqrst"), unique=True, max_size=20)


def changed(before: GroupAssignment, after: GroupAssignment) -> set[int]:
    """The groups whose process would restart, end or begin."""
    return {n for n in {*before.members, *after.members} if before.members.get(n) != after.members.get(n)}


@given(CAMERAS, CAMERAS, st.integers(1, 5), st.integers(1, 5))
def test_every_camera_has_one_place_and_no_group_is_too_large(
    first: list[str], then: list[str], size: int, larger: int
) -> None:
    groups = assign_groups(then, larger, assign_groups(first, size, GroupAssignment()))
    assert sorted(one for members in groups.members.values() for one in members) == sorted(then)
    assert all(0 < len(members) <= larger for members in groups.members.values())
    if larger != size:
        assert len(groups.members) == -(-len(then) // larger), "another size leaves no more processes than it needs"


@given(CAMERAS, st.integers(2, 5), st.data())
def test_a_camera_more_or_less_touches_one_group(cameras: list[str], size: int, data: st.DataObject) -> None:
    groups = assign_groups(cameras, size, GroupAssignment())
    more = assign_groups(data.draw(st.permutations([*cameras, "new"])), size, groups)
    assert len(changed(groups, more)) == 1
    gone = data.draw(st.sampled_from([*cameras, "new"]))
    less = assign_groups([one for one in [*cameras, "new"] if one != gone], size, more)
    assert len(changed(more, less)) == 1


def test_by_hand() -> None:
    groups = assign_groups("abcde", 2, GroupAssignment())
    assert groups.members == {0: ("a", "b"), 1: ("c", "d"), 2: ("e",)}
    groups = assign_groups("acde", 2, groups)
    assert groups.members == {0: ("a",), 1: ("c", "d"), 2: ("e",)}
    groups = assign_groups("acdef", 2, groups)
    assert groups.members == {0: ("a", "f"), 1: ("c", "d"), 2: ("e",)}
    groups = assign_groups("acdef", 3, groups)
    assert groups.members == {0: ("a", "f", "e"), 1: ("c", "d")}
    assert map_shared_programs(groups)["capture-e"] == "capture-group-0"
    assert map_shared_programs(assign_groups("acdef", 1, groups)) == {}


def test_the_assignment_is_kept_in_the_data_folder(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert load_groups(paths) == GroupAssignment()
    save_groups(paths, GroupAssignment(3, {1: ("a", "b")}))
    assert load_groups(paths) == GroupAssignment(3, {1: ("a", "b")})
    (tmp_path / "supervisor" / "groups.json").write_text("{")
    assert load_groups(paths) == GroupAssignment()


def test_programs_of_groups() -> None:
    cameras = [{"id": name, "url": f"rtsp://{name}"} for name in "abc"]
    text = json.dumps({"cameras_per_process": 2, "cameras": cameras})
    config = parse(text.encode())
    before, after = (
        {
            row.name: row
            for row in build_programs(Deployment(made, Paths(Path("v")), Environment(), Path("/")))
            if row.name.startswith("capture")
        }
        for made in (config, parse(text.replace("rtsp://c", "rtsp://d").encode()))
    )
    assert [row.arguments for row in before.values()] == [
        ("capture", "--name", "capture-group-0", "a", "b"),
        ("capture", "--name", "capture-group-1", "c"),
    ]
    assert before["capture-group-0"].digest == after["capture-group-0"].digest
    assert before["capture-group-1"].digest != after["capture-group-1"].digest


# A decoder that took the process along

RECORD = """isolated old 0123
thread 0x7f01 lobby aa 1
thread 0x7f02 door bb 2
thread 0x7f01 gate cc 3
Fatal Python error: Segmentation fault

Current thread 0x00007f01 (most recent call first):
  File "pyav.py", line 1 in _decode
"""


def test_the_record_tells_whose_decoder_it_was() -> None:
    found = crash_report.parse_crash_record(RECORD)
    assert found.crashed_camera == "gate", "thread numbers are used again: the last connection counts"
    assert found.isolated == {"old": "0123", "gate": "cc"}
    assert found.trace.startswith("Fatal Python error")
    assert crash_report.parse_crash_record("").isolated == {}
    killed = crash_report.parse_crash_record(RECORD.partition("Fatal")[0])
    assert (killed.crashed_camera, killed.trace, killed.isolated) == ("", "", {"old": "0123"}), "kill -9 is no crash"
    other = crash_report.parse_crash_record(RECORD.replace("Current thread 0x00007f01", "Current thread 0x00007fff"))
    assert (other.crashed_camera, other.isolated) == ("", {"old": "0123"})
    assert other.trace


def test_a_camera_is_isolated_until_its_settings_change(tmp_path: Path) -> None:
    camera = make_config("rtsp://x/a", tmp_path, backend="pyav")
    other = replace(camera, camera_id="other")
    path = tmp_path / "run" / "x.crash"
    path.parent.mkdir()
    path.write_text(
        f"thread 0x7 cam {compute_config_digest(camera)} 5\nFatal Python error: Aborted\nCurrent thread 0x7 (most"
    )
    record = CrashRecord(path)
    assert fall_back_to_ffmpeg(camera, record.previous) == replace(camera, backend="ffmpeg")
    assert fall_back_to_ffmpeg(other, record.previous) == other
    assert fall_back_to_ffmpeg(replace(camera, target_fps=3.0), record.previous).backend == "pyav"
    record.record_decoding(other)
    record.close()
    again = CrashRecord(path)
    assert fall_back_to_ffmpeg(camera, again.previous).backend == "ffmpeg", "for the next processes too"
    assert again.previous.trace == ""
    again.close()


def test_an_orderly_end_leaves_no_record(tmp_path: Path) -> None:
    record = CrashRecord(tmp_path / "x.crash")
    record.record_decoding(make_config("rtsp://x/a", tmp_path))
    record.close()
    assert not (tmp_path / "x.crash").exists()


# Threads


class Capture:
    """Stands for a CameraCapture: goes round, or fails on cue."""

    def __init__(self, camera: str, broken: set[str], log: list[tuple[str, str]]) -> None:
        self.camera, self.broken, self.log = camera, broken, log
        log.append((camera, "begin"))

    def step(self) -> None:
        if self.camera in self.broken:
            raise AssertionError("a fault in the program")
        threading.Event().wait(0.001)

    def close(self) -> None:
        self.log.append((self.camera, "close"))

    def abandon(self) -> None:
        self.log.append((self.camera, "abandon"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_crashed_thread_restarts_and_siblings_go_on(tmp_path: Path) -> None:
    broken, log, stop, metrics, now = {"b"}, [], threading.Event(), Metrics(), [0.0]
    configs = [make_config("rtsp://x", tmp_path, camera_id=name) for name in "abc"]

    def make(camera: CaptureConfig, alive: Callable[[], bool]) -> Capture:
        return Capture(camera.camera_id, broken, log)

    group = CameraGroup(configs, make, stop.is_set, lambda: now[0], metrics)  # type: ignore[arg-type]
    assert group.supervise(5.0)
    wait_until(lambda: ("b", "abandon") in log)
    wait_until(lambda: group.supervise(5.0) and metrics.get_counter("capture_crashes_total", "b") == 1)
    assert log.count(("b", "begin")) == 1, "not before its pause is over"
    broken.clear()
    now[0] = 1.5
    wait_until(lambda: group.supervise(5.0) and log.count(("b", "begin")) == 2)
    assert [log.count((name, "begin")) for name in "ac"] == [1, 1]
    stop.set()
    group.close()
    assert sorted(row for row in log if row[1] == "close") == [("a", "close"), ("b", "close"), ("c", "close")]


def test_a_loop_that_hangs_is_noticed(tmp_path: Path) -> None:
    hang, stop, now = threading.Event(), threading.Event(), [0.0]

    class Hanging(Capture):
        def step(self) -> None:
            hang.wait(20)

    group = CameraGroup(
        [make_config("rtsp://x", tmp_path)],
        lambda camera, alive: Hanging("cam", set(), []),  # type: ignore[arg-type, return-value]
        stop.is_set,
        lambda: now[0],
        Metrics(),
    )
    assert group.supervise(5.0)
    now[0] = 6.0
    assert not group.supervise(5.0)
    stop.set()
    hang.set()
    group.close()
