"""worker-areas: occupancy of areas over several doors and zones, from the events.

Each area is a partition: instances share the areas, and a door of two areas counts in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.counting.areas import AreaCounter, AreaCounterState
from crowdperf.counting.threshold import ThresholdState
from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import Alert, Event, LineCrossed, PpeObserved, ZoneChanged, ZoneMinute
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.worker_config import AreasConfig
from crowdperf.storage import occupancy
from crowdperf.storage.occupancy import AreaSnapshot
from crowdperf.workers.sharded_consumer import run_worker
from crowdperf.workers.worker_logic import WorkerEvent, WorkerLogic

WORKER = "areas"
VERSION = 2
MAX_ALERT_SCAN = 20_000
"""Newest events among which the open alert is searched, for an area published by a release before 2026-12."""


class StoredArea(Struct, frozen=True, array_like=True):
    """The stored state of one area. It survives a change of the area's settings."""

    version: int
    state: AreaCounterState


class AreaRemoved(Struct, frozen=True):
    """The area has left the configuration."""

    area: str


class AreaLogic(WorkerLogic):
    """The counters of all areas."""

    event_types: tuple[type[Event], ...] = (LineCrossed, ZoneChanged, ZoneMinute)

    def __init__(self, config: AreasConfig) -> None:
        self._config = config
        self.counters: dict[str, AreaCounter] = {}
        self.clear()

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """Return the areas whose doors or zones the event is about."""
        if isinstance(event, PpeObserved):
            return ()
        return tuple(area for area, counter in self.counters.items() if counter.is_relevant(event))

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterator[Struct]:
        """Process one event; yield AreaChanged, Alert and AreaSnapshot."""
        assert not isinstance(event, PpeObserved)
        for area in (partition,) if partition else self.partition_keys(event):
            counter = self.counters[area]
            yield from _append_area_now(counter, counter.update(event))

    def advance_time(self, partition: str, now: float) -> Iterable[Struct]:
        """Run resets that are due and check the limits.

        The rest of a counter's time state follows from the events and the time.
        """
        counter = self.counters.get(partition)
        return () if counter is None else _append_area_now(counter, counter.tick(now))

    def dump_state(self, partition: str) -> bytes:
        counter = self.counters.get(partition)
        # An area that was removed from the configuration keeps nothing; it is forgotten after a while.
        return msgspec.msgpack.encode(StoredArea(VERSION, counter.state if counter else AreaCounterState()))

    def restore(self, partition: str, state: bytes) -> None:
        """Continue from a stored state; ignore an area that is not configured."""
        stored = msgspec.msgpack.decode(state, type=StoredArea)
        if stored.version != VERSION:
            raise ValueError(f"areas of version {stored.version}, not {VERSION}")
        if partition in self.counters:
            self.counters[partition].restore(stored.state)

    def rebuild(self, partition: str, documents: Sequence[Struct]) -> None:
        """Begin with the published state of the area, and with the alert of its limit that is open."""
        counter = self.counters.get(partition)
        for row in documents:
            if counter is not None and isinstance(row, AreaSnapshot) and row.area == partition:
                state = counter.state = AreaCounterState(zones={}, recent=[])
                state.occupancy, state.entries, state.exits = row.occupancy, row.entries, row.exits
                state.since, state.clock = row.since, row.at
                state.last_door, state.last_entered, state.last_at = row.last_door, row.last_entered, row.last_at
                state.limit = ThresholdState(row.alert, row.opened_at, None, row.peak)
            elif counter is not None and isinstance(row, Alert) and row.area == partition and row.state == "opened":
                counter.state.limit = ThresholdState(row.alert, row.opened_at, None, row.value)

    def is_configured(self, partition: str) -> bool:
        return partition in self.counters

    def forget(self, partition: str, now: float) -> Iterable[Struct]:
        """Remove the area from the published ones."""
        return (AreaRemoved(partition),)

    def clear(self) -> None:
        self.counters = {area.id: AreaCounter(area, self._config.timezone) for area in self._config.areas}


def _append_area_now(counter: AreaCounter, events: list[Event]) -> Iterator[Struct]:
    yield from events
    if events:
        yield build_area_now(counter)


def build_area_now(counter: AreaCounter) -> AreaSnapshot:
    """Build the published state of an area."""
    state = counter.state
    return AreaSnapshot(
        area=counter.area.id,
        occupancy=state.occupancy,
        uncertainty=counter.uncertainty,
        entries=state.entries,
        exits=state.exits,
        since=state.since,
        next_reset=state.next_reset if math.isfinite(state.next_reset) else None,
        at=state.clock,
        limit=counter.area.limit,
        over_limit=bool(state.limit.alert),
        last_door=state.last_door,
        last_entered=state.last_entered,
        last_at=state.last_at,
        alert=state.limit.alert,
        opened_at=state.limit.opened_at,
        peak=state.limit.peak,
    )


def stage_effect(pipe: Any, effect: Struct, metrics: Metrics, prefix: str = "") -> None:
    """Publish or remove an area in the transaction that stores its state.

    Args:
        pipe: Redis pipeline of the transaction.
        effect: AreaSnapshot or AreaRemoved; others are ignored.
        metrics: metrics of the process.
        prefix: prefix of every key.
    """
    if isinstance(effect, AreaSnapshot):
        occupancy.stage_area(pipe, effect, prefix)
        metrics.set_gauge("area_occupancy", effect.occupancy, effect.area)
        metrics.set_gauge("area_uncertainty", effect.uncertainty, effect.area)
    elif isinstance(effect, AreaRemoved):
        pipe.hdel(occupancy.areas_key(prefix), effect.area)
        metrics.forget(effect.area)


def load_documents(client: Any, prefix: str = "") -> list[Struct]:
    """Load the published states of the areas, with their open alerts."""
    rows = occupancy.load_areas(client, prefix)
    waiting = {row.area for row in rows if row.over_limit and not row.alert}
    documents: list[Struct] = [*rows]
    entries = client.xrevrange(stream_key(EVENTS, prefix=prefix), count=MAX_ALERT_SCAN) if waiting else ()
    for _, fields in entries:
        event = codec.decode_or_none(EVENTS, fields)
        if isinstance(event, Alert) and event.area in waiting:
            waiting.remove(event.area)
            documents.append(event)
    return documents


def main(config: AreasConfig, runtime: ProcessRuntime) -> None:
    """Run until a stop is requested."""
    client = connect(config.redis_url)

    def stage(pipe: Any, effect: Struct) -> None:
        stage_effect(pipe, effect, runtime.metrics, config.key_prefix)

    def load() -> list[Struct]:
        return load_documents(client, config.key_prefix)

    run_worker(WORKER, AreaLogic(config), config, runtime, client, stage, load_documents=load)
