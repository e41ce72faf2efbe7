"""Which camera's turn it is for the PPE model, and which frames it selects and analyses."""

from __future__ import annotations

import numpy as np
import pytest

from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.inference.camera_feed import CameraFeed
from crowdperf.inference.evidence_cache import EvidenceCache
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_stage import LoadedFrame, PpeCadence, PpeStage
from crowdperf.inference.scheduler import FrameScheduler
from crowdperf.models.postprocess import Detections
from crowdperf.models.registry import ModelError
from crowdperf.runtime.metrics import Metrics
from tests.support.feeds import make_feed


def camera(name: str, ppe_fps: float = 1.0) -> CameraFeed:
    return make_feed(name, RingSpec(640, 360, "yuv420p", 640, 360, 4, 10.0, 0, ppe_fps))


def test_a_camera_is_due_at_its_rate() -> None:
    cadence, gate, lobby = PpeCadence(), camera("gate"), camera("lobby", 0.0)
    times = [number / 10 for number in range(60)]
    assert sum(cadence.admit(gate, [gate, lobby], at, at) for at in times) == 6
    assert not cadence.admit(lobby, [gate, lobby], 9.0, 9.0), "no rule"


def test_the_model_rests_as_long_as_it_worked() -> None:
    cadence, feeds = PpeCadence(), [camera("gate"), camera("lobby")]
    gate, lobby = feeds
    assert cadence.admit(gate, feeds, 0.0, 0.0)
    cadence.record_busy(0.4, 0.4)
    assert not cadence.admit(lobby, feeds, 0.5, 0.5)
    assert not cadence.admit(lobby, feeds, 0.7, 0.7)
    assert cadence.admit(lobby, feeds, 0.8, 0.8)


def test_a_camera_that_came_back_is_due_at_once() -> None:
    cadence = PpeCadence()
    for at in (5.0, 5.1):
        gate = camera("gate")
        assert cadence.admit(gate, [gate], at, at)


def test_a_replaced_ring_keeps_its_turn_and_its_counts() -> None:
    cadence, old, new = PpeCadence(), camera("gate"), camera("gate")
    assert cadence.admit(old, [old], 5.0, 5.0)
    old.record_drop("paced", 3)
    new.continue_from(old)
    assert not cadence.admit(new, [new], 5.1, 5.1)
    assert new.drops == {"paced": 3}


def test_broken_frame_is_replaced_by_the_next_one() -> None:
    cadence, gate = PpeCadence(), camera("gate")
    assert cadence.admit(gate, [gate], 5.0, 5.0)
    cadence.cancel(gate)
    assert cadence.admit(gate, [gate], 5.1, 5.1)
    assert not cadence.admit(gate, [gate], 5.2, 5.2)


@pytest.mark.parametrize(("cameras", "look_s"), [(8, 0.2), (9, 0.15), (10, 0.1), (16, 0.3)])
def test_cameras_share_a_model_that_has_no_time_for_all(cameras: int, look_s: float) -> None:
    """Batches of two repeat their order, so their first cameras must not be served every time."""
    schedule, cadence = FrameScheduler(2, 0.5), PpeCadence()
    feeds = [camera(f"camera-{number}") for number in range(cameras)]
    offered, looks = dict.fromkeys(feeds, 0), dict.fromkeys(feeds, 0)
    now, seconds = 0.0, 120.0
    while now < seconds:
        for feed in feeds:
            while offered[feed] / 10 < now:
                offered[feed] += 1
                schedule.offer(feed, offered[feed], offered[feed] / 10)
        batch = schedule.take(feeds, now, 2)
        served = next((frame.feed for frame in batch if cadence.admit(frame.feed, feeds, frame.arrived, now)), None)
        for frame in batch:
            now += 0.02
            schedule.record_cost(frame.feed.geometry, 0.02)
        if served:
            now += look_s
            cadence.record_busy(now, look_s)
            looks[served] += 1
        if not batch:
            now += 0.005
    assert min(looks.values()) >= 0.5 * max(looks.values()), looks
    possible = min(cameras * seconds, seconds / (2 * look_s))
    assert sum(looks.values()) >= 0.75 * possible, "letting others go first leaves the model idle"


