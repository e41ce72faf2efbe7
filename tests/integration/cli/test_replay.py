"""`crowdperf replay` and `crowdperf evaluate` on the first seconds of the demo scene, as an operator runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.settings.base import compute_fingerprint
from crowdperf.settings.camera import Line
from crowdperf.storage.evaluations import LineEvaluation
from tests.conftest import ROOT, RedisServer

SECONDS = 11
"""Two people over `west`, one over `east`, a bus through `street`."""


class Desk:
    """A folder to work in, with the clip and configurations."""

    def __init__(self, folder: Path, demo: Path) -> None:
        self.folder = folder
        self.clip = self._cut(demo / "demo_sparse.mp4", SECONDS, "scene.mp4")
        self.short = self._cut(demo / "demo_sparse.mp4", 2, "short.mp4")
        truth = json.loads((demo / "demo_sparse.truth.json").read_bytes())
        self.true = [row for row in truth["crossings"] if row["time_s"] < SECONDS]
        self.camera = next(
            row for row in json.loads((ROOT / "config.json").read_bytes())["cameras"] if row["id"] == "plaza"
        )

    def _cut(self, clip: Path, seconds: int, name: str) -> Path:
        out = self.folder / name
        cut = ["-i", str(clip), "-t", str(seconds), "-c", "copy", str(out)]
        subprocess.run([find_ffmpeg(), "-v", "error", "-y", *cut], check=True)
        return out

    def config(self, name: str, lines: list[dict[str, Any]], **settings: object) -> Path:
        path = self.folder / name
        path.write_text(json.dumps({"cameras": [{**self.camera, "lines": lines}], **settings}))
        return path

    def truth(self, *more: dict[str, Any]) -> Path:
        path = self.folder / "truth.json"
        path.write_text(json.dumps({"crossings": [*self.true, *more]}))
        return path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "crowdperf", *map(str, words)],
            cwd=ROOT,
            env=os.environ | {"CROWDPERF_DATA": str(self.folder / "var")},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, demo_clips: Path) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"), demo_clips)


def test_replay_tells_exactly_what_differs_and_always_the_same(desk: Desk) -> None:
    west, east, _ = lines = desk.camera["lines"]
    first = desk.config("first.json", lines)
    second = desk.config("second.json", [{**west, "in_side": "negative"}, east])
    texts = []
    for attempt in ("1", "2"):
        out, page = desk.folder / f"{attempt}.json", desk.folder / f"{attempt}.html"
        done = desk.run(
            "replay", "--clip", desk.clip, "--config", first, "--config", second, "--json", out, "--report", page
        )
        assert done.returncode == 0, done.stderr
        assert "x real time" in done.stdout
        texts.append(out.read_bytes())
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    counts = [
        {(row["line"], row["direction"]): row["count"] for row in one["counts"]} for one in found["configurations"]
    ]
    assert counts == [
        {("east", "out"): 1, ("street", "in"): 1, ("west", "in"): 2},
        {("east", "out"): 1, ("west", "out"): 2},
    ]
    assert found["same"] == 1
    differing = sorted((row["line"], row["at_s"], row["kind"]) for row in found["differences"])
    assert [(line, kind) for line, _, kind in differing] == [
        ("street", "only"),
        ("west", "direction"),
        ("west", "direction"),
    ]
    turned = next(row["counted"] for row in found["differences"] if row["line"] == "west")
    assert {name: one["direction"] for name, one in turned.items()} == {"first.json": "in", "second.json": "out"}
    true = sorted((row["line"], row["time_s"]) for row in desk.true if row["line"] != "east")
    for (_, true_s), (_, at_s, _) in zip(true, differing):
        assert abs(at_s - true_s) <= 1.0
    text = (desk.folder / "1.html").read_text()
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]{2000,}"', text)) == 3
    assert "<script" not in text
    assert "http" not in text
    assert "only in first.json" in text
    assert "lines.west.in_side" in text
    assert "prefers-color-scheme: dark" in text


def test_an_audit_is_kept_for_its_lines(desk: Desk, redis_server: RedisServer) -> None:
    settings = {"redis": {"url": redis_server.url, "key_prefix": "hall:"}}
    config = desk.config("site.json", desk.camera["lines"], **settings)
    invented = {"time": "0:02.0", "line": "west", "direction": "out", "class": "person"}
    page = desk.folder / "audit.html"
    done = desk.run(
        "evaluate", "--clip", desk.clip, "--truth", desk.truth(invented), "--config", config, "--report", page
    )
    assert done.returncode == 0, done.stderr
    assert "0:02.0  west out: missed" in done.stdout
    stored = redis_server.client().hgetall("hall:crowdperf:audit:plaza")
    audits = {name.decode(): msgspec.json.decode(raw, type=LineEvaluation) for name, raw in stored.items()}
    assert set(audits) == {"west", "east", "street"}
    west = audits["west"]
    assert (west.total.true, west.total.counted, west.total.matched) == (3, 2, 2)
    assert west.total.recall is not None
    assert west.total.recall.value == pytest.approx(2 / 3)
    assert west.fingerprint == compute_fingerprint(msgspec.convert(desk.camera["lines"][0], Line))
    assert audits["street"].total.matched == 1
    assert page.read_text().count("<img src=") == 1, "the one mistake"


def test_a_dry_run_stores_nothing(desk: Desk, redis_server: RedisServer) -> None:
    config = desk.config("dry.json", desk.camera["lines"], redis={"url": redis_server.url})
    empty = desk.folder / "empty.json"
    empty.write_text('{"crossings": []}')
    words = ("audit", "--clip", desk.short, "--truth", empty, "--config", config, "--line", "west", "--dry-run")
    done = desk.run(*words)
    assert done.returncode == 0, done.stderr
    assert "nothing was stored" in done.stdout
    assert "not judged: east, street" in done.stdout
    assert redis_server.client().keys("*") == []


def test_an_audit_without_redis_says_that_it_was_not_stored(desk: Desk) -> None:
    config = desk.config("away.json", desk.camera["lines"], redis={"url": "unix:///nowhere/redis.sock"})
    empty = desk.folder / "empty.json"
    empty.write_text('{"crossings": []}')
    done = desk.run("evaluate", "--clip", desk.short, "--truth", empty, "--config", config, "--line", "west")
    assert done.returncode == 2
    assert "the audit was not stored, Redis does not answer" in done.stderr
    assert "west" in done.stdout, "the figures are printed all the same"


def test_what_is_wrong_is_one_line(desk: Desk) -> None:
    config = desk.config("one.json", desk.camera["lines"])
    for words, message in [
        (("replay", "--clip", desk.clip), "config.json: which camera? It has: plaza, gate"),
        (("replay", "--clip", "none.mp4", "--config", config), "no file 'none.mp4'"),
        (("evaluate", "--clip", desk.short, "--truth", "none.csv", "--config", config), "cannot read the truth file"),
    ]:
        done = desk.run(*words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr
