"""Rates of the processes' counters, and expected and measured rates of the streams.

Both are measured between two looks, since processes and Redis only count up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct

from crowdperf.messaging.consumer import is_stream_lost
from crowdperf.messaging.streams import STREAMS, RateState, compute_rate_bounds, stream_key
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.settings.process_config import WebConfig

MIN_RATE_INTERVAL_S = 1.5
"""Two snapshots that are closer give only noise."""
MIN_LOOK_INTERVAL_S = 5.0
"""Within a shorter time, a camera that pauses around its key frames would look slow."""


class Rates:
    """Compute rates from the two newest snapshots of each process. The snapshots carry the time."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[ProcessSnapshot, ProcessSnapshot]] = {}

    def update(self, snapshots: list[ProcessSnapshot]) -> None:
        """Take over the newest snapshots, and forget processes that have ended."""
        pairs: dict[str, tuple[ProcessSnapshot, ProcessSnapshot]] = {}
        for new in snapshots:
            before, last = self._pairs.get(new.process, (new, new))
            if new.pid != last.pid or new.started_at != last.started_at:
                before, last = new, new
            elif new.at - last.at >= MIN_RATE_INTERVAL_S:
                before, last = last, new
            pairs[new.process] = (before, last)
        self._pairs = pairs

    def get_rate(self, snapshot: ProcessSnapshot, name: str, *labels: str) -> float | None:
        """Compute the increase of a counter per second.

        Args:
            snapshot: The newest snapshot of the process.
            name: Name of the counter.
            labels: Values of its labels.

        Returns:
            Per second between the two newest snapshots, or since the start while there is one. None: never counted.
        """
        _, last = self._get_pair(snapshot)
        if last.get_counter(name, *labels) is None:
            return None
        return self._measure(snapshot, lambda row: row.get_counter(name, *labels) or 0.0)

    def get_cpu_percent(self, snapshot: ProcessSnapshot) -> float:
        """Return the processor time of a process in percent of one core."""
        return 100 * self._measure(snapshot, lambda row: row.cpu_s)

    def _get_pair(self, snapshot: ProcessSnapshot) -> tuple[ProcessSnapshot, ProcessSnapshot]:
        return self._pairs.get(snapshot.process, (snapshot, snapshot))

    def _measure(self, snapshot: ProcessSnapshot, read: Callable[[ProcessSnapshot], float]) -> float:
        before, last = self._get_pair(snapshot)
        if before is last:
            return read(last) / max(MIN_RATE_INTERVAL_S, last.at - last.started_at)
        return max(0.0, read(last) - read(before)) / (last.at - before.at)


class StreamRate(Struct, frozen=True, kw_only=True):
    """Expected and measured messages per second of one stream."""

    stream: str
    camera: str
    """Empty for a stream of the whole site."""
    minimum: float
    maximum: float
    measured: float | None
    """None before the second look, or where Redis does not count added entries (before version 7)."""
    state: RateState


class _Look(NamedTuple):
    at: float
    added: dict[str, int | None]
    """Key -> entries added since the stream exists."""


class StreamRateMonitor:
    """Measure the streams of one site between looks that are at least five seconds apart."""

    def __init__(self) -> None:
        self._before = self._last = _Look(float("-inf"), {})

    async def measure(self, client: Any, config: WebConfig) -> list[StreamRate]:
        """Look at every stream, and compare its rate with the expected one.

        Args:
            client: Asynchronous Redis client.
            config: Configuration of the site.

        Returns:
            One row per stream, and one per enabled camera where each camera has its own stream.
        """
        every = config.analysis_rates
        streams = [(stream, camera) for stream in STREAMS for camera in (every if "{camera}" in stream.key else ("",))]
        keys = [stream_key(stream, camera, config.key_prefix) for stream, camera in streams]
        await self._look(client, keys)
        rates = []
        for (stream, camera), key in zip(streams, keys):
            bounds = compute_rate_bounds(stream, [every[camera]] if camera else every.values())
            before, last = self._before.added.get(key), self._last.added.get(key)
            measured: float | None = None
            state: RateState = "unknown"
            # A lower number: the stream was deleted and created again.
            if before is not None and last is not None and last >= before:
                seconds = self._last.at - self._before.at
                measured = round((last - before) / seconds, 3)
                state = bounds.judge(last - before, seconds)
            rates.append(
                StreamRate(stream=stream.name, camera=camera, **bounds._asdict(), measured=measured, state=state)
            )
        return rates

    async def _look(self, client: Any, keys: list[str]) -> None:
        if time.monotonic() - self._last.at < MIN_LOOK_INTERVAL_S:
            return
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.xinfo_stream(key)
        replies = await pipe.execute(raise_on_error=False)
        now = time.monotonic()
        # Another request may have looked in the meantime.
        if now - self._last.at >= MIN_LOOK_INTERVAL_S:
            self._before, self._last = self._last, _Look(now, dict(zip(keys, map(_get_entries_added, replies))))


def _get_entries_added(reply: Any) -> int | None:
    if isinstance(reply, dict):
        return reply.get("entries-added")
    return 0 if is_stream_lost(reply) else None
