"""What a turn does when the ring moves under it, and when the model cannot run: real rings, a scripted runtime."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameWriter, RingSpec
from crowdperf.inference.engine import MAX_FAILED_BATCHES, InferenceEngine
from crowdperf.inference.evidence_cache import EvidenceCache
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_stage import PpeStage
from crowdperf.inference.rings import RingSet
from crowdperf.messaging import codec
from crowdperf.messaging.outbox import BackgroundSender
from crowdperf.messaging.schema import FrameDetections
from crowdperf.messaging.streams import DETECTIONS, stream_key
from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import Letterbox
from crowdperf.models.registry import ModelError
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.timings import StageTimings
from crowdperf.settings.config import Config, Deployment
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.process_config import build_inference_config
from tests.conftest import RedisServer, wait_until


class ScriptedRuntime:
    """Finds nothing; `during_load` happens while the frames are being read."""

    names: tuple[str, ...] = ("person",)
    name, device, max_batch, pins, overlaps = "scripted", "cpu", 64, False, False

    def __init__(self) -> None:
        self.during_load: Callable[[], None] = lambda: None
        self.failures_left = 0
        self.emptied = 0
        self.is_ready = True
        self.retained: set[int] = set()
        self.count = 0
        self.inputs: list[int] = []
        """Number of model inputs of each batch."""
        self.found = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
        self.stages = StageTimings()
        self.started: deque[int] = deque()

    def load(self, frames: Sequence[NDArray[np.uint8]], box: Letterbox) -> None:
        self.count = len(frames)
        self.inputs.append(len(frames))
        if box.width == 1280:
            raise ModelError("cannot run at 1280. Remedy: another size.")
        self.during_load()

    def start(self) -> None:
        self.started.append(self.count)

    def finish(self) -> list[Detections]:
        count = self.started.popleft()
        if self.failures_left:
            self.failures_left -= 1
            raise RuntimeError("the plug-in failed")
        return [self.found] * count

    def pin(self, buffer: NDArray[np.uint8]) -> None: ...

    def unpin(self, buffer: NDArray[np.uint8]) -> None: ...

    def prepare(self, box: Letterbox) -> None: ...

    def ready(self, box: Letterbox) -> bool:
        return self.is_ready

    def retain(self, boxes: Collection[Letterbox]) -> None:
        self.retained = {box.ring_width for box in boxes}

    def empty_cache(self) -> None:
        self.emptied += 1


class Bench:
    """A service over real rings in `folder` and a real Redis."""

    def __init__(self, folder: Path, server: RedisServer, queue_max: str = "2", analysis: str = "whole") -> None:
        self.folder, self.client = folder, server.client()
        self.runtime, self.metrics = ScriptedRuntime(), Metrics()
        self.ahead_s, self.began_ns = 0.0, time.monotonic_ns()
        self.rings = RingSet(str(folder / "ring."), 20.0)
        self.sender = BackgroundSender(self.client)
        self.slots = [ModelSlot("person", Detector(self.runtime, "none", "full")), ModelSlot("ppe")]
        self.cache = EvidenceCache(30.0)
        env = read_environment({"QUEUE_MAX": queue_max, "CUDA_EMPTY_EVERY": "6"})
        config = build_inference_config(Deployment(Config(), Paths(folder), env))
        config = replace(config, settings=replace(config.settings, staleness_s=1000.0, analysis=analysis))
        person, ppe = self.slots
        stage = PpeStage(ppe, self._request_ppe, self.metrics, self.cache, self._clock)
        self.service = InferenceEngine(config, person, stage, self.rings, self.sender, self.metrics, self._clock)

    def _clock(self) -> float:
        return time.monotonic() + self.ahead_s

    def close(self) -> None:
        """Stop every thread."""
        for part in (self.rings, self.sender, self.cache, *self.slots):
            part.close()

    def _request_ppe(self) -> None:
        self.slots[1].request_load(lambda: Detector(self.runtime, "ppe", "full"))

    def ring(self, camera: str, width: int = 64) -> FrameWriter:
        return FrameWriter(self.folder / f"ring.{camera}", RingSpec(width, 36, "yuv420p", 128, 72, 4, 100.0, 0))

    def show(self, writer: FrameWriter, level: int, changed: tuple[slice, slice] | None = None) -> None:
        """Publish a grey picture 50 ms after the one before; the part `changed` is bright."""
        slot = np.frombuffer(writer.slot(), np.uint8)
        slot[...] = level
        if changed is not None:
            slot[: 64 * 36].reshape(36, 64)[changed] = 230
        # The bench's own clock says when a whole look is due.
        writer.publish(time.time_ns(), self.began_ns + (writer.sequence + 1) * 50_000_000)

    def read_frames(self, camera: str) -> list[FrameDetections]:
        """Return the messages in the camera's stream, once every message is stored."""
        ids = self.stored(camera)
        rows = self.client.xrange(stream_key(DETECTIONS, camera))
        assert len(rows) == len(ids)
        return [codec.decode(DETECTIONS, fields) for _, fields in rows]

    def stored(self, camera: str) -> list[bytes]:
        """Return the ids in the camera's stream, once every message is stored."""
        wait_until(lambda: not len(self.sender), what="the sender")
        return [row for row, _ in self.client.xrange(stream_key(DETECTIONS, camera))]


