"""Rates out of counters: what changed between two snapshots of a process, divided by the time between them."""

from __future__ import annotations

from crowdperf.runtime import ProcessSnapshot

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
