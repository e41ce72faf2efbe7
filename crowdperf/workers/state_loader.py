"""Restore the state of a partition from its checkpoint, or rebuild it from the store where it is not usable.

A state of another version is not usable after an update or a return to an older release. An empty one instead would
leave visits on the evacuation list, keep names for ever, and leave alerts open.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from crowdperf.messaging.consumer import STREAM_START
from crowdperf.workers import clock_leaps
from crowdperf.workers.worker_logic import PartitionState, WorkerCheckpoint, WorkerLogic

log = logging.getLogger(__name__)


class StateLoader:
    """Restores the states of one worker.

    Args:
        worker: name of the worker.
        logic: its rules.
        load_documents: loads what `WorkerLogic.rebuild` needs.
    """

    def __init__(self, worker: str, logic: WorkerLogic, load_documents: Callable[[], Iterable[Struct]]) -> None:
        self._worker, self._logic, self._load_documents = worker, logic, load_documents
        self._documents: list[Struct] | None = None

    def start(self) -> None:
        """Forget the documents of earlier states."""
        self._documents = None

    def restore(self, partition: str, stored: bytes, now: float) -> PartitionState:
        """Restore one partition.

        Args:
            partition: a camera's id, or another partition key.
            stored: its checkpoint.
            now: the present, Unix seconds.

        Returns:
            The state of the partition beside its rules.
        """
        checkpoint = _decode_checkpoint(stored)
        state = PartitionState(checkpoint.position, checkpoint.recent)
        try:
            self._logic.restore(partition, checkpoint.state)
        except (msgspec.MsgspecError, ValueError) as error:
            log.warning("%s %r: its state is not usable, so it is rebuilt: %s", self._worker, partition, error)
            if self._documents is None:
                self._documents = list(self._load_documents())
            self._logic.rebuild(partition, self._documents)
            state.dirty = True
        state.dirty = clock_leaps.bring_back(self._logic, partition, now) or state.dirty
        return state


def _decode_checkpoint(stored: bytes) -> WorkerCheckpoint:
    """Decode a checkpoint; one of another form has no usable state."""
    try:
        return msgspec.msgpack.decode(stored, type=WorkerCheckpoint)
    except msgspec.DecodeError:
        return WorkerCheckpoint(STREAM_START, b"", b"")