class Ring:
    """A ring whose pictures are whole, or overwritten while they are copied."""

    def __init__(self, spec: RingSpec, is_whole: bool = True) -> None:
        self.spec, self.is_whole = spec, is_whole

    def picture(self, sequence: int) -> np.ndarray:
        return np.full(self.spec.frame_bytes, sequence, np.uint8)

    def intact(self, sequence: int) -> bool:
        return self.is_whole


class Model:
    """A PPE model that sees no item."""

    def detect(self, frames: list[np.ndarray], spec: RingSpec) -> list[Detections]:
        return [Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))] * len(frames)


PERSON = Detections(np.array([[0.2, 0.1, 0.4, 0.9]], np.float32), np.array([0.9], np.float32), np.zeros(1, np.uint8))


def loaded(feed: CameraFeed, sequence: int, is_whole: bool = True) -> LoadedFrame:
    return LoadedFrame(feed, FrameStamp(1, sequence, 0, round(5e9)) if is_whole else None)


def test_the_stage_selects_one_frame_of_a_batch_and_analyses_it() -> None:
    metrics, cache, requests = Metrics(), EvidenceCache(30.0), []
    slot = ModelSlot("ppe")
    stage = PpeStage(slot, lambda: requests.append("ppe"), metrics, cache, lambda: 5.0)
    lobby, gate, torn = camera("lobby", 0.0), camera("gate"), camera("torn")
    feeds = [lobby, torn, gate]
    for feed in feeds:
        feed.reader = Ring(feed.spec, feed is not torn)  # type: ignore[assignment]
    batch = [loaded(lobby, 1), loaded(gate, 1, False), loaded(gate, 2), loaded(lobby, 2)]
    assert stage.select(batch, feeds) is None
    assert requests == ["ppe"], "the model is requested for the first camera with a rule"
    slot.detector = Model()  # type: ignore[assignment]
    assert stage.select([loaded(torn, 3)], feeds) is None, "its picture was overwritten during the copy"
    assert torn.get_ppe_wait(5.0) == 1.0, "its next frame is due at once"
    selected = stage.select(batch, feeds)
    assert selected is not None
    assert (selected.batch_index, selected.feed, selected.stamp.sequence) == (2, gate, 2)
    assert stage.run(selected, PERSON).persons == b"\0\0"
    assert metrics.get_counter("ppe_frames", "gate") == metrics.get_counter("ppe_people", "gate") == 1
    assert cache.get(("gate", 1, 2)) is not None
    for part in (cache, slot):
        part.close()


@pytest.mark.parametrize("error", [ModelError("no memory. Remedy: wait."), RuntimeError("the plug-in failed")])
def test_a_failure_of_the_model_costs_no_frame(error: Exception) -> None:
    def fail(frames: list[np.ndarray], spec: RingSpec) -> list[Detections]:
        raise error

    metrics, cache, slot, gate = Metrics(), EvidenceCache(30.0), ModelSlot("ppe"), camera("gate")
    slot.detector = Model()  # type: ignore[assignment]
    slot.detector.detect = fail  # type: ignore[method-assign,assignment,union-attr]
    stage = PpeStage(slot, lambda: None, metrics, cache, lambda: 5.0)
    gate.reader = Ring(gate.spec)  # type: ignore[assignment]
    selected = stage.select([loaded(gate, 1)], [gate])
    assert selected is not None
    assert stage.run(selected, PERSON) is None
    stage.poll()
    assert metrics.get_counter("ppe_failures", "gate") == 1
    assert metrics.snapshot("inference", 0.0).get_text("ppe_error") == str(error)
    slot.detector = Model()  # type: ignore[assignment]
    assert stage.run(selected, PERSON) is not None
    stage.poll()
    assert metrics.snapshot("inference", 0.0).get_text("ppe_error") == ""
    for part in (cache, slot):
        part.close()
