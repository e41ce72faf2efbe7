"""A worker's logic for tests of the plumbing: says the running number of each camera's crossings."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

import msgspec
from msgspec import Struct

from crowdperf.messaging.schema import CameraChanged, Event, LineCrossed
from crowdperf.runtime.metrics import Metrics
from crowdperf.workers.leases import Leases
from crowdperf.workers.sharded_consumer import ShardedConsumer
from crowdperf.workers.worker_logic import WorkerEvent
from tests.conftest import RedisServer

WORKER = "tally"
DEADLY = "deadly"


class Died(Exception):
    """What stands for the end of a process."""


class Tally:
    """Counts crossings per camera; what it says depends on the order and on every single one."""

    event_types: tuple[type[Event], ...] = (LineCrossed,)

    def __init__(self, known: Container[str] | None = None) -> None:
        self._parse_id: dict[str, int] = {}
        self._require_known = known

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        return (event.camera,)

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterable[Struct]:
        assert isinstance(event, LineCrossed)
        if event.line == DEADLY:
            raise Died
        number = self._parse_id[event.camera] = self._parse_id.get(event.camera, 0) + 1
        yield CameraChanged(id=f"{event.id}:{number}", camera=event.camera, ts=event.ts, state="live")

    def advance_time(self, camera: str, now: float) -> Iterable[Struct]:
        return ()

    def dump_state(self, camera: str) -> bytes:
        return msgspec.msgpack.encode(self._parse_id.get(camera, 0))

    def restore(self, camera: str, state: bytes) -> None:
        self._parse_id[camera] = msgspec.msgpack.decode(state, type=int)

    def rebuild(self, camera: str, documents: Sequence[Struct]) -> None:
        self._parse_id[camera] = len(documents)

    def is_configured(self, camera: str) -> bool:
        return self._require_known is None or camera in self._require_known

    def forget(self, camera: str, now: float) -> Iterable[Struct]:
        number = self._parse_id.pop(camera)
        yield CameraChanged(id=f"{camera}:gone:{number}", camera=camera, ts=now, state="live")

    def clear(self) -> None:
        self._parse_id.clear()


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def member(
    server: RedisServer,
    instance: int = 0,
    instances: int = 1,
    clock: Clock | None = None,
    known: Container[str] | None = None,
    wall: Callable[[], float] = lambda: 1.8e9,
) -> ShardedConsumer:
    """Return one instance of the tally worker; its configuration knows the cameras `known`, or every camera."""
    client = server.client()
    leases = Leases(client, WORKER, instance, instances, f"worker-{WORKER}-{instance}")
    moving = clock or Clock()
    return ShardedConsumer(client, Tally(known), leases, Metrics(), moving, wall)
