"""The bench command line: which benches there are, and that every row says all that a reader of its JSON relies on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.__main__ import names
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
