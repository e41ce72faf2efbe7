"""Report what the inference process does: counters, gauges and the `[perf]` log line."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from crowdperf.inference.camera_feed import CameraFeed
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.timings import STAGES, StageTimings

GAUGE_INTERVAL_S = 2.0
LOG_INTERVAL_S = 60.0
AVERAGE_WEIGHT = 0.1
"""Weight of the newest batch in the moving averages."""

log = logging.getLogger(__name__)


class InferenceMetrics:
    """Counts of one process and its feeds; times are monotonic seconds."""

    def __init__(self, metrics: Metrics, now: float) -> None:
        self._metrics = metrics
        self._gauges_at = self._line_at = now
        self._analysed = 0
        self._dropped: Counter[str] = Counter()
        self._infer_ms = 0.0
        self._batch_size = 0.0
        self.stages = StageTimings()
        self._frames = 0

    def record_frame(self, feed: CameraFeed, age_s: float = 0.0) -> None:
        """Count a frame whose detections were published `age_s` after its first byte arrived."""
        self._metrics.observe("frame_age_seconds", age_s)
        self._metrics.count("frames_analysed", 1, feed.camera)
        feed.analysed += 1
        self._analysed += 1
        self._frames += 1

    def record_gone(self, feed: CameraFeed) -> None:
        """Count a removed camera's last drops and stop showing its rate; its counters stay."""
        self._count_drops(feed)
        self._metrics.set_gauge("fps_analysed", 0.0, feed.camera)

    def add_timings(self, stages: StageTimings) -> None:
        """Add the times that the backend has measured."""
        for stage, seconds in zip(STAGES, stages.take()):
            self.stages.add(stage, seconds)

    def record_batch(self, size: int, elapsed_s: float) -> None:
        """Record a batch's size and its time, from loading to suppression."""
        first = not self._batch_size
        self._infer_ms += (elapsed_s * 1000 - self._infer_ms) * (1.0 if first else AVERAGE_WEIGHT)
        self._batch_size += (size - self._batch_size) * (1.0 if first else AVERAGE_WEIGHT)

    def report(self, now: float, feeds: Collection[CameraFeed], waiting: int, lost: int) -> None:
        """Count the drops, refresh the gauges every 2 s and log a line every minute.

        Args:
            now: monotonic seconds.
            feeds: of all cameras.
            waiting: messages that wait for Redis.
            lost: messages that were dropped.
        """
        for feed in feeds:
            self._count_drops(feed)
        if now - self._gauges_at >= GAUGE_INTERVAL_S:
            for feed in feeds:
                self._metrics.set_gauge("fps_analysed", feed.analysed / (now - self._gauges_at), feed.camera)
                feed.analysed = 0
                self._report_looks(feed)
            self._gauges_at = now
            self._report_stages()
            for name, value in (("infer_ms", self._infer_ms), ("batch_size", self._batch_size)):
                self._metrics.set_gauge(name, value)
            self._metrics.set_gauge("outbox_waiting", waiting)
            self._metrics.set_gauge("outbox_lost", lost)
        if now - self._line_at >= LOG_INTERVAL_S:
            drops = " ".join(f"{cause}={n}" for cause, n in sorted(self._dropped.items())) or "none"
            log.info(
                "[perf] cameras=%d fps=%.1f infer_ms=%.1f batch=%.1f outbox=%d drops: %s",
                *(len(feeds), self._analysed / (now - self._line_at), self._infer_ms, self._batch_size, waiting, drops),
            )
            self._analysed, self._line_at = 0, now
            self._dropped.clear()

    def _count_drops(self, feed: CameraFeed) -> None:
        for cause, n in feed.drops.items():
            self._metrics.count(f"drops_{cause}", n, feed.camera)
            self._dropped[cause] += n
        feed.drops.clear()

    def _report_looks(self, feed: CameraFeed) -> None:
        """Report how much of its pictures the model has looked at, and why it looked at whole ones."""
        if feed.planner is None:
            self._metrics.set_gauge("look_share", 1.0, feed.camera)
            return
        looks = feed.planner.take_looks()
        if looks.total:
            self._metrics.set_gauge("look_share", looks.area / looks.total, feed.camera)
        for name, value in (
            ("looks_whole", looks.whole),
            ("looks_changed", looks.changed),
            ("look_disagreements", looks.disagreements),
        ):
            self._metrics.count(name, value, feed.camera)

    def _report_stages(self) -> None:
        """Add to the counters of seconds per stage; set the gauges of milliseconds per recent frame."""
        for stage, seconds in zip(STAGES, self.stages.take()):
            self._metrics.count(f"stage_{stage}_s", seconds)
            if self._frames:
                self._metrics.set_gauge(f"stage_{stage}_ms", seconds * 1000 / self._frames)
        self._frames = 0
