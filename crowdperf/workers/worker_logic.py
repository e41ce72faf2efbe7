"""Interface between a rule worker's logic and the plumbing in `workers.sharded_consumer`, and the stored states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from crowdperf.messaging.consumer import STREAM_START
from crowdperf.messaging.schema import AnyEvent, Event, PpeObserved

WorkerEvent = AnyEvent | PpeObserved
"""Messages that workers read."""
State = TypeVar("State", bound=Struct)


def decode_state(stored: bytes, kind: type[State], version: int) -> State:
    """Decode a stored state that has a field `version`.

    Args:
        stored: the msgpack bytes.
        kind: Struct of the state.
        version: the version that the code understands.

    Returns:
        The state.

    Raises:
        ValueError: it is of another version.
    """
    raw: Any = msgspec.msgpack.decode(stored)
    if not isinstance(raw, dict) or raw.get("version") != version:
        raise ValueError(f"{kind.__name__} of another version than {version}")
    return msgspec.convert(raw, kind)


class WorkerLogic(Protocol):
    """A worker's rules; the state of a partition holds all about it, and partitions share nothing.

    A partition is a camera as a rule. What concerns an area or a visit has a partition of its own.
    """

    event_types: tuple[type[Event], ...]
    """The kinds of events that `handle` accepts."""

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """Return the partitions that the event belongs to: its camera as a rule."""
        return (event.camera,)

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterable[Struct]:
        """Handle one event and return its effects in order.

        An `Event` is published, any other effect goes to the worker's `stage`. Only the state of `partition` changes;
        where it is empty, the states of all partitions of the event.
        """

    def advance_time(self, partition: str, now: float) -> Iterable[Struct]:
        """Return the effects of time alone; `now` is Unix time, and a changed state needs an effect."""

    def dump_state(self, partition: str) -> bytes:
        """Serialise everything that decides the partition's future, as msgpack."""

    def restore(self, partition: str, state: bytes) -> None:
        """Continue from a result of `dump_state`.

        Raises:
            ValueError: the state is damaged or of another version; `rebuild` follows.
        """

    def rebuild(self, partition: str, documents: Sequence[Struct]) -> None:
        """Begin with what the store has of a partition whose state is not usable.

        `documents` are those of all partitions that are still open: alerts, violations, visits or areas.
        """

    def is_configured(self, partition: str) -> bool:
        """Check whether the configuration knows this partition; others are forgotten after a while."""
        return True

    def forget(self, partition: str, now: float) -> Iterable[Struct]:
        """Drop a partition that is gone, and return effects that close what is still open."""
        return ()

    def clear(self) -> None:
        """Drop the states of all partitions."""


class WorkerCheckpoint(Struct, frozen=True, array_like=True):
    """Stored state per worker and partition."""

    position: bytes
    """Stream id of the newest event that the state has seen."""
    recent: bytes
    """Eight bytes for each of the newest event ids, oldest first."""
    state: bytes


class PartitionState:
    """What a consumer knows about a partition beside its rules' state."""

    def __init__(self, position: bytes = STREAM_START, recent: bytes = b"") -> None:
        self.position = position
        self.recent = [recent[at : at + 8] for at in range(0, len(recent), 8)]
        self.dirty = False


def state_key(worker: str, partition: str, prefix: str = "") -> str:
    """Build the key of a partition's checkpoint.

    Args:
        worker: name of the worker.
        partition: a camera's id, or another partition key of the worker's logic.
        prefix: the configured prefix of every key.

    Returns:
        The Redis key.
    """
    return f"{prefix}crowdperf:state:{worker}:{partition}"
