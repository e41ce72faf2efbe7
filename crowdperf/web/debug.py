"""The state of everything as /debug shows it, put together from snapshots and rings. Pure.

A process counts under these names, per camera (a capture process may leave the camera out, it has only one):
counters `ffmpeg_restarts_total` and `drops_<cause>`; gauges `fps_captured`, `fps_analysed` (else the rates of the
counters `frames_captured`, `frames_analysed`) and `tracking_lag_s`, from capture to tracked frame; texts `state`,
`last_error`, `quality`, `pts_source`, `ffmpeg_stderr`; gauge `backoff_s`; counters `ffmpeg_restarts_<cause>`.
"""

from __future__ import annotations

from typing import Any

from crowdperf.runtime import Snapshot
from crowdperf.settings.camera import Camera
from crowdperf.web.pictures import RingState
from crowdperf.web.rates import Rates

CAPTURE = "capture-"
DROPS = "drops_"
RESTARTS = "ffmpeg_restarts_"


class _Seen:
    """What all processes say about one camera."""

    def __init__(self, camera: str, snapshots: list[Snapshot], rates: Rates) -> None:
        self._camera = camera
        self._snapshots = snapshots
        self._rates = rates

    def _rows(self, table: str) -> list[tuple[Snapshot, str, str, Any]]:
        """(snapshot, name, label, value) of everything that concerns the camera."""
        found = []
        for snapshot in self._snapshots:
            own = snapshot.process == CAPTURE + self._camera
            for name, row in getattr(snapshot, table).items():
                for label in (self._camera, "") if own else (self._camera,):
                    if label in row:
                        found.append((snapshot, name, label, row[label]))
                        break
        return found

    def total(self, name: str) -> float:
        return sum((float(value) for _, found, _, value in self._rows("counters") if found == name), 0.0)

    def rate(self, name: str) -> float | None:
        rates = [
            self._rates.counter(snapshot, name, label)
            for snapshot, found, label, _ in self._rows("counters")
            if found == name
        ]
        known = [rate for rate in rates if rate is not None]
        return round(sum(known), 2) if known else None

    def fps(self, what: str) -> float | None:
        """The gauge `fps_<what>`, or the rate of the counter `frames_<what>`."""
        known = self.gauge(f"fps_{what}")
        return self.rate(f"frames_{what}") if known is None else round(known, 2)

    def latency_ms(self) -> float | None:
        lag_s = self.gauge("tracking_lag_s")
        return None if lag_s is None else round(lag_s * 1000, 1)

    def gauge(self, name: str) -> float | None:
        return next((value for _, found, _, value in self._rows("gauges") if found == name), None)

    def text(self, name: str) -> str:
        return next((value for _, found, _, value in self._rows("texts") if found == name and value), "")

    def causes(self, prefix: str) -> dict[str, int]:
        """Counters `<prefix><cause>`, by cause."""
        causes: dict[str, int] = {}
        for _, name, _, value in self._rows("counters"):
            if name.startswith(prefix) and name != prefix + "total":
                cause = name.removeprefix(prefix)
                causes[cause] = causes.get(cause, 0) + int(value)
        return causes


def report(
    cameras: tuple[Camera, ...],
    snapshots: list[Snapshot],
    rates: Rates,
    rings: dict[str, RingState | None],
    live: dict[str, bool],
    now: float,
) -> dict[str, Any]:
    """The body of /debug; `now` in Unix seconds."""
    return {
        "cameras": {
            camera.id: _camera(camera, _Seen(camera.id, snapshots, rates), rings.get(camera.id), live.get(camera.id))
            for camera in cameras
        },
        "processes": {
            snapshot.process: {
                "pid": snapshot.pid,
                "uptime_s": round(now - snapshot.started_at, 1),
                "rss_bytes": snapshot.rss_bytes,
                "cpu_percent": round(rates.cpu_percent(snapshot), 1),
                "snapshot_age_s": round(now - snapshot.at, 1),
                "counters": {name: row[""] for name, row in snapshot.counters.items() if "" in row},
                "gauges": {name: row[""] for name, row in snapshot.gauges.items() if "" in row},
                "texts": {name: row[""] for name, row in snapshot.texts.items() if "" in row},
            }
            for snapshot in sorted(snapshots, key=lambda row: row.process)
        },
    }


def _camera(camera: Camera, seen: _Seen, ring: RingState | None, live: bool | None) -> dict[str, Any]:
    return {
        "name": camera.title,
        "enabled": camera.enabled,
        "live": bool(live),
        "state": seen.text("state") or ("unknown" if camera.enabled else "disabled"),
        "fps_captured": seen.fps("captured"),
        "fps_analysed": seen.fps("analysed"),
        "latency_ms": seen.latency_ms(),
        "drops": seen.causes(DROPS),
        "quality": seen.text("quality") or None,
        "pts_source": seen.text("pts_source") or None,
        "ffmpeg_restarts_total": int(seen.total("ffmpeg_restarts_total")),
        "ffmpeg_restarts": seen.causes(RESTARTS),
        "short_reads_total": int(seen.total("short_reads_total")),
        "capture_crashes_total": int(seen.total("capture_crashes_total")),
        "glass_to_capture_ms": seen.gauge("glass_to_capture_ms"),
        "backoff_s": round(seen.gauge("backoff_s") or 0.0, 2),
        "last_error": seen.text("last_error"),
        "ffmpeg_stderr": seen.text("ffmpeg_stderr").splitlines(),
        "ring": ring._asdict() if ring else None,
    }
