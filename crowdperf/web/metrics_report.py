"""Prometheus's text format, version 0.0.4, from the snapshots of all processes. Pure.

Rates out of counters: what changed between two snapshots of a process, divided by the time between them.

The state of everything as /debug shows it, put together from snapshots and rings. Pure.

A process counts under these names, per camera (a capture process may leave the camera out, it has only one):
counters `ffmpeg_restarts_total` and `drops_<cause>`; gauges `fps_captured`, `fps_analysed` (else the rates of the
counters `frames_captured`, `frames_analysed`) and `tracking_lag_s`, from capture to tracked frame; texts `state`,
`last_error`, `quality`, `pts_source`, `ffmpeg_stderr`; gauge `backoff_s`; counters `ffmpeg_restarts_<cause>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.settings.camera import Camera
from crowdperf.web.live.pictures import RingState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATE_TEXT = "state"
LABEL_BY_PROCESS = {"worker-notify": "channel", "worker-areas": "area"}
"""Process -> what its values are of, where not of a camera."""

_PROCESS_METRICS: tuple[tuple[str, str, str, Callable[[ProcessSnapshot], float]], ...] = (
    ("process_resident_memory_bytes", "gauge", "Resident memory.", lambda snapshot: snapshot.rss_bytes),
    ("process_cpu_seconds_total", "counter", "User and system time.", lambda snapshot: snapshot.cpu_s),
    ("process_start_time_seconds", "gauge", "Start of the process, Unix time.", lambda snapshot: snapshot.started_at),
    ("snapshot_timestamp_seconds", "gauge", "When these values were published.", lambda snapshot: snapshot.at),
)


class _MetricFamilies:
    """Samples grouped by metric: the format wants all of one metric together, under one HELP and one TYPE."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str, list[str]]] = {}

    def add(self, name: str, kind: str, text: str, labels: Iterable[tuple[str, str]], value: float) -> None:
        full = "crowdperf_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)
        pairs = ",".join(f'{key}="{escape_label(label)}"' for key, label in labels if label)
        family = self._families.setdefault(full, (kind, text, []))
        # The same name as a counter here and a gauge there would be two families of one name, which no scraper takes.
        if family[0] == kind:
            family[2].append(f"{full}{{{pairs}}} {_format_number(value)}")

    def render(self) -> str:
        lines = []
        for name in sorted(self._families):
            kind, text, samples = self._families[name]
            lines += [f"# HELP {name} {_escape_help(text)}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def render(snapshots: list[ProcessSnapshot], cameras_live: dict[str, bool]) -> str:
    """The page.

    Args:
        snapshots: of every process that published one.
        cameras_live: camera id -> whether it gives fresh frames.
    """
    families = _MetricFamilies()
    for camera, live in sorted(cameras_live.items()):
        families.add("camera_live", "gauge", "1 while the camera gives fresh frames.", [("camera", camera)], live)
    for snapshot in sorted(snapshots, key=lambda row: row.process):
        process = [("process", snapshot.process)]
        for name, kind, text, value in _PROCESS_METRICS:
            families.add(name, kind, text, process, value(snapshot))
        for name, row in snapshot.counters.items():
            full = name if name.endswith("_total") else f"{name}_total"
            for camera, number in row.items():
                families.add(
                    full,
                    "counter",
                    _describe_metric(name),
                    [*process, *_build_labels(snapshot.process, camera)],
                    number,
                )
        for name, row in snapshot.gauges.items():
            for camera, number in row.items():
                families.add(
                    name, "gauge", _describe_metric(name), [*process, *_build_labels(snapshot.process, camera)], number
                )
        for camera, state in snapshot.texts.get(STATE_TEXT, {}).items():
            labels = [*process, ("camera", camera), ("state", state)]
            families.add("camera_state", "gauge", "1 for the state that the camera is in.", labels, 1)
    return families.render()


def _build_labels(process: str, text: str) -> list[tuple[str, str]]:
    """A value may be of a camera, or of one of its lines or zones: `camera/zone`; some are of something else."""
    for kind, label in LABEL_BY_PROCESS.items():
        if process == kind or process.startswith(f"{kind}-"):
            return [(label, text)]
    name, _, part = text.partition("/")
    return [("camera", name), ("part", part)]


def escape_label(label: str) -> str:
    """A label's value with backslash, quote and line feed escaped."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _describe_metric(name: str) -> str:
    """A metric's name as a sentence; the exact meaning is in docs/web-server.md."""
    words = name.removesuffix("_total").replace("_", " ")
    return words[:1].upper() + words[1:] + "."


def _format_number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


MIN_RATE_INTERVAL_S = 1.5
"""Two snapshots nearer to each other than this would make a rate of noise."""


class Rates:
    """The snapshots of each process that rates are taken from. Pure: the snapshots carry the time."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[ProcessSnapshot, ProcessSnapshot]] = {}

    def update(self, snapshots: list[ProcessSnapshot]) -> None:
        """Take note of the newest snapshots; processes that are gone are forgotten."""
        pairs: dict[str, tuple[ProcessSnapshot, ProcessSnapshot]] = {}
        for new in snapshots:
            before, last = self._pairs.get(new.process, (new, new))
            if new.pid != last.pid or new.started_at != last.started_at:
                before, last = new, new
            elif new.at - last.at >= MIN_RATE_INTERVAL_S:
                before, last = last, new
            pairs[new.process] = (before, last)
        self._pairs = pairs

    def get_rate(self, snapshot: ProcessSnapshot, name: str, camera: str = "") -> float | None:
        """Increase per second of a counter, since the process's start until there are two snapshots."""
        before, last = self._pairs.get(snapshot.process, (snapshot, snapshot))
        value = last.counters.get(name, {}).get(camera)
        if value is None:
            return None
        if before is last:
            return value / max(MIN_RATE_INTERVAL_S, last.at - last.started_at)
        return max(0.0, value - before.counters.get(name, {}).get(camera, 0.0)) / (last.at - before.at)

    def get_cpu_percent(self, snapshot: ProcessSnapshot) -> float:
        """Share of one core, in percent."""
        before, last = self._pairs.get(snapshot.process, (snapshot, snapshot))
        if before is last:
            return 100 * last.cpu_s / max(MIN_RATE_INTERVAL_S, last.at - last.started_at)
        return 100 * max(0.0, last.cpu_s - before.cpu_s) / (last.at - before.at)


CAPTURE_PREFIX = "capture-"
DROPS_PREFIX = "drops_"
RESTARTS_PREFIX = "ffmpeg_restarts_"


class _CameraMetrics:
    """What all processes say about one camera."""

    def __init__(self, camera: str, snapshots: list[ProcessSnapshot], rates: Rates) -> None:
        self._camera = camera
        self._snapshots = snapshots
        self._rates = rates

    def _find_rows(self, table: str) -> list[tuple[ProcessSnapshot, str, str, Any]]:
        """(snapshot, name, label, value) of everything that concerns the camera."""
        found = []
        for snapshot in self._snapshots:
            own = snapshot.process == CAPTURE_PREFIX + self._camera
            for name, row in getattr(snapshot, table).items():
                for label in (self._camera, "") if own else (self._camera,):
                    if label in row:
                        found.append((snapshot, name, label, row[label]))
                        break
        return found

    def sum_counter(self, name: str) -> float:
        return sum((float(value) for _, found, _, value in self._find_rows("counters") if found == name), 0.0)

    def get_rate(self, name: str) -> float | None:
        rates = [
            self._rates.get_rate(snapshot, name, label)
            for snapshot, found, label, _ in self._find_rows("counters")
            if found == name
        ]
        known = [rate for rate in rates if rate is not None]
        return round(sum(known), 2) if known else None

    def get_fps(self, what: str) -> float | None:
        """The gauge `fps_<what>`, or the rate of the counter `frames_<what>`."""
        known = self.get_gauge(f"fps_{what}")
        return self.get_rate(f"frames_{what}") if known is None else round(known, 2)

    def get_latency_ms(self) -> float | None:
        lag_s = self.get_gauge("tracking_lag_s")
        return None if lag_s is None else round(lag_s * 1000, 1)

    def get_gauge(self, name: str) -> float | None:
        return next((value for _, found, _, value in self._find_rows("gauges") if found == name), None)

    def get_text(self, name: str) -> str:
        return next((value for _, found, _, value in self._find_rows("texts") if found == name and value), "")

    def count_by_cause(self, prefix: str) -> dict[str, int]:
        """Counters `<prefix><cause>`, by cause."""
        causes: dict[str, int] = {}
        for _, name, _, value in self._find_rows("counters"):
            if name.startswith(prefix) and name != prefix + "total":
                cause = name.removeprefix(prefix)
                causes[cause] = causes.get(cause, 0) + int(value)
        return causes


def build_report(
    cameras: tuple[Camera, ...],
    snapshots: list[ProcessSnapshot],
    rates: Rates,
    rings: dict[str, RingState | None],
    live: dict[str, bool],
    now: float,
) -> dict[str, Any]:
    """The body of /debug; `now` in Unix seconds."""
    return {
        "cameras": {
            camera.id: _build_camera_report(
                camera, _CameraMetrics(camera.id, snapshots, rates), rings.get(camera.id), live.get(camera.id)
            )
            for camera in cameras
        },
        "processes": {
            snapshot.process: {
                "pid": snapshot.pid,
                "uptime_s": round(now - snapshot.started_at, 1),
                "rss_bytes": snapshot.rss_bytes,
                "cpu_percent": round(rates.get_cpu_percent(snapshot), 1),
                "snapshot_age_s": round(now - snapshot.at, 1),
                "counters": {name: row[""] for name, row in snapshot.counters.items() if "" in row},
                "gauges": {name: row[""] for name, row in snapshot.gauges.items() if "" in row},
                "texts": {name: row[""] for name, row in snapshot.texts.items() if "" in row},
            }
            for snapshot in sorted(snapshots, key=lambda row: row.process)
        },
    }


def _build_camera_report(
    camera: Camera, metrics: _CameraMetrics, ring: RingState | None, live: bool | None
) -> dict[str, Any]:
    return {
        "name": camera.title,
        "enabled": camera.enabled,
        "live": bool(live),
        "state": metrics.get_text("state") or ("unknown" if camera.enabled else "disabled"),
        "fps_captured": metrics.get_fps("captured"),
        "fps_analysed": metrics.get_fps("analysed"),
        "latency_ms": metrics.get_latency_ms(),
        "drops": metrics.count_by_cause(DROPS_PREFIX),
        "quality": metrics.get_text("quality") or None,
        "pts_source": metrics.get_text("pts_source") or None,
        "ffmpeg_restarts_total": int(metrics.sum_counter("ffmpeg_restarts_total")),
        "ffmpeg_restarts": metrics.count_by_cause(RESTARTS_PREFIX),
        "short_reads_total": int(metrics.sum_counter("short_reads_total")),
        "capture_crashes_total": int(metrics.sum_counter("capture_crashes_total")),
        "glass_to_capture_ms": metrics.get_gauge("glass_to_capture_ms"),
        "backoff_s": round(metrics.get_gauge("backoff_s") or 0.0, 2),
        "last_error": metrics.get_text("last_error"),
        "ffmpeg_stderr": metrics.get_text("ffmpeg_stderr").splitlines(),
        "ring": ring._asdict() if ring else None,
    }
