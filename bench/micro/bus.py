"""What the typed streams cost over bare redis-py: publishing and consuming detections and events, a real Redis between.

The peer stores and fetches the same bytes, encoded beforehand, in pipelines and reads of the same size, and checks,
decodes and acknowledges nothing. Wall time of one client, the server's share included.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Row, paired
from bench.pipeline.inference_from_ring import redis
from crowdperf.messaging import codec
from crowdperf.messaging.consumer import Consumer
from crowdperf.messaging.outbox import Outbox
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import FrameDetections, LineCrossed
from crowdperf.messaging.streams import DETECTIONS, EVENTS, Stream, stream_key

CAMERA = "plaza"
GROUP = "bench"
BATCH = 16
"""Messages that go to Redis together: a busy turn's."""
READ = 64
"""Messages that are asked for at once: `Consumer.read`'s default."""
BOXES = 20


def rows(short: bool) -> list[Row]:
    """bus_publish_us and bus_consume_us, of detections and of events."""
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder, redis(Path(folder)) as url:
        bus = Bus(url, 2_048 if short else 8_192)
        repetitions = 7 if short else 21
        sides: list[tuple[str, Callable[[], float], Callable[[], float], str]] = [
            ("bus_publish_us/detections", bus.measure_put, bus.build_xadd_bench(DETECTIONS), "pipelined XADD"),
            (
                "bus_consume_us/detections",
                bus.build_consume_bench(DETECTIONS),
                bus.build_xread_bench(DETECTIONS),
                "XREAD",
            ),
            ("bus_publish_us/events", bus.measure_publish, bus.build_xadd_bench(EVENTS), "pipelined XADD"),
            ("bus_consume_us/events", bus.build_consume_bench(EVENTS), bus.build_xread_bench(EVENTS), "XREAD"),
        ]
        return [
            paired(name, ours, peer, f"redis-py's bare {what}", repetitions=repetitions)
            for name, ours, peer, what in sides
        ]


class Bus:
    """Both ways over one client each; every measurement begins with an empty server."""

    def __init__(self, url: str, count: int) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._url = url
        self._client: Any = connect(url)
        self._count = count
        self._frames = [_frame(number) for number in range(1, count + 1)]
        self._events = [_event(number) for number in range(1, count + 1)]

    def measure_put(self) -> float:
        """Measure what the inference process does: explicit ids, a bound in memory."""
        self._client.flushall()
        outbox = Outbox(self._client)

        def work() -> None:
            for start in range(0, self._count, BATCH):
                for message in self._frames[start : start + BATCH]:
                    outbox.put(message)
                outbox.flush(0.0)

        return self._measure_us(DETECTIONS, work)

    def measure_publish(self) -> float:
        """Measure what tracking does: staged into one pipeline."""
        self._client.flushall()
        publisher: Publisher[LineCrossed] = Publisher(self._client, EVENTS)

        def work() -> None:
            for start in range(0, self._count, BATCH):
                with self._client.pipeline(transaction=False) as pipe:
                    for message in self._events[start : start + BATCH]:
                        publisher.stage(pipe, message)
                    pipe.execute()

        return self._measure_us(EVENTS, work)

    def build_xadd_bench(self, stream: Stream) -> Callable[[], float]:
        """Return the same entries, encoded beforehand."""
        entries = [codec.encode(stream, message) for message in self._make_messages(stream)]
        name = stream_key(stream, CAMERA)

        def measure() -> float:
            self._client.flushall()

            def work() -> None:
                for start in range(0, self._count, BATCH):
                    with self._client.pipeline(transaction=False) as pipe:
                        for fields in entries[start : start + BATCH]:
                            pipe.xadd(name, fields)
                        pipe.execute()

            return self._measure_us(stream, work)

        return measure

    def build_consume_bench(self, stream: Stream) -> Callable[[], float]:
        """Read as a member of a group, decode, acknowledge."""
        fill = self.build_xadd_bench(stream)

        def measure() -> float:
            fill()
            consumer: Consumer[Any] = Consumer(self._client, stream, GROUP, "one", CAMERA)
            consumer.start()
            seen = 0
            began = time.perf_counter()
            while seen < self._count:
                entries = consumer.read(READ)
                consumer.ack(entries)
                seen += len(entries)
            took = time.perf_counter() - began
            left = self._client.xpending(stream_key(stream, CAMERA), GROUP)["pending"]
            assert (seen, left, consumer.dead_letters) == (self._count, 0, 0)
            return took / self._count * 1e6

        return measure

    def build_xread_bench(self, stream: Stream) -> Callable[[], float]:
        """Fetch the same entries and drop them."""
        fill = self.build_xadd_bench(stream)
        name = stream_key(stream, CAMERA)

        def measure() -> float:
            fill()
            seen, last = 0, b"0"
            began = time.perf_counter()
            while seen < self._count:
                reply = self._client.xread({name: last}, count=READ)
                # RESP2 gives pairs in a list, RESP3 a map of lists of entries.
                entries = reply[0][1] if isinstance(reply, list) else next(iter(reply.values()))[0]
                seen, last = seen + len(entries), entries[-1][0]
            return (time.perf_counter() - began) / self._count * 1e6

        return measure

    def _make_messages(self, stream: Stream) -> list[Any]:
        return list(self._frames if stream is DETECTIONS else self._events)

    def _measure_us(self, stream: Stream, work: Callable[[], None]) -> float:
        """Microseconds per message; all of them must be in the stream afterwards."""
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
        stored = self._client.xinfo_stream(stream_key(stream, CAMERA))["entries-added"]
        assert stored == self._count, f"{stored} of {self._count} messages were stored"
        return took / self._count * 1e6


def _frame(number: int) -> FrameDetections:
    """Return a frame with as many boxes as a busy place has."""
    noise = np.random.default_rng(number)
    return FrameDetections(
        camera=CAMERA,
        epoch=1_700_000_000,
        sequence=number,
        captured_at_ns=1_700_000_000_000_000_000 + number,
        boxes=noise.random((BOXES, 4), np.float32).tobytes(),
        scores=noise.random(BOXES, np.float32).tobytes(),
        classes=bytes(BOXES),
        source_width=1280,
        source_height=720,
    )


def _event(number: int) -> LineCrossed:
    return LineCrossed(
        id=f"{CAMERA}:1700000000:{number}:gate:in:0",
        camera=CAMERA,
        ts=1.7e9 + number / 10,
        line="gate",
        direction="in",
        class_name="person",
        track=number,
        epoch=1_700_000_000,
        sequence=number,
    )
