"""The bench command line: which benches there are, and that every row says all that a reader of its JSON relies on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.__main__ import names
from bench.pipeline.cameras import search, sustained
from bench.site import Load
from bench.stress import chaos
from tests.conftest import ROOT
from tests.support.chaos import Recovery, Storm, Verdict, mixed
from tests.support.matching import Passage

KEYS = {"name", "value", "unit", "limit_or_peer", "ratio", "repetitions", "ci95", "better", "counts"}
CONTEXT = {"machine", "cores", "memory_bytes", "kernel", "python", "versions", "commit", "load", "at"}


def bench(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def test_the_benches_of_capture_and_ring_are_there() -> None:
    listed = bench("list").split()
    assert listed == names()
    assert {"micro/decode_to_ring", "micro/ring", "micro/wakeup", "stress/chaos", "stress/ring"} <= set(listed)


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


def test_the_kills_of_a_storm_are_chosen_where_there_is_one() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        bench("run", "micro/ring", "--kills", "3")
    assert "micro/ring takes none" in refused.value.stderr
    order = mixed(13, random.Random(1))
    assert sorted(Counter(order).values()) == [2] * 5 + [3]


def test_a_storm_is_told_by_what_became_of_each_crossing() -> None:
    recoveries = [Recovery("redis", 0.4, 1.5), Recovery("redis", 0.6, 2.5), Recovery("web", 0.2, 0.7)]
    found = Verdict(
        true=10,
        stored=7,
        twice=["a"],
        published_twice=["a"],
        published_otherwise=set(),
        missed=3,
        gaps=[(1.0, 2.5), (4.0, 5.0)],
        unexplained=[Passage(9.0, "gate", "in")],
        surplus=[],
    )
    rows = {row.name: row for row in chaos.table(Storm(0.0, 9.0, recoveries), found)}
    assert {name: row.value for name, row in rows.items()} == {
        "kills": 3,
        "true_crossings": 10,
        "stored_once": 7,
        "in_recorded_gaps": 2,
        "lost": 1,
        "stored_or_said_twice": 2,
        "counted_but_not_true": 0,
        "gaps": 2.5,
        "restarted_s/redis": 0.5,
        "analysing_s/redis": 2.0,
        "restarted_s/web": 0.2,
        "analysing_s/web": 0.7,
    }
    assert rows["analysing_s/redis"].limit_or_peer == "2.50 at worst"


def load_of(cameras: int, holds: int) -> Load:
    """A machine that holds so many cameras, and drops the frames of the others."""
    due, got = 100.0 * cameras, 100.0 * min(cameras, holds)
    share = got / due
    return Load(10.0, got, due - got, share, 0.1)


@pytest.mark.parametrize("holds", range(9))
@pytest.mark.parametrize("first", range(1, 9))
def test_the_search_finds_how_many_cameras_a_machine_holds(holds: int, first: int) -> None:
    tried: list[int] = []

    def attempt(cameras: int) -> Load:
        tried.append(cameras)
        return load_of(cameras, holds)

    found, load = search(attempt, first, 8)
    assert found == holds
    assert sustained(load) == (holds > 0)
    assert len(tried) == len(set(tried)), "a number was measured twice"


def test_drops_starvation_and_late_tracking_are_not_sustained() -> None:
    good = Load(10.0, 1000.0, 4.0, 0.99, 0.3)
    assert sustained(good)
    assert not sustained(Load(10.0, 1000.0, 6.0, 0.99, 0.3))
    assert not sustained(Load(10.0, 1000.0, 4.0, 0.9, 0.3))
    assert not sustained(Load(10.0, 1000.0, 4.0, 0.99, 1.2))
