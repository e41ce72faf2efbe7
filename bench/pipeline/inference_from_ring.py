"""From rings to published detections, beside the bare network: cameras send twice what can be analysed.

The loop is the product's: rings in shared memory, doorbell aside, schedule, detector, messages to a real Redis. Other
processes write the rings. The bare network computes batches of the same sizes, alternately, and nothing else. What
each precision counts wrongly on the demo's scenes, and its average precision, stand beside its speed. On a CUDA device,
where there is one, the bare network is a CUDA graph per batch size whose input is on the device already.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from bench import accuracy
from bench.harness import Row, compared
from bench.micro.inference import CpuSubject
from bench.micro.inference_gpu import GpuSubject
from bench.subject import SPEC, Subject, cuda, pictures
from crowdperf.frames.ring import unlink_instance
from crowdperf.inference.engine import InferenceEngine
from crowdperf.inference.evidence_cache import EvidenceCache
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_stage import PpeStage
from crowdperf.inference.rings import RingSet
from crowdperf.messaging.outbox import BackgroundSender
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.streams import DETECTIONS, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.timings import STAGES
from crowdperf.settings.config import Config, Deployment
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.process_config import build_inference_config
from crowdperf.supervision.embedded_redis import build_command, find_server_binary

OVERLOAD = 2.0
STALENESS_S = 0.5


def rows(short: bool) -> list[Row]:
    """inference_from_ring/<suffix>, count_error, map50_95, jain_fairness, frame_age_ms/p50, p99, stage_ms/<stage>."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder, redis(Path(folder)) as url:
        for subject in _subjects(Path(folder)):
            speed, *rest = Site(subject, url).measure_rows(5 if short else 9, 1.5 if short else 3.0)
            found += [speed, *accuracy.rows(subject.settings, subject.suffix, Path(folder)), *rest]
    return found


