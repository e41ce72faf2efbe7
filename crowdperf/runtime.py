"""What every process does besides its work: signals, logging, metrics, hang watchdog, housekeeping of caches.

Four kinds of trouble, four treatments: expected I/O is retried where it happens; a poison message goes to the
dead-letter stream; a broken invariant is logged and ends the process; a hang is ended by the watchdog here. supervisord
restarts what has ended, and recovery is start-up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from types import FrameType
from typing import Any

import psutil
from msgspec import Struct

HOUSEKEEPING_S = 60.0
PERCENTILES = (50, 95, 99)
MAX_ENTRIES = 10_000
"""Of a registered cache; the newest stay."""
CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")

log = logging.getLogger(__name__)


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


def redact(text: str) -> str:
    """`text` with the user and password of every URL replaced by `***`: the one door for logs and error texts."""
    return CREDENTIALS.sub("***@", text)


class _RedactingFormatter(logging.Formatter):
    """Formats the whole record, traceback included, and only then removes credentials."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_to_stderr(name: str, level: int = logging.INFO) -> None:
    """Send this process's log to stderr, where supervisord rotates it."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _RedactingFormatter(f"%(asctime)s.%(msecs)03dZ %(levelname)s {name} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


class ProcessRuntime:
    """The loop's frame: `while not runtime.stopping: runtime.tick(); …`."""

    def __init__(self, name: str, max_silence_s: float) -> None:
        self.name = name
        self.max_silence_s = max_silence_s
        self.metrics = Metrics()
        self.started_at = time.time()
        self._stop = threading.Event()
        self._wake: Callable[[], None] | None = None
        self._armed_at = float("-inf")
        self._spent_s, self._reported_at = sum(os.times()[:2]), time.monotonic()
        self._caches: dict[str, Callable[[], int]] = {"metrics": self.metrics.prune}

    @property
    def stopping(self) -> bool:
        """Whether the loop should end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the loop at its next turn."""
        self._stop.set()
        if self._wake is not None:
            self._wake()

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Have `wake` called by `stop` and by a signal: for a loop that waits for something else than `wait`."""
        self._wake = wake

    def wait_for_stop(self, seconds: float) -> bool:
        """Sleep unless told to stop; True when stopping."""
        return self._stop.wait(seconds)

    def tick(self) -> None:
        """Re-arm the hang watchdog, at most once a second. The working loop itself calls it, never a helper thread."""
        now = time.monotonic()
        if self.max_silence_s and now - self._armed_at >= 1.0:
            self._armed_at = now
            faulthandler.dump_traceback_later(self.max_silence_s, exit=True)

    def register_cache(self, name: str, prune: Callable[[], int]) -> None:
        """Have `prune` called every 60 s; it cuts the cache to its bound and returns how many entries went."""
        self._caches[name] = prune

    def limit_cache(self, name: str, cache: MutableMapping[Any, Any], max_entries: int = MAX_ENTRIES) -> None:
        """Register a mapping that may grow: every 60 s its oldest entries beyond `most` go."""
        self.register_cache(name, lambda: prune_oldest(cache, max_entries))

    def housekeep(self) -> dict[str, int]:
        """Prune every registered cache now: name -> entries that went."""
        return {name: prune() for name, prune in list(self._caches.items())}

    def install(self) -> None:
        """Take SIGTERM, SIGINT and SIGHUP as a wish to stop, and start the housekeeping thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        faulthandler.enable()
        threading.Thread(target=self._run_housekeeping, name="housekeeping", daemon=True).start()

    def finish(self) -> None:
        """Disarm the watchdog: what follows is the orderly end."""
        faulthandler.cancel_dump_traceback_later()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stop()

    def _run_housekeeping(self) -> None:
        while not self._stop.wait(HOUSEKEEPING_S):
            self.report(time.monotonic())

    def report(self, now: float) -> None:
        """Prune every cache, and write what this process has used since the last time; `now` is monotonic, in seconds.

        Every process does it each minute, in a thread of its own: a log says what its process costs.
        """
        pruned = self.housekeep()
        spent = sum(os.times()[:2])
        share = (spent - self._spent_s) / max(now - self._reported_at, 1e-9)
        self._spent_s, self._reported_at = spent, now
        rss = psutil.Process().memory_info().rss / 2**20
        counts = " ".join(f"{name}={count}" for name, count in pruned.items()) or "none"
        log.info("[perf] housekeeping cpu=%.1f%% rss=%.0fMiB pruned: %s", 100 * share, rss, counts)
