"""What a process tells of itself: its children's share, percentiles, and the names that Prometheus gets."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import psutil
import pytest

from crowdperf.messaging.process_metrics import decode_snapshot
from crowdperf.runtime.metrics import Metrics, ProcessSnapshot
from crowdperf.runtime.metrics_table import LABEL_SEPARATOR, METRICS, check_metric, get_first_label
from crowdperf.settings.base import CAMERA_ID
from crowdperf.web import metrics_report
from tests.conftest import wait_until

BUSY = "import sys\nkept = bytearray(64 * 2**20)\nsys.stdout.write('.')\nsys.stdout.flush()\nwhile True: kept[0] ^= 1"


def test_labels_of_a_key_are_split_as_they_were_joined() -> None:
    key = check_metric("gauge", "zone_occupancy", ("gate", "hall"))
    assert METRICS["gauge", "zone_occupancy"].split_key(key) == [("camera", "gate"), ("part", "hall")]
    assert get_first_label(key) == "gate"
    assert not CAMERA_ID.fullmatch(f"gate{LABEL_SEPARATOR}hall"), "no id holds the separator"


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
    metrics = Metrics()
    assert metrics.snapshot("x", 0.0).gauges == {}
    for seconds in [9.0] * 50 + [number / 1000 for number in range(1000)]:
        metrics.observe("frame_age_seconds", seconds)
    snapshot = metrics.snapshot("x", 0.0)
    assert [snapshot.get_gauge(f"frame_age_p{share}_ms") for share in (50, 95, 99)] == [500, 950, 990]
    assert sum(snapshot.histograms["frame_age_seconds"].counts) == 1050, "buckets count since the start"


@pytest.mark.parametrize(
    ("name", "labels"), [("frames_captred", ("a",)), ("frames_captured", ()), ("acts", ("a",)), ("acts", ())]
)
def test_a_counter_that_is_not_in_the_table_is_refused(name: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="Remedy"):
        Metrics().count(name, 1, *labels)


def test_each_value_has_the_labels_of_the_table() -> None:
    metrics = Metrics()
    metrics.count("notifications_sent", 3, "guards")
    metrics.count("channel_dead_letters", 2, "guards")
    metrics.count("dead_letters")
    metrics.set_gauge("area_occupancy", 4, "hall")
    metrics.set_gauge("zone_occupancy", 5, "plaza", "gate")
    text = metrics_report.render([metrics.snapshot("x", 0.0)], {}, [])
    for line in (
        'crowdperf_notifications_sent_total{process="x",channel="guards"} 3',
        'crowdperf_dead_letters_total{process="x",channel="guards"} 2',
        'crowdperf_dead_letters_total{process="x"} 1',
        'crowdperf_area_occupancy{process="x",area="hall"} 4',
        'crowdperf_zone_occupancy{process="x",camera="plaza",part="gate"} 5',
    ):
        assert line in text.splitlines()


def test_a_histogram_counts_up_to_each_bound() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.02, 99.0):
        metrics.observe("tracking_lag_seconds", seconds)
    lines = metrics_report.render([metrics.snapshot("x", 0.0)], {}, []).splitlines()
    assert "# TYPE crowdperf_tracking_lag_seconds histogram" in lines
    for sample in (
        '_bucket{process="x",le="0.01"} 1',
        '_bucket{process="x",le="0.025"} 2',
        '_bucket{process="x",le="10.0"} 2',
        '_bucket{process="x",le="+Inf"} 3',
        '_count{process="x"} 3',
    ):
        assert f"crowdperf_tracking_lag_seconds{sample}" in lines


def test_a_removed_area_is_forgotten() -> None:
    metrics = Metrics()
    metrics.set_gauge("area_occupancy", 4, "hall")
    metrics.set_gauge("zone_occupancy", 5, "hall", "gate")
    metrics.set_gauge("zone_occupancy", 5, "hall-2", "gate")
    metrics.forget("hall")
    assert metrics.snapshot("x", 0.0).gauges == {"area_occupancy": {}, "zone_occupancy": {"hall-2/gate": 5}}


def test_a_metric_of_another_version_is_left_out() -> None:
    row = {"gone": {"": 3.0}}
    old = ProcessSnapshot(process="x", pid=1, started_at=0, at=0, rss_bytes=0, cpu_s=0, counters=row, gauges=row)
    assert "gone" not in metrics_report.render([old], {}, [])
