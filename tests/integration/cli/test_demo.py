"""`crowdperf demo` through a real FFmpeg: whole files or none, and frames that differ after H.264."""

from __future__ import annotations

import importlib.util
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from crowdperf.cli.demo import main
from crowdperf.demo import ground_truth
from crowdperf.demo.outlines import FPS
from crowdperf.demo.scenes import SCENES, SPARSE, Scene
from crowdperf.demo.script import Actor, Track, Waypoint, build_track
from crowdperf.demo.stage import BarcodeStamp
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.settings.config import Installation
from tests.conftest import missing
from tests.support.barcode import decode_stamp

SECONDS = 3


def short_cast(scene: Scene, seed: int) -> list[Track]:
    way = (Waypoint(200, 400), Waypoint(500, 400))
    return [build_track(Actor(1, "person", seed % 2, 1.0, 0.0, 1.4, way), scene.frames)]


@pytest.fixture(autouse=True)
def short_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("ultralytics") is None:
        missing("the ultralytics package, whose pictures the demo is cut from")
    monkeypatch.setitem(SCENES, "demo_sparse", SPARSE._replace(seconds=SECONDS, make_cast=short_cast))


def render(out: Path, *more: str) -> int:
    return main(["--out", str(out), "--scene", "demo_sparse", *more], Installation())


def rendered(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.name != ".lock")


def decoded(video: Path, *options: str) -> np.ndarray:
    """Luma planes at the analysis size, shape (n, 360, 640)."""
    argv = [find_ffmpeg(), "-loglevel", "error", *options, "-i", str(video), "-vf", "scale=640:360"]
    argv += ["-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"]
    raw = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 540, 640)[:, :360]


def test_every_frame_is_there_and_names_itself(tmp_path: Path) -> None:
    assert render(tmp_path) == 0
    stamps = [decode_stamp(plane) for plane in decoded(tmp_path / "demo_sparse.mp4")]
    assert stamps == [BarcodeStamp(SPARSE.number, frame) for frame in range(SECONDS * FPS)]
    truth = ground_truth.decode_truth((tmp_path / "demo_sparse.truth.json").read_bytes())
    assert truth.frames == len(stamps)
    assert rendered(tmp_path) == ["demo_sparse.mp4", "demo_sparse.truth.json"]


def test_a_key_frame_begins_every_second(tmp_path: Path) -> None:
    assert render(tmp_path) == 0
    stamps = [decode_stamp(plane) for plane in decoded(tmp_path / "demo_sparse.mp4", "-skip_frame", "nokey")]
    assert [stamp.frame for stamp in stamps if stamp] == [FPS * second for second in range(SECONDS)]


def test_if_missing_keeps_what_is_there_and_replaces_what_is_not(tmp_path: Path) -> None:
    video, truth = tmp_path / "demo_sparse.mp4", tmp_path / "demo_sparse.truth.json"
    assert render(tmp_path) == 0
    first = video.stat().st_ino
    assert render(tmp_path, "--if-missing") == 0
    assert video.stat().st_ino == first
    assert render(tmp_path, "--if-missing", "--seed", "8") == 0
    second = video.stat().st_ino
    assert second != first
    truth.write_bytes(b"{")
    assert render(tmp_path, "--if-missing", "--seed", "8") == 0
    assert ground_truth.decode_truth(truth.read_bytes()).seed == 8
    assert video.stat().st_ino != second


def test_what_a_killed_renderer_has_begun_is_removed(tmp_path: Path) -> None:
    begun, other = tmp_path / ".demo_sparse.mp4.123.part", tmp_path / ".mine.mp4.123.part"
    begun.touch()
    other.touch()
    assert render(tmp_path) == 0
    assert not begun.exists()
    assert other.exists()


def test_two_at_once_render_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: render(tmp_path, "--if-missing"), range(2))) == [0, 0]
    assert capsys.readouterr().err.count("rendered to") == 1
    assert rendered(tmp_path) == ["demo_sparse.mp4", "demo_sparse.truth.json"]


@pytest.mark.parametrize(
    ("program", "message"), [("no-such-ffmpeg", "is no program"), ("false", "could not encode"), ("true", "")]
)
def test_a_failing_ffmpeg_is_one_line_and_leaves_nothing(
    program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROWDPERF_FFMPEG", program)
    assert render(tmp_path / "out") == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Remedy" in errors
    assert errors.count("\n") == 1
    assert rendered(tmp_path / "out") == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert render(tmp_path / "file" / "out") == 2
    assert capsys.readouterr().err.startswith("crowdperf demo: ")
