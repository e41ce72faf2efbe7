"""Count, measure and publish what a process does: counters, gauges and texts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from typing import Any

import psutil
from msgspec import Struct

from crowdperf.common.redaction import redact

PERCENTILES = (50, 95, 99)


MAX_ENTRIES = 10_000
"""Of a registered cache; the newest stay."""


class ProcessSnapshot(Struct, frozen=True, kw_only=True):
    """One process as it is now; published under `crowdperf:metrics:<process>` and rendered by web."""

    process: str
    pid: int
    started_at: float
    """Unix seconds."""
    at: float
    """Unix seconds of this snapshot."""
    rss_bytes: int
    """With its children's, as far as it has told of them; the same for `cpu_s`."""
    cpu_s: float
    """User and system time since the start."""
    counters: dict[str, dict[str, float]] = {}
    """Name -> camera (or empty) -> value since the start."""
    gauges: dict[str, dict[str, float]] = {}
    texts: dict[str, dict[str, str]] = {}


class Metrics:
    """Counters, gauges and texts of this process. Safe from several threads; bounded by the names used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[str, float]] = {}
        self._gauges: dict[str, dict[str, float]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self._children: dict[str, int] = {}

    def set_child(self, name: str, pid: int | None) -> None:
        """What this child uses is this process's own from now on; None: it has ended."""
        with self._lock:
            if pid is None:
                self._children.pop(name, None)
            else:
                self._children[name] = pid

    def count(self, name: str, n: float = 1, camera: str = "") -> None:
        """Add `n` to a counter."""
        with self._lock:
            row = self._counters.setdefault(name, {})
            row[camera] = row.get(camera, 0) + n

    def set_gauge(self, name: str, value: float, camera: str = "") -> None:
        """Set a gauge."""
        with self._lock:
            # A truth value is a number as well, but none in JSON: the whole snapshot would be unreadable.
            self._gauges.setdefault(name, {})[camera] = float(value)

    def set_text(self, name: str, value: str, camera: str = "") -> None:
        """Set a text, credentials of URLs redacted."""
        with self._lock:
            self._texts.setdefault(name, {})[camera] = redact(value)

    def get_counter(self, name: str, camera: str = "") -> float:
        """A counter's value, 0 where it was never counted."""
        with self._lock:
            return self._counters.get(name, {}).get(camera, 0)

    def forget_camera(self, camera: str) -> None:
        """Drop every value of a camera that is gone."""
        with self._lock:
            for table in (self._counters, self._gauges, self._texts):
                for row in table.values():
                    row.pop(camera, None)

    def prune(self, max_entries: int = MAX_ENTRIES) -> int:
        """Keep the newest `most` cameras of every value; returns how many went."""
        with self._lock:
            tables = (self._counters, self._gauges, self._texts)
            return sum(prune_oldest(row, max_entries) for table in tables for row in table.values())

    def snapshot(self, name: str, started_at: float) -> ProcessSnapshot:
        """A consistent copy of everything."""
        process = psutil.Process()
        times = process.cpu_times()
        cpu_s = times.user + times.system + times.children_user + times.children_system
        rss_bytes = process.memory_info().rss
        with self._lock:
            for pid in self._children.values():
                # One that has just ended is in `children_user` already.
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
                gauges={key: dict(row) for key, row in self._gauges.items()},
                texts={key: dict(row) for key, row in self._texts.items()},
            )


class RecentValues:
    """The newest values of something that happens often, for what is usual and what is rare among them."""

    def __init__(self, max_values: int = 1000) -> None:
        self.values: deque[float] = deque(maxlen=max_values)

    def add(self, value: float) -> None:
        """One more; the oldest goes."""
        self.values.append(value)

    def report(self, metrics: Metrics, name: str, unit: str) -> None:
        """Gauges `<name>_p50_<unit>`, `…p95…` and `…p99…`; none before the first value."""
        ordered = sorted(self.values)
        for share in PERCENTILES if ordered else ():
            metrics.set_gauge(f"{name}_p{share}_{unit}", ordered[len(ordered) * share // 100])


def prune_oldest(cache: MutableMapping[Any, Any], max_entries: int = MAX_ENTRIES) -> int:
    """Drop a mapping's oldest entries beyond `most`, in the order in which they came in; returns how many went.

    Safe beside a thread that goes on to use the mapping: each step is one operation of the interpreter.
    """
    excess = list(cache)[: max(0, len(cache) - max_entries)]
    for key in excess:
        cache.pop(key, None)
    return len(excess)
