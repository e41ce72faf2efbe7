"""The state of everything as /debug shows it, put together from snapshots and rings. Pure.

A process counts under these names, per camera (a capture process may leave the camera out, it has only one):
counters `ffmpeg_restarts_total` and `drops_<cause>`; gauges `fps_captured`, `fps_analysed` (else the rates of the
counters `frames_captured`, `frames_analysed`) and `tracking_lag_s`, from capture to tracked frame; texts `state`,
`last_error`, `quality`, `pts_source`, `ffmpeg_stderr`; gauge `backoff_s`; counters `ffmpeg_restarts_<cause>`.
"""

from __future__ import annotations

from typing import Any

from crowdperf.runtime import ProcessSnapshot
from crowdperf.settings.camera import Camera
from crowdperf.web.pictures import RingState
from crowdperf.web.rates import Rates

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
