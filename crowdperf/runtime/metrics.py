"""Record what a process does in counters, gauges, texts and histograms of `metrics_table`."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import MutableMapping
from typing import Any

import psutil
from msgspec import Struct

from crowdperf.primitives.redaction import redact
from crowdperf.runtime.metrics_table import BUCKETS_S, PERCENTILES, check_metric, get_first_label

MAX_ENTRIES = 10_000
"""Entries of a registered cache that stay, the newest."""
MAX_RECENT = 1000
"""Newest values of a histogram from which its percentiles are computed."""


class HistogramSnapshot(Struct, frozen=True, array_like=True):
    """A histogram since the start of its process."""

    counts: list[int]
    """Values per bucket of `BUCKETS_S`, then those above."""
    sum: float


class ProcessSnapshot(Struct, frozen=True, kw_only=True):
    """One process as it is now; published under `crowdperf:metrics:<process>` and rendered by web."""

    process: str
    pid: int
    started_at: float
    """Unix seconds."""
    at: float
    """Unix seconds of this snapshot."""
    rss_bytes: int
    """Resident memory, registered children included; the same for `cpu_s`."""
    cpu_s: float
    """User and system time since the start."""
    counters: dict[str, dict[str, float]] = {}
    """Name -> values of the labels, joined by `/` -> value since the start."""
    gauges: dict[str, dict[str, float]] = {}
    texts: dict[str, dict[str, str]] = {}
    histograms: dict[str, HistogramSnapshot] = {}

    def get_counter(self, name: str, *labels: str) -> float | None:
        """Return a counter; None: it was never counted."""
        return self.counters.get(name, {}).get(check_metric("counter", name, labels))

    def get_gauge(self, name: str, *labels: str) -> float | None:
        """Return a gauge; None: it was never set."""
        return self.gauges.get(name, {}).get(check_metric("gauge", name, labels))

    def get_text(self, name: str, *labels: str) -> str:
        """Return a text; it is empty where it was never set."""
        return self.texts.get(name, {}).get(check_metric("text", name, labels), "")


class _Histogram:
    """Counts per bucket since the start, and the newest values."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0
        self.recent: deque[float] = deque(maxlen=MAX_RECENT)


class Metrics:
    """Metrics of this process. Safe from several threads, bounded by the names and labels in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[str, float]] = {}
        self._gauges: dict[str, dict[str, float]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self._histograms: dict[str, _Histogram] = {}
        self._children: dict[str, int] = {}

    def set_child(self, name: str, pid: int | None) -> None:
        """Add what a child process uses to this process's own use; None: the child has ended."""
        with self._lock:
            if pid is None:
                self._children.pop(name, None)
            else:
                self._children[name] = pid

    def count(self, name: str, n: float = 1, *labels: str) -> None:
        """Add `n` to a counter of the table."""
        key = check_metric("counter", name, labels)
        with self._lock:
            row = self._counters.setdefault(name, {})
            row[key] = row.get(key, 0) + n

    def set_gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge of the table, in its unit."""
        key = check_metric("gauge", name, labels)
        with self._lock:
            # JSON writes True for a bool, which is no number for the reader of the snapshot.
            self._gauges.setdefault(name, {})[key] = float(value)

    def set_text(self, name: str, value: str, *labels: str) -> None:
        """Set a text of the table, with credentials of URLs redacted."""
        key = check_metric("text", name, labels)
        with self._lock:
            self._texts.setdefault(name, {})[key] = redact(value)

    def observe(self, name: str, seconds: float) -> None:
        """Add a value to a histogram of the table."""
        check_metric("histogram", name)
        with self._lock:
            histogram = self._histograms.setdefault(name, _Histogram())
            histogram.counts[bisect_left(BUCKETS_S, seconds)] += 1
            histogram.sum += seconds
            histogram.recent.append(seconds)

    def get_counter(self, name: str, *labels: str) -> float:
        """Return a counter's value, 0 where it was never counted."""
        key = check_metric("counter", name, labels)
        with self._lock:
            return self._counters.get(name, {}).get(key, 0)

    def get_recent(self, name: str) -> list[float]:
        """Return the newest values of a histogram, in seconds, oldest first."""
        check_metric("histogram", name)
        with self._lock:
            return list(self._histograms[name].recent) if name in self._histograms else []

    def forget(self, label: str) -> None:
        """Drop every value whose first label has this value: a camera or area that was removed."""
        with self._lock:
            for table in (self._counters, self._gauges, self._texts):
                for row in table.values():
                    for key in [key for key in row if get_first_label(key) == label]:
                        del row[key]

    def prune(self, max_entries: int = MAX_ENTRIES) -> int:
        """Keep the newest `max_entries` label values of every metric; return the number of removed ones."""
        with self._lock:
            tables = (self._counters, self._gauges, self._texts)
            return sum(prune_oldest(row, max_entries) for table in tables for row in table.values())

    def snapshot(self, name: str, started_at: float) -> ProcessSnapshot:
        """Copy everything consistently; `started_at` in Unix seconds."""
        process = psutil.Process()
        times = process.cpu_times()
        cpu_s = times.user + times.system + times.children_user + times.children_system
        rss_bytes = process.memory_info().rss
        with self._lock:
            for pid in self._children.values():
                # The time of a child that has just ended is in `children_user` already.
                with contextlib.suppress(psutil.NoSuchProcess):
                    child = psutil.Process(pid)
                    spent, resident = child.cpu_times(), child.memory_info().rss
                    cpu_s += spent.user + spent.system
                    rss_bytes += resident
            return ProcessSnapshot(
                process=name,
                pid=process.pid,
                started_at=started_at,
                at=time.time(),
                rss_bytes=rss_bytes,
                cpu_s=cpu_s,
                counters={key: dict(row) for key, row in self._counters.items()},
                gauges={key: dict(row) for key, row in self._gauges.items()} | self._compute_percentiles(),
                texts={key: dict(row) for key, row in self._texts.items()},
                histograms={key: HistogramSnapshot(list(row.counts), row.sum) for key, row in self._histograms.items()},
            )

    def _compute_percentiles(self) -> dict[str, dict[str, float]]:
        """Compute the gauges `<name>_p<percentile>_ms` of every histogram `<name>_seconds`."""
        gauges = {}
        for name, histogram in self._histograms.items():
            ordered = sorted(histogram.recent)
            for percentile in PERCENTILES:
                value = ordered[len(ordered) * percentile // 100]
                gauges[f"{name.removesuffix('_seconds')}_p{percentile}_ms"] = {"": value * 1000}
        return gauges


def prune_oldest(cache: MutableMapping[Any, Any], max_entries: int = MAX_ENTRIES) -> int:
    """Drop the oldest entries of a mapping beyond `max_entries`; return the number of removed ones.

    Another thread may go on using the mapping: each step is one operation of the interpreter.
    """
    excess = list(cache)[: max(0, len(cache) - max_entries)]
    for key in excess:
        cache.pop(key, None)
    return len(excess)