def publish(writer: FrameWriter) -> None:
    writer.slot()[0] = 1
    writer.publish(time.time_ns(), time.monotonic_ns())


@pytest.fixture
def bench(tmp_path: Path, redis_server: RedisServer) -> Iterator[Bench]:
    bench = Bench(tmp_path, redis_server)
    yield bench
    bench.close()


def test_frame_overwritten_while_read_is_lapped(bench: Bench) -> None:
    ring = bench.ring("lobby")
    publish(ring)
    bench.runtime.during_load = lambda: [publish(ring) for _ in range(4)] and None
    assert bench.service.step(False)
    assert bench.stored("lobby") == []
    bench.runtime.during_load = lambda: None
    assert bench.service.step(True)
    assert bench.stored("lobby") == [f"{ring.epoch}-5".encode()]
    # 1 while it was read; then 2 to 5 came at once, more than the ring can keep safe: only the newest stayed.
    assert bench.metrics.get_counter("drops_lapped", "lobby") == 1
    assert bench.metrics.get_counter("drops_overload", "lobby") == 3
    ring.close(unlink=True)


def test_a_failure_of_the_model_costs_one_batch(bench: Bench) -> None:
    ring = bench.ring("lobby")
    for failures in (MAX_FAILED_BATCHES - 1, MAX_FAILED_BATCHES - 1):
        bench.runtime.failures_left = failures
        for _ in range(failures + 1):
            publish(ring)
            assert bench.service.step(True)
    assert len(bench.stored("lobby")) == 2
    bench.ahead_s += 2.0
    bench.service.step(False)
    assert bench.metrics.get_counter("drops_failed", "lobby") == 2 * (MAX_FAILED_BATCHES - 1)
    bench.runtime.failures_left = MAX_FAILED_BATCHES
    for _ in range(MAX_FAILED_BATCHES - 1):
        publish(ring)
        bench.service.step(True)
    publish(ring)
    with pytest.raises(RuntimeError, match="in a row"):
        bench.service.step(True)
    ring.close(unlink=True)


def test_a_size_that_the_model_refuses_concerns_that_camera_only(bench: Bench) -> None:
    big, small = bench.ring("big", 1280), bench.ring("small")
    for ring in (big, small):
        publish(ring)
    while bench.service.step(True):
        pass
    assert bench.stored("big") == []
    assert len(bench.stored("small")) == 1
    assert bench.metrics.get_counter("drops_refused", "big") == 1
    assert "Remedy" in bench.metrics.snapshot("inference", 0.0).texts["last_error"]["big"]
    assert bench.runtime.retained == {64, 1280}
    # The camera gets another size: its error is over with the first frame that is analysed.
    big.close(unlink=True)
    big = bench.ring("big", 96)
    publish(big)
    bench.ahead_s += 2.0
    while bench.service.step(True):
        pass
    assert len(bench.stored("big")) == 1
    assert bench.metrics.snapshot("inference", 0.0).texts["last_error"].get("big", "") == ""
    assert bench.runtime.retained == {64, 96}
    for ring in (big, small):
        ring.close(unlink=True)


