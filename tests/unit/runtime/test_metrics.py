"""What a process tells of itself: its children's share, percentiles, and the names that Prometheus gets."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import psutil

from crowdperf.messaging.process_metrics import decode_snapshot
from crowdperf.runtime.metrics import Metrics, ProcessSnapshot, RecentValues
from crowdperf.web import metrics_report
from tests.conftest import wait_until

BUSY = "import sys\nkept = bytearray(64 * 2**20)\nsys.stdout.write('.')\nsys.stdout.flush()\nwhile True: kept[0] ^= 1"


def test_usage_of_a_child_counts_only_while_it_lives() -> None:
    metrics = Metrics()
    before = metrics.snapshot("capture-a", 0.0)
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout
            child.stdout.read(1)
            metrics.set_child("a", child.pid)
            assert metrics.snapshot("capture-a", 0.0).rss_bytes > psutil.Process().memory_info().rss + 60 * 2**20
            alone = Metrics()
            wait_until(
                lambda: metrics.snapshot("capture-a", 0.0).cpu_s > alone.snapshot("alone", 0.0).cpu_s + 0.2,
                what="the child's time",
            )
        finally:
            child.kill()
    after = metrics.snapshot("capture-a", 0.0)
    assert after.cpu_s > before.cpu_s + 0.2, "the system has added the time of the child that ended"
    assert after.rss_bytes < psutil.Process().memory_info().rss + 30 * 2**20, "nobody is asked for a child that is gone"
    metrics.set_child("a", None)
    metrics.set_child("b", None)


def test_bool_is_a_number_in_the_snapshot() -> None:
    metrics = Metrics()
    metrics.set_gauge("acts", True)
    assert decode_snapshot(msgspec.json.encode(metrics.snapshot("x", 0.0))).gauges == {"acts": {"": 1.0}}


def test_percentiles_are_of_the_newest_values() -> None:
    metrics, recent = Metrics(), RecentValues(max_values=100)
    recent.report(metrics, "lag", "ms")
    assert metrics.snapshot("x", 0.0).gauges == {}, "nothing is said of nothing"
    for value in [9000.0] * 50 + [float(number) for number in range(100)]:
        recent.add(value)
    recent.report(metrics, "lag", "ms")
    gauges = metrics.snapshot("x", 0.0).gauges
    assert {name: row[""] for name, row in gauges.items()} == {"lag_p50_ms": 50, "lag_p95_ms": 95, "lag_p99_ms": 99}


def test_channels_and_areas_are_not_called_cameras() -> None:
    def snapshot(process: str, name: str, label: str) -> ProcessSnapshot:
        row = {name: {label: 3.0}}
        return ProcessSnapshot(process=process, pid=1, started_at=0, at=0, rss_bytes=0, cpu_s=0, counters=row)

    rows = [
        snapshot("worker-notify-0", "notifications_sent", "guards"),
        snapshot("worker-areas", "area_events", "hall"),
        snapshot("tracking-0", "crossings", "plaza/gate"),
    ]
    text = metrics_report.render(rows, {})
    assert 'crowdperf_notifications_sent_total{process="worker-notify-0",channel="guards"} 3' in text
    assert 'crowdperf_area_events_total{process="worker-areas",area="hall"} 3' in text
    assert 'crowdperf_crossings_total{process="tracking-0",camera="plaza",part="gate"} 3' in text
