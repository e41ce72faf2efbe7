"""What every rule worker is made of: pure logic per camera, and the plumbing that gives it each event exactly once.

A worker is `Logic` (no I/O, no clock): `list(logic.handle(event))` are its effects. `Member` is one of its instances.
The cameras are split over the instances by a stable hash, so that one camera's events meet one state; a plain consumer
group would split one track's observations over several processes. What a camera's events changed (its state), what they
caused (effects) and how far they were read go to Redis in ONE MULTI, which holds only while this member still owns the
share. So two instances give the same history as one, and kill -9 at any point changes nothing.

Each share of the cameras has a lease. An instance that is silent for LEASE_S loses it to a sibling, and gets it back
when it asks. `docs/workers.md` draws it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import redis
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.codec import dead_key, is_addressed_to, stage_dead_letter
from crowdperf.messaging.consumer import MAX_DELIVERIES
from crowdperf.messaging.redis.client import BLOCK_MS, OUTAGE
from crowdperf.messaging.schema import Event
from crowdperf.messaging.streams import EVENTS, Stream, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import get_shard
from crowdperf.workers.leases import Leases
from crowdperf.workers.worker_logic import WorkerEvent, WorkerLogic

BATCH_SIZE = 256
TIMER_INTERVAL_S = 0.5
"""How often time-driven rules are asked."""
POSITION_INTERVAL_S = 1.0
"""How often the position is stored while nothing else is: what was read stays in the stream no longer."""
MAX_RECENT_IDS = 256
"""Event ids remembered per camera; an event that comes again within them is the same event."""
FORGET_AFTER_S = 600.0
"""A part that the configuration no longer knows is forgotten this long after its last event."""
SINGLE_STEP_AFTER = 2
"""A batch whose handling ended the process this often is handled event by event, to find the one that does it."""
STREAM_START = b"0-0"
log = logging.getLogger(__name__)


class WorkerCheckpoint(Struct, frozen=True, array_like=True):
    """What is stored per worker and camera."""

    position: bytes
    """Stream id of the newest event that the state has seen."""
    recent: bytes
    """Eight bytes for each of the newest event ids, oldest first."""
    state: bytes


class _PartitionState:
    def __init__(self, position: bytes = STREAM_START, recent: bytes = b"") -> None:
        self.position = position
        self.recent = [recent[at : at + 8] for at in range(0, len(recent), 8)]
        self.dirty = False


def state_key(worker: str, camera: str, prefix: str = "") -> str:
    """Where a worker keeps a camera's checkpoint."""
    return f"{prefix}crowdperf:state:{worker}:{camera}"


def reject_effect(pipe: Any, effect: Struct) -> None:
    """For workers all of whose effects are events."""
    raise TypeError(f"{type(effect).__name__} is no event")


