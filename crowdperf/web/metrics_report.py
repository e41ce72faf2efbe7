"""Build /metrics and /debug from the snapshots of all processes, by the table of metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from crowdperf.runtime.metrics import HistogramSnapshot, ProcessSnapshot
from crowdperf.runtime.metrics_table import BUCKETS_S, DROP_CAUSES, METRICS, RESTART_CAUSES, Kind, MetricSpec
from crowdperf.settings.camera import Camera
from crowdperf.web.live.pictures import RingState
from crowdperf.web.rates import Rates, StreamRate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Iterable[tuple[str, str]]


class _MetricFamilies:
    """Samples grouped by metric: the format wants each metric in one block, after its HELP and TYPE."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[MetricSpec, list[str]]] = {}

    def add(self, kind: Kind, name: str, labels: Labels, value: float) -> None:
        spec = METRICS[kind, name]
        self._add_sample(spec, spec.exported_name, labels, value)

    def add_rows(self, kind: Kind, table: dict[str, dict[str, float]], process: Labels) -> None:
        """Add all values of a kind, without metrics of another version of the program.

        Args:
            kind: The kind.
            table: Name -> key -> value.
            process: The label of the process.
        """
        for name, row in table.items():
            spec = METRICS.get((kind, name))
            if spec is None:
                continue
            for key, value in row.items():
                self._add_sample(spec, spec.exported_name, [*process, *spec.split_key(key)], value)

    def add_histogram(self, name: str, labels: Labels, histogram: HistogramSnapshot) -> None:
        spec = METRICS.get(("histogram", name))
        if spec is None or len(histogram.counts) != len(BUCKETS_S) + 1:
            return
        sums = list(accumulate(histogram.counts))
        for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], sums):
            self._add_sample(spec, f"{spec.exported_name}_bucket", [*labels, ("le", bound)], count)
        self._add_sample(spec, f"{spec.exported_name}_sum", labels, histogram.sum)
        self._add_sample(spec, f"{spec.exported_name}_count", labels, sums[-1])

    def _add_sample(self, spec: MetricSpec, name: str, labels: Labels, value: float) -> None:
        pairs = ",".join(f'{label}="{escape_label(text)}"' for label, text in labels)
        _, samples = self._families.setdefault(spec.exported_name, (spec, []))
        samples.append(f"{name}{{{pairs}}} {_format_number(value)}")

    def render(self) -> str:
        lines = []
        for name in sorted(self._families):
            spec, samples = self._families[name]
            lines += [f"# HELP {name} {spec.help}", f"# TYPE {name} {spec.kind}", *samples]
        return "\n".join(lines) + "\n"


def render(snapshots: list[ProcessSnapshot], cameras_live: dict[str, bool], stream_rates: list[StreamRate]) -> str:
    """Render /metrics in Prometheus's text format 0.0.4.

    Args:
        snapshots: The newest snapshot of every process.
        cameras_live: Camera id -> whether it gives fresh frames.
        stream_rates: Expected and measured rates of the streams.

    Returns:
        The page.
    """
    families = _MetricFamilies()
    for row in stream_rates:
        labels = [pair for pair in (("stream", row.stream), ("camera", row.camera)) if pair[1]]
        families.add("gauge", "stream_rate_minimum", labels, row.minimum)
        families.add("gauge", "stream_rate_maximum", labels, row.maximum)
        if row.measured is not None:
            families.add("gauge", "stream_rate", labels, row.measured)
            families.add("gauge", "stream_rate_ok", labels, row.state == "ok")
    for camera, live in sorted(cameras_live.items()):
        families.add("gauge", "camera_live", [("camera", camera)], live)
    for snapshot in sorted(snapshots, key=lambda row: row.process):
        process = [("process", snapshot.process)]
        families.add("gauge", "process_resident_memory_bytes", process, snapshot.rss_bytes)
        families.add("counter", "process_cpu_seconds_total", process, snapshot.cpu_s)
        families.add("gauge", "process_start_time_seconds", process, snapshot.started_at)
        families.add("gauge", "snapshot_timestamp_seconds", process, snapshot.at)
        families.add_rows("counter", snapshot.counters, process)
        families.add_rows("gauge", snapshot.gauges, process)
        for name, histogram in snapshot.histograms.items():
            families.add_histogram(name, process, histogram)
        for camera, state in snapshot.texts.get("state", {}).items():
            families.add("gauge", "camera_state", [*process, ("camera", camera), ("state", state)], 1)
    return families.render()


