"""What every process does besides its work: signals, logging, metrics, hang watchdog, housekeeping of caches.

Four kinds of trouble, four treatments: expected I/O is retried where it happens; a poison message goes to the
dead-letter stream; a broken invariant is logged and ends the process; a hang is ended by the watchdog here. supervisord
restarts what has ended, and recovery is start-up.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, MutableMapping
from types import FrameType
from typing import Any

import psutil

from crowdperf.runtime.metrics import MAX_ENTRIES, Metrics, prune_oldest

HOUSEKEEPING_S = 60.0

log = logging.getLogger(__name__)


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
