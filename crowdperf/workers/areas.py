"""Areas: occupancy over several doors and zones, from the events.

Each area is a part of its own (`workers.base`): several instances share the areas, and a door that belongs to two areas
is counted in both, wherever they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.counting.areas import AreaCounter, AreaState
from crowdperf.events.connection import connect
from crowdperf.events.schema import Event, LineCrossed, PpeObserved, ZoneChanged, ZoneMinute
from crowdperf.rule_slices import AreasSlice
from crowdperf.runtime import Metrics, Runtime
from crowdperf.storage import areas
from crowdperf.storage.areas import AreaNow
from crowdperf.workers.base import Member
from crowdperf.workers.leases import Leases
from crowdperf.workers.logic import Taken
from crowdperf.workers.loop import work

WORKER = "areas"
VERSION = 2


class Stored(Struct, frozen=True, array_like=True):
    """What is stored of one area; a changed area keeps its people."""

    version: int
    state: AreaState


class AreaGone(Struct, frozen=True):
    """The area has left the configuration."""

    area: str


class AreaLogic:
    """The counters of all areas."""

    wants: tuple[type[Event], ...] = (LineCrossed, ZoneChanged, ZoneMinute)

    def __init__(self, slice_: AreasSlice) -> None:
        self._slice = slice_
        self.counters: dict[str, AreaCounter] = {}
        self.clear()

    def parts(self, event: Taken) -> tuple[str, ...]:
        """The areas of whose doors or zones the event speaks."""
        if isinstance(event, PpeObserved):
            return ()
        return tuple(area for area, counter in self.counters.items() if counter.wants(event))

    def handle(self, event: Taken, part: str = "") -> Iterator[Struct]:
        """Take one event; yields AreaChanged, Alert, and what people see now."""
        assert not isinstance(event, PpeObserved)
        for area in (part,) if part else self.parts(event):
            counter = self.counters[area]
            yield from _shown(counter, counter.update(event))

    def due(self, part: str, now: float) -> Iterable[Struct]:
        """Resets, and limits that are broken or kept for long enough.

        What else a counter keeps of the time (`clock`, the next reset) follows anew from the events and the time.
        """
        counter = self.counters.get(part)
        return () if counter is None else _shown(counter, counter.tick(now))

    def state(self, part: str) -> bytes:
        """The area's state."""
        return msgspec.msgpack.encode(Stored(VERSION, self.counters[part].state))

    def restore(self, part: str, state: bytes) -> None:
        """Continue there. An area that is no longer configured is none.

        Raises:
            ValueError: another version.
        """
        stored = msgspec.msgpack.decode(state, type=Stored)
        if stored.version != VERSION:
            raise ValueError(f"areas of version {stored.version}, not {VERSION}")
        if part in self.counters:
            self.counters[part].restore(stored.state)

    def keeps(self, part: str) -> bool:
        """Whether the area is configured."""
        return part in self.counters

    def forget(self, part: str, now: float) -> Iterable[Struct]:
        """Nobody is shown it any more."""
        return (AreaGone(part),)

    def clear(self) -> None:
        """Begin every area anew."""
        self.counters = {area.id: AreaCounter(area, self._slice.timezone) for area in self._slice.areas}


def _shown(counter: AreaCounter, made: list[Event]) -> Iterator[Struct]:
    yield from made
    if made:
        yield now_of(counter)


def now_of(counter: AreaCounter) -> AreaNow:
    """The area as people see it."""
    state = counter.state
    return AreaNow(
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
    )


def stage_effect(pipe: Any, effect: Struct, metrics: Metrics, prefix: str = "") -> None:
    """Show an area, or show it no longer, inside the transaction that stores its state."""
    if isinstance(effect, AreaNow):
        areas.stage(pipe, effect, prefix)
        metrics.gauge("area_occupancy", effect.occupancy, effect.area)
        metrics.gauge("area_uncertainty", effect.uncertainty, effect.area)
    elif isinstance(effect, AreaGone):
        areas.stage_gone(pipe, effect.area, prefix)
        metrics.forget(effect.area)


def main(slice_: AreasSlice, runtime: Runtime) -> None:
    """Work until told to stop."""
    client = connect(slice_.redis_url)
    prefix = slice_.key_prefix

    def stage(pipe: Any, effect: Struct) -> None:
        stage_effect(pipe, effect, runtime.metrics, prefix)

    leases = Leases(client, WORKER, slice_.instance, slice_.instances, runtime.name, prefix)
    logic = AreaLogic(slice_)
    member = Member(client, logic, leases, runtime.metrics, time.monotonic, time.time, stage=stage, prefix=prefix)
    work(member, runtime)
    member.stop()
