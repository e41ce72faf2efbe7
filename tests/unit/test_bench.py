"""The bench command line: which benches there are, and that every row says all that a reader of its JSON relies on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import names
from bench.pipeline.cameras import search, sustained
from bench.site import Load
from tests.conftest import ROOT

KEYS = {"name", "value", "unit", "limit_or_peer", "ratio", "repetitions", "ci95", "better"}
CONTEXT = {"machine", "cores", "memory_bytes", "kernel", "python", "versions", "commit", "load", "at"}


def bench(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_the_benches_of_capture_and_ring_are_there() -> None:
    listed = bench("list").split()
    assert listed == names()
    assert {"micro/decode_to_ring", "micro/ring", "micro/wakeup", "stress/ring"} <= set(listed)


def test_every_row_is_whole(tmp_path: Path) -> None:
    shown = bench("run", "micro/ring", "--short", "--json", str(tmp_path / "rows.json"))
    result = json.loads((tmp_path / "rows.json").read_text())
    assert result["bench"] == "micro/ring"
    assert set(result["context"]) >= CONTEXT
    assert {"numpy", "ffmpeg"} <= set(result["context"]["versions"])
    assert len(result["context"]["load"]) == 3
    rows = {row["name"]: row for row in result["rows"]}
    assert {"ring_write_read/345600", "publish_stores_us"} <= set(rows)
    for name, row in rows.items():
        assert set(row) == KEYS
        assert name in shown
        assert row["value"] > 0
        low, high = row["ci95"]
        assert low <= row["ratio"] <= high


def load_of(cameras: int, holds: int) -> Load:
    """A machine that holds so many cameras, and drops the frames of the others."""
    due, got = 100.0 * cameras, 100.0 * min(cameras, holds)
    share = got / due
    return Load(10.0, got, due - got, share, 0.1, 5.0, 1.0)


@pytest.mark.parametrize("holds", range(9))
@pytest.mark.parametrize("first", range(1, 9))
def test_the_search_finds_how_many_cameras_a_machine_holds(holds: int, first: int) -> None:
    tried: list[int] = []

    def attempt(cameras: int) -> Load:
        tried.append(cameras)
        return load_of(cameras, holds)

    found, load = search(attempt, first, 7 + 1)
    assert found == holds
    assert sustained(load) == (holds > 0)
    assert len(tried) == len(set(tried)), "a number was measured twice"


def test_dropped_frames_a_starved_camera_and_late_tracking_are_not_sustained() -> None:
    good = Load(10.0, 1000.0, 4.0, 0.99, 0.3, 5.0, 1.0)
    assert sustained(good)
    assert not sustained(Load(10.0, 1000.0, 6.0, 0.99, 0.3, 5.0, 1.0))
    assert not sustained(Load(10.0, 1000.0, 4.0, 0.9, 0.3, 5.0, 1.0))
    assert not sustained(Load(10.0, 1000.0, 4.0, 0.99, 1.2, 5.0, 1.0))
