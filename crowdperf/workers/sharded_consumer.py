"""Run a rule worker: pure logic per camera, and the plumbing that hands it each event exactly once.

A worker is a `WorkerLogic` (no I/O, no clock): `list(logic.handle(event))` are its effects. `ShardedConsumer` is one of
its instances. A stable hash splits the cameras over the instances, so that one camera's events meet one state; a plain
consumer group would split one track's observations over several processes. A camera's state, its effects and the
position go to Redis in ONE MULTI, which holds only while this instance still owns the shard. So two instances give the
same history as one, and kill -9 at any point changes nothing.

Each shard of the cameras has a lease. An instance that is silent for LEASE_S loses it to a sibling, and gets it back on
request. `docs/workers.md` draws it. A partition is mostly a camera; it may also be an area or all visits.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import redis
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.codec import PoisonError, is_addressed_to
from crowdperf.messaging.consumer import MAX_DELIVERIES, STREAM_START, PositionConsumer, RawEntry, parse_entry_id
from crowdperf.messaging.outages import run_until_stopped
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import BLOCK_MS, OUTAGE, AnyClient
from crowdperf.messaging.schema import Event
from crowdperf.messaging.streams import EVENTS, Stream, stream_key
from crowdperf.primitives.digest import compute_digest
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import get_shard
from crowdperf.settings.worker_config import ShardedConfig
from crowdperf.storage.steady_clock import RuleClock
from crowdperf.workers import clock_leaps
from crowdperf.workers.leases import Leases
from crowdperf.workers.state_loader import StateLoader
from crowdperf.workers.worker_logic import PartitionState, WorkerCheckpoint, WorkerEvent, WorkerLogic, state_key

BATCH_SIZE = 256
TIMER_INTERVAL_S = 0.5
"""Time between two calls of time-driven rules."""
POSITION_INTERVAL_S = 1.0
"""Time after which a moved position is stored without any effect, so that the stream can be trimmed."""
MAX_RECENT_IDS = 256
"""Event ids remembered per partition; an event that comes again within them is the same event."""
FORGET_AFTER_S = 600.0
"""A partition that is no longer configured is forgotten this long after its last event."""
SINGLE_STEP_AFTER = 2
"""A batch that ended the process this often is handled event by event, to find the one that does it."""
IDLE_S = 0.2
"""Pause of an instance that owns no shard."""
log = logging.getLogger(__name__)


def reject_effect(pipe: Any, effect: Struct) -> None:
    """Refuse effects that are not events; most workers have none."""
    raise TypeError(f"{type(effect).__name__} is no event")


class ShardedConsumer:
    """One instance of a worker.

    Args:
        client: a redis-py client.
        logic: the worker's rules.
        leases: the leases of the shards, as this instance sees them.
        metrics: receives the figures.
        clock: monotonic clock, seconds.
        wall: the accepted time, Unix seconds.
        stage: adds an effect that is not an event to a transaction.
        prefix: the configured prefix of every key.
        input_stream: the stream that is read.
        load_documents: loads what `WorkerLogic.rebuild` needs.
    """

    def __init__(
        self,
        client: redis.Redis,
        logic: WorkerLogic,
        leases: Leases,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
        stage: Callable[[Any, Struct], None] = reject_effect,
        prefix: str = "",
        input_stream: Stream = EVENTS,
        load_documents: Callable[[], Iterable[Struct]] = lambda: (),
    ) -> None:
        self._client: AnyClient = client
        self._logic = logic
        self._leases = leases
        self._metrics = metrics
        self._clock, self._wall = clock, wall
        self._stage = stage
        self._prefix = prefix
        self.worker = leases.worker
        self._loader = StateLoader(self.worker, logic, load_documents)
        self._input_stream = input_stream
        self._key = stream_key(input_stream, prefix=prefix)
        self._consumer: PositionConsumer[Any] = PositionConsumer(client, input_stream, self.worker, prefix=prefix)
        self._publisher: Publisher[Event] = Publisher(client, EVENTS, prefix)
        self._attempts_key = f"{prefix}crowdperf:attempts:{leases.holder}"
        self._positions_key = f"{prefix}crowdperf:positions:{self.worker}"
        self._partitions_key = f"{prefix}crowdperf:cameras:{self.worker}"
        self._partitions: dict[str, PartitionState] = {}
        self._shards: dict[int, bytes] = {}
        """Owned shards, and the committed position of each."""
        self._removed_partitions: list[str] = []
        """Partitions whose stored state is deleted by the next commit."""
        self._effects: list[Struct] = []
        self._stored_position = STREAM_START
        self._timers_run_at = self._stored_at = self._newest_time = float("-inf")
        self._is_first_batch = True
        """From the start until the first batch is stored: what ends the process now may have done so before."""
        self._attempted_entry = b""
        """Entry whose attempt this process has counted."""
        self._single_steps_left = 0
        """Events that are still to be handled one by one."""

    @property
    def shards(self) -> set[int]:
        """Return the shards that this instance owns now."""
        return set(self._shards)

    @property
    def _position(self) -> bytes:
        return self._consumer.positions[self._key]

    def start(self) -> None:
        """Begin at what is stored; call it at start-up and after every outage."""
        self._consumer.create_groups()
        self._leases.start()
        self._reload(self._leases.renew(self._clock()))

    def stop(self) -> None:
        """Release the shards to the siblings at an orderly end."""
        with contextlib.suppress(*OUTAGE):
            self._leases.release()

    def step(self, block_ms: int = BLOCK_MS) -> int:
        """Handle new events and due timers, store the results, and return the number of handled events.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next step.
        """
        owned = self._leases.renew(self._clock())
        if owned != self.shards:
            self._reload(owned)
        if not self._shards:
            return 0
        entries = self._consumer.read(BATCH_SIZE, block_ms)
        handled = self._process_entries(self._quarantine(entries))
        now = self._clock()
        if now - self._timers_run_at >= TIMER_INTERVAL_S:
            self._timers_run_at = now
            # A worker that catches up takes the time of its newest entry: a person is not gone merely because the
            # observations of them are still to be read.
            behind = len(entries) == BATCH_SIZE or self._single_steps_left
            wall = self._wall()
            self._run_timers(min(parse_entry_id(self._position)[0] / 1000, wall) if behind else wall)
        dirty = bool(
            self._effects
            or self._consumer.get_rejected_ids(self._key)
            or self._removed_partitions
            or any(state.dirty for state in self._partitions.values())
        )
        moved = self._position != self._stored_position and now - self._stored_at >= POSITION_INTERVAL_S
        if (dirty or moved) and not self._commit(now):
            # A sibling has taken a shard, so the memory of it is no longer valid.
            self._reload(self._leases.renew(self._clock(), force=True))
            return 0
        if self._is_first_batch and handled and not self._single_steps_left:
            self._is_first_batch = False
            self._client.delete(self._attempts_key)
        return handled

    def _quarantine(self, entries: list[RawEntry]) -> list[RawEntry]:
        """Return the entries of this step: one at a time where they have ended the process before, else all."""
        if not self._is_first_batch:
            return entries
        first = next((entry for entry in entries if self._must_handle(entry, self._decode(entry))), None)
        if first is None:
            return entries
        entry_id, _, count = (self._client.get(self._attempts_key) or b"").partition(b" ")
        # Once per process: after an outage the same entries are read again, and they did not cause it.
        attempts = int(count) + (first.id != self._attempted_entry) if entry_id == first.id else 1
        self._attempted_entry = first.id
        self._client.set(self._attempts_key, first.id + b" %d" % attempts)
        if attempts > SINGLE_STEP_AFTER:
            self._single_steps_left = max(self._single_steps_left, len(entries))
        if attempts > MAX_DELIVERIES:
            self._reject(first, f"its handling ended the process {attempts - 1} times")
        elif self._single_steps_left:
            self._single_steps_left -= 1
        else:
            return entries
        return entries[: entries.index(first) + 1]

    def _decode(self, entry: RawEntry) -> WorkerEvent | PoisonError:
        try:
            return codec.decode(self._input_stream, entry.fields)  # type: ignore[no-any-return]
        except PoisonError as error:
            return error

    def _must_handle(self, entry: RawEntry, event: WorkerEvent | PoisonError) -> bool:
        """Check whether this instance has to handle or to reject the entry."""
        if isinstance(event, PoisonError):
            partitions: tuple[str, ...] = (entry.fields.get(b"camera", b"").decode(errors="replace"),)
        else:
            partitions = self._logic.partition_keys(event)
        if not is_addressed_to(entry.fields, self.worker) or entry.id in self._consumer.get_rejected_ids(self._key):
            return False
        return any(self._owns(partition, entry.id) for partition in partitions)

    def _owns(self, partition: str, entry_id: bytes) -> bool:
        """Check whether this instance owns the partition, and its shard was not read beyond the entry."""
        shard = get_shard(partition, self._leases.instances)
        return shard in self._shards and parse_entry_id(entry_id) > parse_entry_id(self._shards[shard])

    def _process_entries(self, entries: list[RawEntry]) -> int:
        handled = 0
        for entry in entries:
            event = self._decode(entry)
            if self._must_handle(entry, event):
                if isinstance(event, PoisonError):
                    self._reject(entry, str(event))
                else:
                    handled += self._handle(entry.id, event)
            self._consumer.positions[self._key] = entry.id
        return handled

    def _handle(self, entry_id: bytes, event: WorkerEvent) -> int:
        if not isinstance(event, self._logic.event_types):
            return 0
        digest = bytes.fromhex(compute_digest(event.id.encode(), 16))
        event = clock_leaps.correct_event(event, self._wall())
        handled = 0
        for partition in self._logic.partition_keys(event):
            if not self._owns(partition, entry_id):
                continue
            state = self._partitions.setdefault(partition, PartitionState())
            if parse_entry_id(entry_id) <= parse_entry_id(state.position) or digest in state.recent:
                continue
            self._effects += self._logic.handle(event, partition)
            state.recent = [*state.recent[-MAX_RECENT_IDS + 1 :], digest]
            state.position, state.dirty = entry_id, True
            handled = 1
        return handled

    def _reject(self, entry: RawEntry, reason: str) -> None:
        self._consumer.reject(entry, reason)
        self._metrics.count("dead_letters")

    def _run_timers(self, now: float) -> None:
        if clock_leaps.is_ahead(self._newest_time, now):
            for partition, state in self._partitions.items():
                state.dirty = clock_leaps.bring_back(self._logic, partition, now) or state.dirty
        self._newest_time = now
        for partition, state in self._partitions.items():
            effects = list(self._logic.advance_time(partition, now))
            state.dirty = state.dirty or bool(effects)
            self._effects += effects
        # Long after its last event, so that none of its events can come again when shards begin at an older position.
        for partition in [name for name, state in self._partitions.items() if self._is_expired(name, state, now)]:
            self._effects += self._logic.forget(partition, now)
            self._removed_partitions.append(partition)
            del self._partitions[partition]

    def _is_expired(self, partition: str, state: PartitionState, now: float) -> bool:
        idle_s = now - parse_entry_id(state.position)[0] / 1000
        # An event from a clock that was ahead comes from long ago too.
        return not self._logic.is_configured(partition) and abs(idle_s) > FORGET_AFTER_S

    def _commit(self, now: float) -> bool:
        """Store everything or nothing; False when a shard is no longer this instance's."""
        with self._client.pipeline(transaction=True) as pipe:
            if not self._leases.watch(pipe, self.shards):
                return False
            stored = pipe.hgetall(self._positions_key)
            pipe.multi()
            for effect in self._effects:
                if isinstance(effect, Event):
                    self._publisher.stage(pipe, effect)
                else:
                    self._stage(pipe, effect)
            for partition, state in self._partitions.items():
                if state.dirty:
                    data = self._logic.dump_state(partition)
                    checkpoint = WorkerCheckpoint(state.position, b"".join(state.recent), data)
                    pipe.set(state_key(self.worker, partition, self._prefix), msgspec.msgpack.encode(checkpoint))
                    pipe.sadd(self._partitions_key, partition)
            for partition in self._removed_partitions:
                pipe.delete(state_key(self.worker, partition, self._prefix))
                pipe.srem(self._partitions_key, partition)
            positions = {shard: max(at, self._position, key=parse_entry_id) for shard, at in self._shards.items()}
            pipe.hset(self._positions_key, mapping={str(shard): at for shard, at in positions.items()})
            known = {int(shard): at for shard, at in stored.items()} | positions
            # The group stands at the slowest shard, so that its events are not trimmed.
            self._consumer.stage_commit(pipe, {self._key: min(known.values(), key=parse_entry_id)})
            try:
                pipe.execute()
            except redis.WatchError:
                return False
        self._metrics.count("effects_total", len(self._effects))
        self._shards = positions
        self._effects, self._removed_partitions = [], []
        self._consumer.finish_commit([self._key])
        for state in self._partitions.values():
            state.dirty = False
        self._stored_position, self._stored_at = self._position, now
        return True

    def _reload(self, owned_shards: set[int]) -> None:
        """Drop what is in memory, and begin at what is stored for these shards."""
        self._effects, self._removed_partitions, self._partitions = [], [], {}
        self._loader.start()
        self._consumer.drop_rejected()
        self._logic.clear()
        stored = {int(shard): at for shard, at in self._client.hgetall(self._positions_key).items()}
        shards = range(self._leases.instances)
        if stored and set(stored) != set(shards):
            # Another number of instances: every shard begins at the oldest position. A partition's own checkpoint then
            # skips what it has seen.
            stored = dict.fromkeys(shards, min(stored.values(), key=parse_entry_id))
            with self._client.pipeline(transaction=True) as pipe:
                pipe.delete(self._positions_key)
                pipe.hset(self._positions_key, mapping={str(shard): at for shard, at in stored.items()})
                pipe.execute()
        elif not stored:
            stored = dict.fromkeys(shards, STREAM_START)
            for shard in shards:
                self._client.hsetnx(self._positions_key, str(shard), STREAM_START)
        self._shards = {shard: stored.get(shard, STREAM_START) for shard in owned_shards}
        self._stored_position = min(self._shards.values(), key=parse_entry_id, default=STREAM_START)
        self._consumer.positions[self._key] = self._stored_position
        for name in sorted(self._client.smembers(self._partitions_key)):
            partition = name.decode()
            if get_shard(partition, self._leases.instances) in owned_shards:
                self._restore(partition)
        self._metrics.set_gauge("shares_owned", len(owned_shards))

    def _restore(self, partition: str) -> None:
        stored = self._client.get(state_key(self.worker, partition, self._prefix))
        if stored is not None:
            self._partitions[partition] = self._loader.restore(partition, stored, self._wall())


