"""What the inference process tells about itself: counters, gauges and the `[perf]` line."""

from __future__ import annotations

import logging

from crowdperf.runtime.metrics import Metrics, RecentValues
from crowdperf.runtime.timings import STAGES, StageTimings

GAUGE_INTERVAL_S = 2.0
LOG_INTERVAL_S = 60.0
AVERAGE_WEIGHT = 0.1
"""Of the newest batch in the moving averages."""

log = logging.getLogger(__name__)


class InferenceMetrics:
    """Books of one process; times are seconds on the monotonic clock."""

    def __init__(self, metrics: Metrics, now: float) -> None:
        self._metrics = metrics
        self._gauges_at = self._line_at = now
        self._recent: dict[str, int] = {}
        self._analysed = 0
        self._dropped: dict[str, int] = {}
        self._infer_ms = 0.0
        self._batch_size = 0.0
        self.stages = StageTimings()
        self._frames = 0
        self.ages_ms = RecentValues()
        """Of the newest published frames: from the arrival of the first byte to publication."""

    def record_frame(self, camera: str, age_s: float = 0.0) -> None:
        """One frame's detections were published, `age_s` after its first byte arrived."""
        self.ages_ms.add(age_s * 1000)
        self._metrics.count("frames_analysed", camera=camera)
        self._recent[camera] = self._recent.get(camera, 0) + 1
        self._analysed += 1
        self._frames += 1

    def record_drops(self, drops: dict[tuple[str, str], int]) -> None:
        """Frames by (camera, cause) that were not analysed."""
        for (camera, cause), n in drops.items():
            self._metrics.count(f"drops_{cause}", n, camera)
            self._dropped[cause] = self._dropped.get(cause, 0) + n

    def add_timings(self, stages: StageTimings) -> None:
        """Take over what the runtime has measured of itself."""
        for stage, seconds in zip(STAGES, stages.take()):
            self.stages.add(stage, seconds)

    def record_batch(self, size: int, elapsed_s: float) -> None:
        """One batch took this long, loading and suppression included."""
        first = not self._batch_size
        self._infer_ms += (elapsed_s * 1000 - self._infer_ms) * (1.0 if first else AVERAGE_WEIGHT)
        self._batch_size += (size - self._batch_size) * (1.0 if first else AVERAGE_WEIGHT)

    def forget(self, camera: str) -> None:
        """The camera is gone: its rate is no longer shown (its counters stay, since a restart is no new camera)."""
        self._recent.pop(camera, None)
        self._metrics.set_gauge("fps_analysed", 0.0, camera)

    def report(self, now: float, cameras: list[str], waiting: int, lost: int) -> None:
        """Refresh the gauges every 2 s and log a line every minute.

        Args:
            now: the time.
            cameras: those that are open.
            waiting: messages that wait for Redis.
            lost: messages that were given up.
        """
        if now - self._gauges_at >= GAUGE_INTERVAL_S:
            for camera in cameras:
                rate = self._recent.get(camera, 0) / (now - self._gauges_at)
                self._metrics.set_gauge("fps_analysed", rate, camera)
            self._recent.clear()
            self._gauges_at = now
            self._report_stages()
            self.ages_ms.report(self._metrics, "frame_age", "ms")
            for name, value in (("infer_ms", self._infer_ms), ("batch_size", self._batch_size)):
                self._metrics.set_gauge(name, value)
            self._metrics.set_gauge("outbox_waiting", waiting)
            self._metrics.set_gauge("outbox_lost", lost)
        if now - self._line_at >= LOG_INTERVAL_S:
            drops = " ".join(f"{cause}={n}" for cause, n in sorted(self._dropped.items())) or "none"
            log.info(
                "[perf] cameras=%d fps=%.1f infer_ms=%.1f batch=%.1f outbox=%d drops: %s",
                *(
                    len(cameras),
                    self._analysed / (now - self._line_at),
                    self._infer_ms,
                    self._batch_size,
                    waiting,
                    drops,
                ),
            )
            self._analysed, self._dropped, self._line_at = 0, {}, now

    def _report_stages(self) -> None:
        """Seconds since the start as counters, and milliseconds per frame of late as gauges."""
        spent = self.stages.take()
        for stage, seconds in zip(STAGES, spent):
            self._metrics.count(f"stage_{stage}_s", seconds)
            if self._frames:
                self._metrics.set_gauge(f"stage_{stage}_ms", seconds * 1000 / self._frames)
        self._frames = 0
