"""Run a process: its log, signals, metrics, hang watchdog and the pruning of caches.

There are five kinds of failure. Expected I/O errors are retried in place. A poison message goes to the dead-letter
stream. A background task that fails starts again. A broken invariant is logged and ends the process. A hang is ended by
the watchdog. supervisord restarts the process, and recovery is start-up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import queue
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import psutil

from crowdperf.primitives.redaction import redact
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import TaskGuard, count_thread_crashes, start_thread

HOUSEKEEPING_S = 60.0
MAX_OPEN_FILES = 65_536

log = logging.getLogger(__name__)


class ProcessRuntime:
    """The frame of a main loop: `while not runtime.stopping: runtime.tick(); …`."""

    def __init__(self, name: str, max_silence_s: float) -> None:
        self.name = name
        self.max_silence_s = max_silence_s
        self.metrics = Metrics()
        self.started_at = time.time()
        self._is_stopping = False
        self._stop_notices: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Holds a notice once the process stops. A signal may put one in while this thread waits for one.

        An event's lock is held for a moment of each wait. A signal in that moment would wait for it forever.
        """
        self._wake: Callable[[], None] | None = None
        self._armed_at = float("-inf")
        self._spent_s, self._reported_at = sum(os.times()[:2]), time.monotonic()
        self._caches: dict[str, Callable[[], int]] = {"metrics": self.metrics.prune}
        self._guard = TaskGuard(self.metrics)

    @property
    def stopping(self) -> bool:
        """True once the loop has to end."""
        return self._is_stopping

    def stop(self) -> None:
        """End the loop at its next iteration."""
        self._is_stopping = True
        self._stop_notices.put(None)
        if self._wake is not None:
            self._wake()

    def on_stop(self, wake: Callable[[], None]) -> None:
        """Call `wake` on a stop or a signal, for a loop that does not use `wait_for_stop`."""
        self._wake = wake

    def wait_for_stop(self, seconds: float) -> bool:
        """Sleep until the time is over or the process stops. True: it stops."""
        with contextlib.suppress(queue.Empty):
            # Back again, for the other threads that wait.
            self._stop_notices.put(self._stop_notices.get(timeout=max(0.0, seconds)))
        return self._is_stopping

    def tick(self) -> None:
        """Re-arm the hang watchdog, at most once a second. Only the main loop calls it."""
        now = time.monotonic()
        if self.max_silence_s and now - self._armed_at >= 1.0:
            self._armed_at = now
            faulthandler.dump_traceback_later(self.max_silence_s, exit=True)

    def register_cache(self, name: str, prune: Callable[[], int]) -> None:
        """Call `prune` every 60 s. It cuts the cache to its bound and returns the number of removed entries."""
        self._caches[name] = prune

    def housekeep(self) -> dict[str, int]:
        """Prune every registered cache now. Returns name -> number of removed entries."""
        return {name: self._guard.run(f"prune {name}", prune) or 0 for name, prune in list(self._caches.items())}

    def install(self) -> None:
        """Stop on SIGTERM, SIGINT and SIGHUP, raise the file limit, and start the housekeeping thread."""
        raise_file_limit()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        faulthandler.enable()
        count_thread_crashes(self.metrics)
        start_thread("housekeeping", self._run_housekeeping, self.metrics, self.wait_for_stop)

    def finish(self) -> None:
        """Disarm the watchdog. The orderly end follows."""
        faulthandler.cancel_dump_traceback_later()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stop()

    def _run_housekeeping(self) -> None:
        while not self.wait_for_stop(HOUSEKEEPING_S):
            self.report(time.monotonic())

    def report(self, now: float) -> None:
        """Prune every cache and log processor time and memory since the last call; `now` is monotonic seconds."""
        pruned = self.housekeep()
        spent = sum(os.times()[:2])
        share = (spent - self._spent_s) / max(now - self._reported_at, 1e-9)
        self._spent_s, self._reported_at = spent, now
        rss = psutil.Process().memory_info().rss / 2**20
        counts = " ".join(f"{name}={count}" for name, count in pruned.items()) or "none"
        log.info("[perf] housekeeping cpu=%.1f%% rss=%.0fMiB pruned: %s", 100 * share, rss, counts)


def raise_file_limit() -> None:
    """Raise the number of files that this process may open, as far as the system permits."""
    limit, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if maximum == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, maximum)
    if limit != resource.RLIM_INFINITY and limit < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, maximum))


class _RedactingFormatter(logging.Formatter):
    """Formats the whole record, traceback included, and then removes credentials."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_to_stderr(name: str, level: int = logging.INFO) -> None:
    """Log to stderr, from where supervisord writes and rotates the file."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _RedactingFormatter(f"%(asctime)s.%(msecs)03dZ %(levelname)s {name} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
