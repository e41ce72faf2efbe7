"""The `[perf]` lines: what each process says of itself every minute, in its own log."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.metrics import LOG_INTERVAL_S, InferenceMetrics
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.supervision.processes import PROCESSES
from tests.conftest import ROOT
from tests.support.feeds import make_feed

OURS = [row.kind for row in PROCESSES if row.kind not in ("redis", "guard")]
"""Those with a working loop: Redis is somebody else's program, and the guard sleeps until supervisord calls it."""
EVERY_KIND = """
import logging, sys, threading
from msgspec.structs import replace
from crowdperf import __main__ as program
from crowdperf.cli import supervised
from crowdperf.runtime import process_runtime as runtime
from crowdperf.supervision import processes

class Seen(logging.Handler):
    def __init__(self):
        super().__init__()
        self.event = threading.Event()
    def emit(self, record):
        if "[perf]" in record.getMessage():
            self.event.set()

def main(config, running):
    seen = Seen()
    logging.getLogger().addHandler(seen)
    if not seen.event.wait(60):
        sys.exit("no line")
    running.stop()

runtime.HOUSEKEEPING_S = 0.01
supervised.get_process = lambda kind: replace(processes.get_process(kind), entry="__main__:main", nice=0)
for words in sys.argv[1:]:
    program.main(words.split())
"""
"""Each kind of process as supervisord starts it, but for what it does: and its minute is short."""


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [row.getMessage() for row in caplog.records if row.getMessage().startswith("[perf]")]


def test_a_process_says_what_it_has_used_and_pruned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runtime = ProcessRuntime("inference", 0)
    runtime.register_cache("tracks", lambda: 3)
    runtime.report(runtime._reported_at + 60.0)
    spent = sum(os.times()[:2])
    while sum(os.times()[:2]) < spent + 0.05:
        pass
    runtime.report(runtime._reported_at + 0.1)
    first, second = lines(caplog)
    found = re.fullmatch(r"\[perf\] housekeeping cpu=([\d.]+)% rss=(\d+)MiB pruned: metrics=0 tracks=3", second)
    assert found, second
    assert float(found[1]) > 40, "a twentieth of a second of a tenth"
    assert float(re.findall(r"cpu=([\d.]+)%", first)[0]) < 100
    assert int(found[2]) > 10


def test_inference_says_once_a_minute_how_it_keeps_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stats = InferenceMetrics(Metrics(), 100.0)
    spec = RingSpec(64, 36, "yuv420p", 64, 36, 4, 10.0, 0)
    lobby, gate = make_feed("lobby", spec), make_feed("gate", spec)
    for _ in range(120):
        stats.record_frame(lobby, 0.05)
    stats.record_batch(4, 0.020)
    lobby.record_drop("stale", 2)
    gate.record_drop("stale")
    gate.record_drop("paced", 5)
    stats.report(100.0 + LOG_INTERVAL_S - 0.1, [lobby], 7, 0)
    assert lines(caplog) == []
    stats.report(100.0 + LOG_INTERVAL_S, [lobby, gate], 7, 0)
    stats.report(100.0 + 2 * LOG_INTERVAL_S, [lobby], 0, 0)
    assert lines(caplog) == [
        "[perf] cameras=2 fps=2.0 infer_ms=20.0 batch=4.0 outbox=7 drops: paced=5 stale=3",
        "[perf] cameras=1 fps=0.0 infer_ms=20.0 batch=4.0 outbox=0 drops: none",
    ]


def test_every_kind_of_process_writes_its_line(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        '{"cameras": [{"id": "lobby", "url": "rtsp://192.0.2.1/"}], "redis": {"url": "redis://192.0.2.1"}}'
    )
    words = {"capture": "capture lobby", "tracking": "tracking 0"}
    commands = [words.get(kind, f"{kind.replace('-', ' ', 1)}{' 0' if '-' in kind else ''}") for kind in OURS]
    done = subprocess.run(
        [sys.executable, "-c", EVERY_KIND, *commands],
        cwd=ROOT,
        env={**os.environ, "CROWDPERF_CONFIG": str(config), "CROWDPERF_DATA": str(tmp_path / "var")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for kind in OURS:
        assert re.search(rf" INFO {kind}\S* \[perf\] housekeeping cpu=", done.stderr), (kind, done.stderr)