def test_next_batch_starts_before_the_last_is_published(bench: Bench) -> None:
    ring = bench.ring("lobby")
    bench.runtime.overlaps = True
    publish(ring)
    assert bench.service.step(True), "one batch is in computation"
    assert len(bench.runtime.started) == 1
    assert bench.stored("lobby") == []
    publish(ring)
    assert bench.service.step(True)
    assert len(bench.runtime.started) == 1, "the second began, the first was finished"
    assert bench.stored("lobby") == [f"{ring.epoch}-1".encode()]
    assert not bench.service.step(False), "nothing more is due: the last one is published at once"
    assert bench.stored("lobby") == [f"{ring.epoch}-{sequence}".encode() for sequence in (1, 2)]
    ring.close(unlink=True)


def test_a_frame_is_not_charged_for_the_one_that_it_waited_for(bench: Bench) -> None:
    """Where batches overlap, a small frame behind a huge one must not look as dear: its camera would be passed over."""
    huge, small = bench.ring("huge", 96), bench.ring("small", 64)
    bench.runtime.overlaps = True
    spent = {"huge": 100.0, "small": 0.5}
    finish, order = bench.runtime.finish, []

    def slow() -> list[Detections]:
        bench.ahead_s += spent[order.pop(0)]
        return finish()

    bench.runtime.finish = slow  # type: ignore[method-assign]
    bench.service.step(True)
    for ring, name in ((huge, "huge"), (small, "small")):
        publish(ring)
        order.append(name)
        bench.service.step(True)
    bench.service.step(False)
    assert sorted(bench.service._scheduler._costs.values()) == pytest.approx([0.5, 100.0], abs=0.4)
    for ring in (huge, small):
        ring.close(unlink=True)


@pytest.mark.parametrize(("queue_max", "shed"), [("2", 3), ("4", 0)])
def test_so_many_frames_wait_as_queue_max_says(
    tmp_path: Path, redis_server: RedisServer, queue_max: str, shed: int
) -> None:
    bench = Bench(tmp_path, redis_server, queue_max)
    ring = bench.ring("lobby")
    assert not bench.service.step(True)
    for _ in range(4):
        publish(ring)
    assert bench.service.step(False)
    assert bench.metrics.get_counter("drops_overload", "lobby") == shed
    bench.close()
    ring.close(unlink=True)


def test_device_memory_is_released_at_intervals(bench: Bench) -> None:
    ring = bench.ring("lobby")
    emptied = []
    for bench.ahead_s in (0.0, 3.0, 6.1, 6.2, 12.5):
        publish(ring)
        assert bench.service.step(True)
        emptied.append(bench.runtime.emptied)
    assert emptied == [0, 0, 1, 1, 2]
    ring.close(unlink=True)


def test_compiling_a_size_delays_only_its_camera(bench: Bench) -> None:
    lobby = bench.ring("lobby")
    bench.runtime.is_ready = False
    publish(lobby)
    assert not bench.service.step(True)
    assert bench.metrics.get_counter("drops_warming", "lobby") == 1
    bench.runtime.is_ready = True
    publish(lobby)
    assert bench.service.step(True)
    assert len(bench.stored("lobby")) == 1
    lobby.close(unlink=True)


@pytest.fixture
def regions(tmp_path: Path, redis_server: RedisServer) -> Iterator[Bench]:
    bench = Bench(tmp_path, redis_server, analysis="regions")
    yield bench
    bench.close()


def test_cameras_that_are_still_cost_no_inference(regions: Bench) -> None:
    rings = [regions.ring(name) for name in ("lobby", "gate", "hall")]
    for _ in range(3):
        for ring in rings:
            regions.show(ring, 100)
        assert regions.service.step(True)
    assert regions.runtime.inputs == [3], "the first looks are whole ones, then nothing changes"
    assert [len(regions.stored(name)) for name in ("lobby", "gate", "hall")] == [3, 3, 3], "every frame is answered"
    for ring in rings:
        ring.close(unlink=True)


