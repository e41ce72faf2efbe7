"""Nothing that is kept per track, camera or frame grows for ever: thousands come and go, little stays."""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np
import pytest

from crowdperf.capture.connection import ConnectionQuality
from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.inference.evidence_cache import EvidenceCache, FrameAnalysis
from crowdperf.inference.metrics import InferenceMetrics
from crowdperf.inference.ppe_stage import PpeCadence
from crowdperf.inference.scheduler import FrameScheduler
from crowdperf.messaging.schema import FrameDetections, PpeColumns
from crowdperf.models.geometry_store import MIN_GEOMETRIES, GeometryStore
from crowdperf.models.postprocess import Detections
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.pipeline import CameraPipeline
from crowdperf.web.live.counts import MAX_COUNT_KEYS, MAX_EVENT_IDS, CountKey, TodayCounts
from crowdperf.web.parameters import Span
from tests.conftest import wait_until
from tests.support.bounds import largest
from tests.support.feeds import make_feed
from tests.support.sequences import detections, standing


def test_the_walker_sees_what_grows() -> None:
    class Leaky:
        def __init__(self) -> None:
            self.inner = {"seen": [dict.fromkeys(range(500), 0)]}

    class Slotted:
        __slots__ = ("kept",)

        def __init__(self) -> None:
            self.kept = deque(range(600))

    seen = set(range(700))
    hidden = Leaky()

    def closes_over_it(item: object) -> bool:
        return item in seen

    assert largest(Leaky()) == (500, "Leaky.inner['seen'][]")
    assert largest([Slotted()]) == (600, "list[].kept")
    assert largest({"rule": closes_over_it})[0] == 700
    assert largest([hidden.__init__])[0] == 500, "what a bound method belongs to"  # type: ignore[misc]


def test_tracking_forgets_tracks() -> None:
    lines = tuple(Line(id=f"l{n}", p1=[0.2 + n / 5, 0.0], p2=[0.2 + n / 5, 1.0]) for n in range(3))
    zone = Zone(id="hall", polygon=[[0.2, 0.0], [0.8, 0.0], [0.8, 1.0], [0.2, 1.0]])
    pipeline = CameraPipeline("lobby", Tracking(), lines, (zone,), 10.0)
    sizes = []
    for number in range(1, 2401):
        # Every third of a second everybody jumps elsewhere: new tracks, and those before are lost.
        shift = (number // 4 * 0.37) % 0.7
        people = [standing(shift + n / 25, 0.3 + 0.09 * n) for n in range(6)]
        columns = PpeColumns(np.arange(6, dtype="<u2").tobytes(), b"", b"", b"", b"", 720)
        frame: FrameDetections = msgspec.structs.replace(detections(number, people), ppe=columns)
        live, _ = pipeline.step(frame)
        if live and number % 400 == 0:
            sizes.append((*largest(pipeline), max(np.frombuffer(live.tracks, "<u4").tolist(), default=0)))
    assert sizes[-1][2] > 700, "hundreds of tracks have come and gone"
    assert max(size for size, _, _ in sizes) < 400, sizes


@pytest.mark.parametrize("rounds", [3000])
def test_inference_forgets_cameras_and_frames(rounds: int) -> None:
    schedule, cadence, runtime = FrameScheduler(2, 0.5), PpeCadence(), ProcessRuntime("inference", 0)
    stats, cache = InferenceMetrics(runtime.metrics, 0.0), EvidenceCache(30.0)
    nobody = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
    for number in range(rounds):
        camera, now = f"camera-{number}", number / 10
        spec = RingSpec(32 + 32 * (number % 900), 32, "yuv420p", 64, 64, 4, 10.0, 0, 1.0)
        feed = make_feed(camera, spec)
        schedule.offer(feed, 1, now)
        schedule.take([feed], now, 64)
        schedule.record_cost(feed.geometry, 0.01)
        cadence.admit(feed, [feed], now, now)
        small = RingSpec(32, 32, "yuv420p", 64, 64, 4, 10.0, 0, 1.0)
        scene = FrameAnalysis(FrameStamp(1, number, 0, round(now * 1e9)), small, nobody, None)
        cache.put(camera, np.zeros(small.frame_bytes, np.uint8), scene)
        stats.record_frame(feed)
        stats.report(now, [feed], 0, 0)
        stats.record_gone(feed)
    runtime.metrics.prune(100)
    for part in (schedule, cadence, cache._frames, cache._sizes, stats, runtime.metrics):
        size, path = largest(part)
        assert size <= 1000, path
    cache.close()


def test_todays_counts_are_bounded_whatever_cameras_say() -> None:
    tally = TodayCounts(Span(0, 1e9))
    for number in range(2 * MAX_COUNT_KEYS):
        tally.add(f"e{number}", 1.0, CountKey(f"camera-{number}", "door", "person", "in"))
        if number % 1000 == 0:
            tally.take_changes()
    assert largest(tally)[0] == max(MAX_COUNT_KEYS, MAX_EVENT_IDS)


def test_compiled_sizes_of_cameras_that_went_are_bounded() -> None:
    store = GeometryStore(lambda size: object())
    for number in range(100):
        size = (32 * (number + 1), 32)
        store.retain({size})
        wait_until(lambda size=size: store.ready(size), what="the size")
        if number % 2:
            store.get(size)
    assert len(store._builds) <= MIN_GEOMETRIES
    assert len(store._built) <= MIN_GEOMETRIES


def test_capture_keeps_a_fixed_past() -> None:
    quality = ConnectionQuality(0.0)
    for second in range(40_000):
        quality.record_frames(float(second), 10)
        if second % 50 == 0:
            quality.record_loss(float(second), stall=True)
    assert largest(quality)[0] < 500


def test_metrics_are_bounded_by_housekeeping() -> None:
    metrics = Metrics()
    for number in range(12_000):
        metrics.count("frames_analysed", 1, str(number))
    metrics.prune()
    assert largest(metrics)[0] == 10_000
