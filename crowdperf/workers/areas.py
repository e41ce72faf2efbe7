"""Areas: occupancy over several doors and zones, from the events.

What a batch of events changed (state), what it caused (events), what people see and its acknowledgement go to Redis in
ONE MULTI: after a kill the worker begins at the stored state, and the events after it come again.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.counting.areas import AreaCounter, AreaState
from crowdperf.events.bus import Consumer, Entry, Publisher
from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.schema import AnyEvent, Event
from crowdperf.events.streams import EVENTS
from crowdperf.runtime import Runtime
from crowdperf.slices import AreasSlice
from crowdperf.storage import areas
from crowdperf.storage.areas import AreaNow

GROUP = "areas"
VERSION = 1

log = logging.getLogger(__name__)


class Checkpoint(Struct, frozen=True, array_like=True):
    """What is stored: the state of every area by its id, so that a changed area keeps its people."""

    version: int
    areas: dict[str, AreaState]


class Areas:
    """Every area of the site between the events stream and itself."""

    def __init__(self, slice_: AreasSlice, client: Any, name: str) -> None:
        self._client = client
        self._prefix = slice_.key_prefix
        self._consumer: Consumer[AnyEvent] = Consumer(client, EVENTS, GROUP, name, prefix=slice_.key_prefix)
        self._events: Publisher[Event] = Publisher(client, EVENTS, slice_.key_prefix)
        self._slice = slice_
        self.counters: list[AreaCounter] = []

    @property
    def state_key(self) -> str:
        """Where the checkpoint is kept."""
        return f"{self._prefix}crowdperf:state:{GROUP}"

    def start(self) -> None:
        """Begin at the stored state. Call it at start-up and after every outage."""
        self._consumer.start()
        self.counters = [AreaCounter(area, self._slice.timezone) for area in self._slice.areas]
        stored = self._client.get(self.state_key)
        if stored is None:
            return
        try:
            checkpoint = msgspec.msgpack.decode(stored, type=Checkpoint)
        except msgspec.MsgspecError as error:
            log.warning("the stored state of the areas is not usable and begins anew: %s", error)
            return
        for counter in self.counters:
            counter.state = checkpoint.areas.get(counter.area.id, counter.state)
            # The hour may have been changed since; it is reckoned anew from the last reset that took place.
            counter.state.next_reset = math.inf

    def turn(self, now: float, block_ms: int = 2000) -> int:
        """Take what has come and let time pass until `now` (Unix seconds); returns how many events were made.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next turn.
        """
        entries = self._consumer.read(count=256, block_ms=block_ms)
        made = [event for entry in entries for counter in self.counters for event in counter.update(entry.message)]
        made += [event for counter in self.counters for event in counter.tick(now)]
        if entries or made:
            self._commit(entries, made)
        return len(made)

    def _commit(self, entries: list[Entry[AnyEvent]], made: list[Event]) -> None:
        checkpoint = Checkpoint(VERSION, {counter.area.id: counter.state for counter in self.counters})
        with self._client.pipeline(transaction=True) as pipe:
            for event in made:
                self._events.stage(pipe, event)
            if made:
                for counter in self.counters:
                    areas.stage(pipe, shown(counter), self._prefix)
            pipe.set(self.state_key, msgspec.msgpack.encode(checkpoint))
            self._consumer.stage_ack(pipe, entries)
            pipe.execute()


def shown(counter: AreaCounter) -> AreaNow:
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
    )


def main(slice_: AreasSlice, runtime: Runtime) -> None:
    """Count areas until told to stop; an outage of Redis is waited out."""
    own = Areas(slice_, connect(slice_.redis_url), runtime.name)
    backoff = Backoff()
    connected = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not connected:
                own.start()
                connected = True
            runtime.metrics.count("area_events", own.turn(time.time()))
            for counter in own.counters:
                runtime.metrics.gauge("area_occupancy", counter.state.occupancy, counter.area.id)
                runtime.metrics.gauge("area_uncertainty", counter.uncertainty, counter.area.id)
            backoff.reset()
        except OUTAGE as error:
            if backoff.worth_saying:
                log.warning("Redis takes nothing (%s): areas go on from the last stored state when it is back", error)
            connected = False
            runtime.wait(backoff.next())