def test_changes_of_several_cameras_share_an_input(regions: Bench) -> None:
    rings = [regions.ring(name) for name in ("lobby", "gate", "hall")]
    corner = np.s_[0:4, 0:4]
    for changed in (None, corner):
        for ring in rings:
            regions.show(ring, 100, changed)
        assert regions.service.step(True)
    assert regions.runtime.inputs[0] == 3
    assert regions.runtime.inputs[1] < 3
    for ring in rings:
        ring.close(unlink=True)


def test_a_message_says_what_was_carried(regions: Bench) -> None:
    ring = regions.ring("lobby")
    box = np.array([[20.0, 24.0, 30.0, 44.0]], np.float32)
    regions.runtime.found = Detections(box, np.array([0.9], np.float32), np.zeros(1, np.uint8))
    for _ in range(5):
        regions.show(ring, 100)
        regions.service.step(True)
    seen = regions.read_frames("lobby")
    assert seen[0].carried == b""
    assert seen[-1].carried == b"\1"
    assert seen[-1].boxes == seen[0].boxes
    ring.close(unlink=True)


def test_a_picture_overwritten_while_read_is_forgotten(regions: Bench) -> None:
    ring = regions.ring("lobby")
    regions.show(ring, 100)
    regions.service.step(True)
    regions.runtime.during_load = lambda: [regions.show(ring, 200) for _ in range(4)] and None
    regions.show(ring, 200)
    regions.service.step(True)
    regions.runtime.during_load = lambda: None
    assert regions.metrics.get_counter("drops_lapped", "lobby") == 1
    regions.ahead_s += 3.0
    regions.service.step(True)
    assert regions.runtime.inputs == [1, 1, 1], "what a torn picture showed is not carried"
    assert regions.metrics.get_counter("looks_whole", "lobby") == 2, "the first, and the one after the torn one"
    assert regions.metrics.get_counter("looks_changed", "lobby") == 1
    ring.close(unlink=True)


def test_an_overlapping_device_gets_one_frame_a_camera(regions: Bench) -> None:
    """What a camera's next frame needs depends on what its last one showed."""
    ring = regions.ring("lobby")
    regions.runtime.overlaps = True
    for _ in range(2):
        regions.show(ring, 100)
    assert regions.service.step(True)
    assert len(regions.runtime.started) == 1
    while regions.service.step(False):
        pass
    assert len(regions.stored("lobby")) == 2
    ring.close(unlink=True)


def test_a_failed_batch_is_looked_at_again(regions: Bench) -> None:
    ring = regions.ring("lobby")
    regions.runtime.failures_left = 1
    for _ in range(2):
        regions.show(ring, 100)
        regions.service.step(True)
    assert regions.runtime.inputs == [1, 1], "nothing is known of the first picture"
    assert len(regions.stored("lobby")) == 1
    ring.close(unlink=True)


def test_another_model_is_taken_over_between_overlapping_batches(regions: Bench) -> None:
    ring = regions.ring("lobby")
    regions.runtime.overlaps = True
    box = np.array([[20.0, 24.0, 30.0, 44.0]], np.float32)
    regions.runtime.found = Detections(box, np.array([0.9], np.float32), np.zeros(1, np.uint8))
    for _ in range(2):
        regions.show(ring, 100)
        regions.service.step(True)
    regions.show(ring, 100)
    regions.service.step(True)
    (slot, _) = regions.slots
    slot.request_load(lambda: Detector(regions.runtime, "another", "full"))
    wait_until(lambda: slot._future is not None and slot._future.done(), what="the other model")
    regions.show(ring, 100)
    while regions.service.step(True):
        pass
    assert slot.detector is not None
    assert slot.detector.model == "another"
    assert len(regions.stored("lobby")) == 4, "no frame is lost"
    ring.close(unlink=True)