def _subjects(cache: Path) -> Iterator[Subject]:
    """Yield the subjects one after the other, each gone before the next one is made."""
    yield CpuSubject("full", cache)
    yield CpuSubject("int8", cache)
    if cuda():
        yield GpuSubject(cache)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Yield an embedded server for the time of the bench; gives its URL."""
    socket = folder / "redis.sock"
    server = subprocess.Popen(
        [*build_command(find_server_binary(), socket, folder), "--appendonly", "no", "--loglevel", "warning"]
    )
    try:
        client = connect(f"unix://{socket}")
        while True:
            with contextlib.suppress(*OUTAGE):
                client.ping()
                break
            time.sleep(0.05)
        yield f"unix://{socket}"
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def writing(prefix: str, cameras: Sequence[str], fps: float) -> Iterator[None]:
    """Yield a process that writes the ring of each of these cameras `fps` times a second, one after the other."""
    geometry = (SPEC.width, SPEC.height, SPEC.pix_fmt, SPEC.source_width, SPEC.source_height)
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from crowdperf.frames.ring import FrameWriter, RingSpec\n"
        f"spec = RingSpec(*{geometry!r}, 8, 240.0, 0)\n"
        f"rings = [FrameWriter(Path({prefix!r} + name), spec) for name in {tuple(cameras)!r}]\n"
        "picture = sys.stdin.buffer.read()\n"
        "began, count = time.monotonic(), 0\n"
        "while True:\n"
        "    ring = rings[count % len(rings)]\n"
        "    ring.slot()[:] = picture\n"
        "    ring.publish(time.time_ns(), time.monotonic_ns())\n"
        "    count += 1\n"
        f"    time.sleep(max(0.0, began + count / ({fps!r} * len(rings)) - time.monotonic()))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None
        child.stdin.write(pictures(1)[0].tobytes())
        child.stdin.close()
        yield
    finally:
        child.kill()
        child.wait()
        for name in cameras:
            unlink_instance(prefix + name)


class Site:
    """The service over real rings, one turn after the other, for some seconds at a time."""

    def __init__(self, subject: Subject, url: str) -> None:
        self.subject, self.url = subject, url
        self.suffix = subject.suffix
        self.camera_ids = [f"camera-{number}" for number in range(subject.cameras)]
        self.prefix = f"/dev/shm/crowdperf.bench-{subject.suffix}-{time.time_ns():x}/ring."
        self.metrics = Metrics()
        self.client: Any = connect(url)
        self.cameras = RingSet(self.prefix, STALENESS_S)
        self.sender = BackgroundSender(connect(url))
        ppe_stage = PpeStage(ModelSlot("ppe"), lambda: None, self.metrics, EvidenceCache(1.0), time.monotonic)
        config = build_inference_config(Deployment(Config(), Paths(Path()), read_environment({"QUEUE_MAX": "2"})))
        config = replace(
            config, settings=replace(config.settings, staleness_s=STALENESS_S, analysis="whole"), cuda_empty_every=0
        )
        self.engine = InferenceEngine(
            *(config, ModelSlot("person", subject.detector), ppe_stage, self.cameras),
            *(self.sender, self.metrics, time.monotonic),
        )

    def measure_rows(self, repetitions: int, seconds: float) -> list[Row]:
        """Measure alternately."""
        fps = OVERLOAD * 1e3 / self.subject.bare() / len(self.camera_ids)
        pairs = []
        self.client.flushall()
        with contextlib.ExitStack() as stack:
            for number in range(self.subject.writers):
                stack.enter_context(writing(self.prefix, self.camera_ids[number :: self.subject.writers], fps))
            while len(self.cameras.feeds) < len(self.camera_ids):
                self.engine.step(True)
            for _ in range(repetitions):
                ours = self.measure_published_fps(seconds)
                pairs.append((ours, self.measure_network_fps(seconds / 2)))
        counts = [self.metrics.get_counter("frames_analysed", camera) for camera in self.camera_ids]
        jain = sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))
        ages = [seconds * 1000 for seconds in self.metrics.get_recent("frame_age_seconds")]
        self.sender.close()
        self.cameras.close()
        return [
            compared(
                f"inference_from_ring/{self.suffix}",
                *(pairs, "the network alone"),
                unit="frames/s",
                better="higher",
            ),
            Row(name=f"jain_fairness/{self.suffix}", value=jain, unit="", limit_or_peer="0.95", better="higher"),
            Row(name=f"frame_age_ms/p50/{self.suffix}", value=statistics.median(ages), unit="ms"),
            Row(name=f"frame_age_ms/p99/{self.suffix}", value=float(np.percentile(ages, 99)), unit="ms"),
            *(self.build_stage_row(stage) for stage in STAGES if stage not in ("copy", "ppe")),
        ]

    def measure_published_fps(self, seconds: float) -> float:
        """Frames per second whose detections Redis has."""
        before = self.count_published()
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.engine.step(True)
        return (self.count_published() - before) / (time.perf_counter() - began)

    def measure_network_fps(self, seconds: float) -> float:
        """Frames per second of the network alone."""
        began, frames = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            frames += self.subject.compute()
        self.subject.settle()
        return frames / (time.perf_counter() - began)

    def count_published(self) -> int:
        """Messages stored so far."""
        return sum(
            self.client.xinfo_stream(stream_key(DETECTIONS, camera))["entries-added"]
            for camera in self.list_published_cameras()
        )

    def list_published_cameras(self) -> list[str]:
        """Cameras that have a stream by now."""
        return [camera for camera in self.camera_ids if self.client.exists(stream_key(DETECTIONS, camera))]

    def build_stage_row(self, stage: str) -> Row:
        """Milliseconds per analysed frame."""
        snapshot = self.metrics.snapshot("bench", 0.0)
        seconds = snapshot.counters[f"stage_{stage}_s"][""]
        frames = sum(self.metrics.get_counter("frames_analysed", camera) for camera in self.camera_ids)
        return Row(name=f"stage_ms/{stage}/{self.suffix}", value=seconds * 1e3 / frames, unit="ms/frame")
