"""What a rule worker's logic is to the plumbing in `workers.base`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from crowdperf.messaging.schema import AnyEvent, Event, PpeObserved

WorkerEvent = AnyEvent | PpeObserved
"""What workers read."""


class WorkerLogic(Protocol):
    """A worker's rules. Everything about a camera is in that camera's state; nothing is shared between cameras.

    What is about no camera, but about an area or a visit, belongs to a part of its own, named by `parts`; wherever this
    module says camera, it means a part.
    """

    @property
    def event_types(self) -> tuple[type[Event], ...]:
        """The kinds of events that `handle` takes."""

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """Whose states the event belongs to: its camera's as a rule."""

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterable[Struct]:
        """Take one event; its effects, in order. An `Event` is published, anything else is for the worker's stage.

        Of an event that belongs to several parts, only the state of `part` changes; empty: of all of them.
        """

    def advance_time(self, partition: str, now: float) -> Iterable[Struct]:
        """What time alone causes; `now` in Unix seconds. The state may change only where there is an effect."""

    def dump_state(self, partition: str) -> bytes:
        """Everything that decides this camera's future."""

    def restore(self, partition: str, state: bytes) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: it is of another version, or damaged; the camera begins anew.
        """

    def is_configured(self, partition: str) -> bool:
        """Whether the configuration knows this part; of one that it does not, nothing stays for ever."""

    def forget(self, partition: str, now: float) -> Iterable[Struct]:
        """Drop a part that is gone; its effects are what must not stay open."""

    def clear(self) -> None:
        """Forget every camera."""