class ShardedConsumer:
    """One instance of a worker. `wall` is Unix time, `clock` a monotonic one, both in seconds."""

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
    ) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._logic = logic
        self._leases = leases
        self._metrics = metrics
        self._clock, self._wall = clock, wall
        self._stage = stage
        self._prefix = prefix
        self.worker = leases.worker
        self._input_stream = input_stream
        self._stream_key = stream_key(input_stream, prefix=prefix)
        self._events_key = stream_key(EVENTS, prefix=prefix)
        self._dead_key = dead_key(input_stream.name, self.worker, prefix)
        self._partitions: dict[str, _PartitionState] = {}
        self._shards: dict[int, bytes] = {}
        """Owned shares of the cameras and how far each was read and stored."""
        self._removed_partitions: list[str] = []
        """Parts whose stored state goes with the next commit."""
        self._effects: list[Struct] = []
        self._dead_letters: list[tuple[bytes, dict[bytes, bytes], str]] = []
        self._position = self._stored_position = STREAM_START
        self._timers_run_at = self._stored_at = float("-inf")
        self._is_first_batch = True
        """From the start until the first batch is stored: what ends the process now may have done so before."""
        self._attempted_entry = b""
        """The entry that this process has counted as tried."""
        self._single_steps_left = 0
        """Events that are still to be handled one by one."""

    @property
    def shards(self) -> set[int]:
        """The shares that this instance works on now."""
        return set(self._shards)

    def start(self) -> None:
        """Begin at what is stored. Call it at start-up and after every outage."""
        try:
            self._client.xgroup_create(self._stream_key, self.worker, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._leases.start()
        self._reload(self._leases.renew(self._clock()))

    def stop(self) -> None:
        """Give the shares to the siblings at once: the orderly end."""
        with contextlib.suppress(*OUTAGE):
            self._leases.release()

    def step(self, block_ms: int = BLOCK_MS) -> int:
        """Take what has come, do what is due, store it; returns how many events were handled.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next turn.
        """
        owned = self._leases.renew(self._clock())
        if owned != self.shards:
            self._reload(owned)
        if not self._shards:
            return 0
        reply = self._client.xread({self._stream_key: self._position}, count=BATCH_SIZE, block=block_ms)
        rows = _parse_reply(reply)
        handled = self._process_rows(self._quarantine(rows))
        now = self._clock()
        if now - self._timers_run_at >= TIMER_INTERVAL_S:
            self._timers_run_at = now
            # While it catches up, it is as late for the rules as the newest entry that was handled: nobody is gone
            # merely because what was seen of them is still to be read.
            behind = len(rows) == BATCH_SIZE or self._single_steps_left
            self._run_timers(parse_entry_id(self._position)[0] / 1000 if behind else self._wall())
        dirty = bool(
            self._effects
            or self._dead_letters
            or self._removed_partitions
            or any(row.dirty for row in self._partitions.values())
        )
        moved = self._position != self._stored_position and now - self._stored_at >= POSITION_INTERVAL_S
        if (dirty or moved) and not self._commit(now):
            # A sibling has taken a share: whatever this member holds of it in memory is not its own any more.
            self._reload(self._leases.renew(self._clock(), force=True))
            return 0
        if self._is_first_batch and handled and not self._single_steps_left:
            self._is_first_batch = False
            self._client.delete(self._attempts_key)
        return handled

    # -- reading --

    def _quarantine(self, rows: list[Any]) -> list[Any]:
        """The entries that this turn handles: all, but one at a time where they have ended the process before."""
        if not self._is_first_batch:
            return rows
        first = next((row for row in rows if self._must_handle(row)), None)
        if first is None:
            return rows
        told = (self._client.get(self._attempts_key) or b" 0").split()
        # Once per process: after an outage the same entries are read again, and nothing was wrong with them.
        tries = int(told[1]) + (first[0] != self._attempted_entry) if told[0] == first[0] else 1
        self._attempted_entry = first[0]
        self._client.set(self._attempts_key, first[0] + b" %d" % tries)
        if tries > SINGLE_STEP_AFTER:
            self._single_steps_left = max(self._single_steps_left, len(rows))
        if tries > MAX_DELIVERIES:
            why = f"its handling ended the process {tries - 1} times"
            self._dead_letter(first, why)
            return rows[: rows.index(first) + 1]
        if self._single_steps_left:
            self._single_steps_left -= 1
            return rows[: rows.index(first) + 1]
        return rows

    @property
    def _attempts_key(self) -> str:
        return f"{self._prefix}crowdperf:attempts:{self._leases.holder}"

    def _must_handle(self, row: Any) -> bool:
        """Whether this member has to handle or to bury the entry."""
        entry_id, fields = row
        owned = any(self._owns(part, entry_id) for part in self._get_partition_keys(fields))
        return (
            owned and is_addressed_to(fields, self.worker) and not any(entry_id == row[0] for row in self._dead_letters)
        )

    def _owns(self, partition: str, entry_id: bytes) -> bool:
        """Whether the part is this member's, and its share was not read beyond the entry."""
        share = get_shard(partition, self._leases.instances)
        return share in self._shards and parse_entry_id(entry_id) > parse_entry_id(self._shards[share])

    def _get_partition_keys(self, fields: dict[bytes, bytes]) -> tuple[str, ...]:
        """Whose entry it is; of what cannot be decoded, whatever its field `camera` says."""
        try:
            return self._logic.partition_keys(codec.decode(self._input_stream, fields))
        except codec.PoisonError:
            return (fields.get(b"camera", b"").decode(errors="replace"),)

    def _process_rows(self, rows: list[Any]) -> int:
        handled = 0
        for row in rows:
            entry_id, fields = row
            if self._must_handle(row):
                try:
                    event = codec.decode(self._input_stream, fields)
                except codec.PoisonError as error:
                    self._dead_letter(row, str(error))
                else:
                    handled += self._handle(entry_id, event)
            self._position = entry_id
        return handled

    def _handle(self, entry_id: bytes, event: WorkerEvent) -> int:
        if not isinstance(event, self._logic.event_types):
            return 0
        digest = hashlib.sha256(event.id.encode()).digest()[:8]
        handled = 0
        for part in self._logic.partition_keys(event):
            if not self._owns(part, entry_id):
                continue
            own = self._partitions.setdefault(part, _PartitionState())
            if parse_entry_id(entry_id) <= parse_entry_id(own.position) or digest in own.recent:
                continue
            self._effects += self._logic.handle(event, part)
            own.recent = [*own.recent[-MAX_RECENT_IDS + 1 :], digest]
            own.position, own.dirty = entry_id, True
            handled = 1
        return handled

    def _dead_letter(self, row: Any, reason: str) -> None:
        self._dead_letters.append((row[0], row[1], reason))
        self._metrics.count("dead_letters")

    def _run_timers(self, now: float) -> None:
        for camera, own in self._partitions.items():
            effects = list(self._logic.advance_time(camera, now))
            own.dirty = own.dirty or bool(effects)
            self._effects += effects
        # Long after its last event, so that no event of it can come again when shares begin at an older position.
        for camera in [camera for camera, own in self._partitions.items() if self._is_expired(camera, own, now)]:
            self._effects += self._logic.forget(camera, now)
            self._removed_partitions.append(camera)
            del self._partitions[camera]

    def _is_expired(self, partition: str, partition_state: _PartitionState, now: float) -> bool:
        return (
            not self._logic.is_configured(partition)
            and now - parse_entry_id(partition_state.position)[0] / 1000 > FORGET_AFTER_S
        )

    # -- storing --

    def _commit(self, now: float) -> bool:
        """Store everything or nothing; False when a share is not this member's any more."""
        with self._client.pipeline(transaction=True) as pipe:
            if not self._leases.watch(pipe, self.shards):
                return False
            others = pipe.hgetall(self._positions_key)
            pipe.multi()
            for effect in self._effects:
                if isinstance(effect, Event):
                    pipe.xadd(
                        self._events_key, codec.encode(EVENTS, effect), maxlen=EVENTS.max_entries, approximate=True
                    )
                else:
                    self._stage(pipe, effect)
            for entry_id, fields, why in self._dead_letters:
                stage_dead_letter(pipe, self._dead_key, fields, entry_id, self._stream_key, why)
            for camera, own in self._partitions.items():
                if own.dirty:
                    checkpoint = WorkerCheckpoint(own.position, b"".join(own.recent), self._logic.dump_state(camera))
                    name = state_key(self.worker, camera, self._prefix)
                    pipe.set(name, msgspec.msgpack.encode(checkpoint))
                    pipe.sadd(self._partitions_key, camera)
            for camera in self._removed_partitions:
                pipe.delete(state_key(self.worker, camera, self._prefix))
                pipe.srem(self._partitions_key, camera)
            positions = {share: max(at, self._position, key=parse_entry_id) for share, at in self._shards.items()}
            pipe.hset(self._positions_key, mapping={str(share): at for share, at in positions.items()})
            known = {int(share): at for share, at in others.items()} | positions
            pipe.xgroup_setid(self._stream_key, self.worker, min(known.values(), key=parse_entry_id))
            try:
                pipe.execute()
            except redis.WatchError:
                return False
        self._metrics.count("effects_total", len(self._effects))
        self._shards = positions
        self._effects, self._dead_letters, self._removed_partitions = [], [], []
        for own in self._partitions.values():
            own.dirty = False
        self._stored_position, self._stored_at = self._position, now
        return True

    @property
    def _positions_key(self) -> str:
        return f"{self._prefix}crowdperf:positions:{self.worker}"

    @property
    def _partitions_key(self) -> str:
        return f"{self._prefix}crowdperf:cameras:{self.worker}"

    def _reload(self, owned_shards: set[int]) -> None:
        """Forget what is in memory and begin at what is stored, for these shares."""
        self._effects, self._dead_letters, self._removed_partitions, self._partitions = [], [], [], {}
        self._logic.clear()
        stored = {int(share): at for share, at in self._client.hgetall(self._positions_key).items()}
        whole = range(self._leases.instances)
        if stored and set(stored) != set(whole):
            # Another number of instances: every share begins at the oldest position, and what a camera's own checkpoint
            # has seen is passed over.
            oldest = min(stored.values(), key=parse_entry_id)
            stored = dict.fromkeys(whole, oldest)
            with self._client.pipeline(transaction=True) as pipe:
                pipe.delete(self._positions_key)
                pipe.hset(self._positions_key, mapping={str(share): at for share, at in stored.items()})
                pipe.execute()
        elif not stored:
            stored = dict.fromkeys(whole, STREAM_START)
            for share in whole:
                self._client.hsetnx(self._positions_key, str(share), STREAM_START)
        self._shards = {share: stored.get(share, STREAM_START) for share in owned_shards}
        self._position = self._stored_position = min(self._shards.values(), key=parse_entry_id, default=STREAM_START)
        for raw in sorted(self._client.smembers(self._partitions_key)):
            camera = raw.decode()
            if get_shard(camera, self._leases.instances) in owned_shards:
                self._restore(camera)
        self._metrics.set_gauge("shares_owned", len(owned_shards))

    def _restore(self, partition: str) -> None:
        raw = self._client.get(state_key(self.worker, partition, self._prefix))
        if raw is None:
            return
        try:
            checkpoint = msgspec.msgpack.decode(raw, type=WorkerCheckpoint)
            self._logic.restore(partition, checkpoint.state)
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("camera %s: the stored state is not usable and begins anew: %s", partition, error)
            return
        self._partitions[partition] = _PartitionState(checkpoint.position, checkpoint.recent)


def _parse_reply(reply: Any) -> list[Any]:
    """The entries of XREAD's reply for one stream, RESP2 list or RESP3 map."""
    if not reply:
        return []
    rows: list[Any] = next(iter(reply.values())) if isinstance(reply, dict) else reply[0][1]
    # RESP3 wraps each stream's entries in one more list.
    return rows[0] if rows and isinstance(rows[0], list) else rows


def parse_entry_id(entry_id: bytes) -> tuple[int, int]:
    """A stream id in the order of its stream."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number or 0)
