"""Interface between a rule worker's logic and the plumbing in `workers.sharded_consumer`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from crowdperf.messaging.schema import AnyEvent, Event, PpeObserved

WorkerEvent = AnyEvent | PpeObserved
"""Messages that workers read."""


class WorkerLogic(Protocol):
    """A worker's rules; the state of a partition holds all about it, and partitions share nothing.

    A partition is a camera as a rule. What concerns an area or a visit has a partition of its own.
    """

    @property
    def event_types(self) -> tuple[type[Event], ...]:
        """Return the kinds of events that `handle` accepts."""

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """Return the partitions that the event belongs to: its camera as a rule."""

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterable[Struct]:
        """Handle one event and return its effects in order.

        An `Event` is published, any other effect goes to the worker's `stage`. Only the state of `partition` changes;
        where it is empty, the states of all partitions of the event.
        """

    def advance_time(self, partition: str, now: float) -> Iterable[Struct]:
        """Return the effects of time alone; `now` is Unix time, and a changed state needs an effect."""

    def dump_state(self, partition: str) -> bytes:
        """Serialise everything that decides the partition's future."""

    def restore(self, partition: str, state: bytes) -> None:
        """Continue from a result of `dump_state`.

        Raises:
            ValueError: the state is damaged or of another version; the partition starts without it.
        """

    def is_configured(self, partition: str) -> bool:
        """Check whether the configuration knows this partition; others are forgotten after a while."""

    def forget(self, partition: str, now: float) -> Iterable[Struct]:
        """Drop a partition that is gone, and return effects that close what is still open."""

    def clear(self) -> None:
        """Drop the states of all partitions."""