def escape_label(text: str) -> str:
    """Escape backslash, quote and line feed in a label's value."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _format_number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


class _CameraMetrics:
    """The values of one camera, from all processes."""

    def __init__(self, camera: str, snapshots: list[ProcessSnapshot], rates: Rates) -> None:
        self._camera = camera
        self._snapshots = snapshots
        self._rates = rates

    def sum_counter(self, name: str) -> int:
        return int(sum(snapshot.get_counter(name, self._camera) or 0.0 for snapshot in self._snapshots))

    def get_fps(self, stage: str) -> float | None:
        """Return the gauge `fps_<stage>`, or the rate of the counter `frames_<stage>`."""
        fps = self.get_gauge(f"fps_{stage}")
        if fps is not None:
            return round(fps, 2)
        rates = [self._rates.get_rate(snapshot, f"frames_{stage}", self._camera) for snapshot in self._snapshots]
        known = [rate for rate in rates if rate is not None]
        return round(sum(known), 2) if known else None

    def get_gauge(self, name: str) -> float | None:
        values = (snapshot.get_gauge(name, self._camera) for snapshot in self._snapshots)
        return next((value for value in values if value is not None), None)

    def get_text(self, name: str) -> str:
        return next(filter(None, (snapshot.get_text(name, self._camera) for snapshot in self._snapshots)), "")

    def count_by_cause(self, prefix: str, causes: Iterable[str]) -> dict[str, int]:
        """Return the counters `<prefix><cause>` by cause, without those that were never counted."""
        counted = {
            name for snapshot in self._snapshots for name, row in snapshot.counters.items() if self._camera in row
        }
        return {cause: self.sum_counter(prefix + cause) for cause in causes if prefix + cause in counted}


def build_process_report(snapshot: ProcessSnapshot, rates: Rates, now: float) -> dict[str, Any]:
    """Build the part of /debug about one process.

    Args:
        snapshot: The newest snapshot of the process.
        rates: Rates of the counters.
        now: Unix seconds.

    Returns:
        The part, ready for JSON; values with a label are left out.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = {
        "counters": snapshot.counters,
        "gauges": snapshot.gauges,
        "texts": snapshot.texts,
    }
    return {
        "pid": snapshot.pid,
        "uptime_s": round(now - snapshot.started_at, 1),
        "rss_bytes": snapshot.rss_bytes,
        "cpu_percent": round(rates.get_cpu_percent(snapshot), 1),
        "snapshot_age_s": round(now - snapshot.at, 1),
        **{kind: {name: row[""] for name, row in table.items() if "" in row} for kind, table in tables.items()},
    }


def build_camera_report(
    camera: Camera, snapshots: list[ProcessSnapshot], rates: Rates, live: bool, ring: RingState | None
) -> dict[str, Any]:
    """Build the part of /debug about one camera.

    Args:
        camera: The camera.
        snapshots: The newest snapshot of every process.
        rates: Rates of their counters.
        live: Whether it gives fresh frames.
        ring: State of its ring; None: there is none.

    Returns:
        The part, ready for JSON.
    """
    metrics = _CameraMetrics(camera.id, snapshots, rates)
    lag_s = metrics.get_gauge("tracking_lag_s")
    return {
        "name": camera.title,
        "enabled": camera.enabled,
        "live": live,
        "state": metrics.get_text("state") or ("unknown" if camera.enabled else "disabled"),
        "fps_captured": metrics.get_fps("captured"),
        "fps_analysed": metrics.get_fps("analysed"),
        "look_share": metrics.get_gauge("look_share"),
        "looks": {
            "whole": metrics.sum_counter("looks_whole"),
            "changed": metrics.sum_counter("looks_changed"),
            "disagreements": metrics.sum_counter("look_disagreements"),
        },
        "latency_ms": None if lag_s is None else round(lag_s * 1000, 1),
        "drops": metrics.count_by_cause("drops_", DROP_CAUSES),
        "quality": metrics.get_text("quality") or None,
        "pts_source": metrics.get_text("pts_source") or None,
        "ffmpeg_restarts_total": metrics.sum_counter("ffmpeg_restarts_total"),
        "ffmpeg_restarts": metrics.count_by_cause("ffmpeg_restarts_", RESTART_CAUSES),
        "short_reads_total": metrics.sum_counter("short_reads_total"),
        "capture_crashes_total": metrics.sum_counter("capture_crashes_total"),
        "glass_to_capture_ms": metrics.get_gauge("glass_to_capture_ms"),
        "backoff_s": round(metrics.get_gauge("backoff_s") or 0.0, 2),
        "last_error": metrics.get_text("last_error"),
        "ffmpeg_stderr": metrics.get_text("ffmpeg_stderr").splitlines(),
        "ring": ring._asdict() if ring else None,
    }