def run_worker(
    worker: str,
    logic: WorkerLogic,
    config: ShardedConfig,
    runtime: ProcessRuntime,
    client: redis.Redis,
    stage: Callable[[Any, Struct], None] = reject_effect,
    input_stream: Stream = EVENTS,
    after_step: Callable[[ShardedConsumer], None] = lambda _: None,
    at_end: Callable[[], None] = lambda: None,
    load_documents: Callable[[], Iterable[Struct]] = lambda: (),
    now: Callable[[], float] | None = None,
) -> None:
    """Handle events until the process is to stop, and wait out outages of Redis; then release the shards.

    Args:
        worker: name of the worker.
        logic: the worker's rules.
        config: configuration of this instance.
        runtime: the process.
        client: a redis-py client.
        stage: adds an effect that is not an event to a transaction.
        input_stream: the stream that is read.
        after_step: called after each step.
        at_end: ends the threads that `after_step` has started, before a sibling may take over.
        load_documents: loads what a state is rebuilt from.
        now: the accepted time, where the caller needs it too.
    """
    leases = Leases(client, worker, config.instance, config.instances, runtime.name, config.key_prefix)
    now = now or RuleClock(client, config.key_prefix).now
    consumer = ShardedConsumer(
        *(client, logic, leases, runtime.metrics, time.monotonic, now, stage, config.key_prefix, input_stream),
        load_documents,
    )

    def step() -> None:
        runtime.metrics.count("events_handled", consumer.step())
        after_step(consumer)
        if not consumer.shards:
            runtime.wait_for_stop(IDLE_S)

    run_until_stopped(runtime, consumer.start, step, "the events stream keeps what is not handled yet")
    at_end()
    consumer.stop()
