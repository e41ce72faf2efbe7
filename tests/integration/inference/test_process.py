"""The inference process: real rings, real model, real Redis."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis

from crowdperf.frames.doorbell import answers
from crowdperf.frames.ring import FrameWriter
from crowdperf.inference import process
from crowdperf.inference.ppe_items import BOX_GROWTH_SHARE
from crowdperf.messaging import codec
from crowdperf.messaging.schema import EvidenceRequest, FrameDetections
from crowdperf.messaging.streams import DETECTIONS, EVIDENCE_REQUESTS, stream_key
from crowdperf.models.registry import resolve_model
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings import reload
from crowdperf.settings.engine import Inference, Models, get_selection
from crowdperf.settings.ppe import PPE_CLASSES
from crowdperf.settings.process_config import InferenceConfig
from crowdperf.storage.evidence import get_picture_path
from tests.conftest import RedisServer, wait_until
from tests.support.pictures import asset, ring_frame

Start = Callable[..., ProcessRuntime]


@pytest.fixture
def start(tmp_path: Path, redis_server: RedisServer) -> Iterator[Start]:
    """Start the process's main in a thread; stopped at the end."""
    running: list[tuple[ProcessRuntime, threading.Thread]] = []

    def run(**settings: object) -> ProcessRuntime:
        config = InferenceConfig(
            settings=Inference(device="cpu", staleness_s=20.0, **settings),  # type: ignore[arg-type]
            queue_max=4,
            cuda_empty_every=1,
            sizes=((640, 360),),
            ring_prefix=str(tmp_path / "crowdperf.0123abcd."),
            doorbell=str(tmp_path / "bell.sock"),
            reload_file=str(tmp_path / "choice.json"),
            cache=str(tmp_path / "cache"),
            evidence=str(tmp_path / "evidence"),
            redis_url=redis_server.url,
            key_prefix="t:",
        )
        runtime = ProcessRuntime("inference", 0)
        thread = threading.Thread(target=process.main, args=(config, runtime), daemon=True)
        thread.start()
        running.append((runtime, thread))
        return runtime

    yield run
    for runtime, thread in running:
        runtime.stop()
        thread.join(60)
        assert not thread.is_alive()


def writer(
    tmp_path: Path, camera: str, name: str, width: int = 640, height: int = 360, **spec_of: float
) -> tuple[FrameWriter, np.ndarray]:
    wait_until(lambda: answers(tmp_path / "bell.sock"), what="the process looks")
    frame, spec = ring_frame(asset(name), width, height)
    spec = msgspec.structs.replace(spec, **spec_of)
    return FrameWriter(tmp_path / f"crowdperf.0123abcd.{camera}", spec, tmp_path / "bell.sock"), frame


def publish(to: FrameWriter, frame: np.ndarray) -> None:
    to.slot()[:] = frame.tobytes()
    to.publish(time.time_ns(), time.monotonic_ns())


def stored(client: redis.Redis, camera: str) -> list[FrameDetections]:
    rows = client.xrange(stream_key(DETECTIONS, camera, "t:"))
    decoded = [codec.decode(DETECTIONS, fields) for _, fields in rows]
    assert [row.decode() for row, _ in rows] == [f"{one.epoch}-{one.sequence}" for one in decoded]
    return decoded


def people(message: FrameDetections) -> int:
    scores, classes = np.frombuffer(message.scores, "<f4"), np.frombuffer(message.classes, "u1")
    return int(((scores > 0.5) & (classes == 0)).sum())


def test_frames_of_every_camera_become_detections(tmp_path: Path, redis_server: RedisServer, start: Start) -> None:
    runtime, client = start(), redis_server.client()
    rings = {camera: writer(tmp_path, camera, name) for camera, name in (("a", "bus.jpg"), ("b", "zidane.jpg"))}
    for n in range(1, 4):
        for camera, (ring, frame) in rings.items():
            publish(ring, frame)
            wait_until(lambda camera=camera, n=n: len(stored(client, camera)) == n, what=f"frame {n} of {camera}")
    for camera, (ring, _) in rings.items():
        messages = stored(client, camera)
        assert [message.sequence for message in messages] == [1, 2, 3]
        assert {message.epoch for message in messages} == {ring.epoch}
        assert (messages[0].source_width, messages[0].source_height) == (
            ring.spec.source_width,
            ring.spec.source_height,
        )
        boxes = np.frombuffer(messages[0].boxes, "<f4").reshape(-1, 4)
        assert len(boxes) == len(messages[0].scores) // 4 == len(messages[0].classes)
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        assert runtime.metrics.get_counter("frames_analysed", camera) == 3
        ring.close(unlink=True)
    assert people(stored(client, "a")[0]) >= 3
    assert people(stored(client, "b")[0]) == 2
    snapshot = runtime.metrics.snapshot("inference", 0.0)
    assert snapshot.texts["model"][""] == "crowdperf-person-vehicle-n"
    assert snapshot.texts["last_error"][""] == ""
    assert not [name for name in snapshot.counters if name.startswith("drops_")]


def test_people_of_cameras_with_a_ppe_rule_are_looked_at(
    tmp_path: Path, redis_server: RedisServer, start: Start
) -> None:
    runtime, client = start(), redis_server.client()
    ring, frame = writer(tmp_path, "gate", "bus.jpg", 1280, 720, ppe_fps=100.0, model_width=640, target_fps=200.0)
    other, blank = writer(tmp_path, "lobby", "bus.jpg", target_fps=200.0)

    def looked_at() -> list[FrameDetections]:
        count = runtime.metrics.get_counter("frames_analysed", "gate")
        publish(ring, frame)
        publish(other, blank)
        wait_until(lambda: runtime.metrics.get_counter("frames_analysed", "gate") > count)
        return [message for message in stored(client, "gate") if message.ppe is not None]

    # The model is loaded beside the work: frames before that are published without.
    wait_until(looked_at, what="a frame that the PPE model has looked at")
    message = looked_at()[0]
    assert message.ppe is not None
    boxes = np.frombuffer(message.boxes, "<f4").reshape(-1, 4)
    seen, owners = (np.frombuffer(column, "<u2") for column in (message.ppe.persons, message.ppe.owners))
    assert len(seen) >= 3
    assert set(np.frombuffer(message.classes, "u1")[seen]) == {0}
    assert message.ppe.picture_height == 720
    items = np.frombuffer(message.ppe.boxes, "<f4").reshape(-1, 4)
    kinds = [PPE_CLASSES[index] for index in message.ppe.items]
    assert len(items) == len(owners) == len(kinds) == len(message.ppe.scores) // 4
    assert "no_hardhat" in kinds or "no_vest" in kinds, "nobody at the bus stop wears a helmet or a vest"
    centres = (items[:, :2] + items[:, 2:]) / 2
    margin = BOX_GROWTH_SHARE * (boxes[owners, 2:] - boxes[owners, :2])
    inside = (centres >= boxes[owners, :2] - margin) & (centres <= boxes[owners, 2:] + margin)
    assert inside.all(), "items lie on their owners"
    assert not [one for one in stored(client, "lobby") if one.ppe is not None], "a camera without a rule"
    assert runtime.metrics.snapshot("inference", 0.0).texts["ppe_model"][""] == "crowdperf-ppe-n"
    for each in (ring, other):
        each.close(unlink=True)


def test_a_ppe_model_that_cannot_be_had_leaves_counting_alone(
    tmp_path: Path, redis_server: RedisServer, start: Start
) -> None:
    runtime, client = start(models=Models(ppe="./no-such-ppe.pt")), redis_server.client()
    ring, frame = writer(tmp_path, "gate", "bus.jpg", ppe_fps=100.0)

    def read_problem() -> str:
        publish(ring, frame)
        return runtime.metrics.snapshot("inference", 0.0).texts.get("ppe_error", {}).get("", "")

    wait_until(read_problem, what="the reason")
    assert "no-such-ppe.pt' does not exist" in read_problem()
    count = len(stored(client, "gate"))

    def counted() -> bool:
        # Again: so many have come by now that any one of them may be ahead of the camera's rate, and is left out.
        publish(ring, frame)
        return len(stored(client, "gate")) > count

    wait_until(counted, what="a frame that is analysed without it")
    assert people(stored(client, "gate")[-1]) >= 3
    assert stored(client, "gate")[-1].ppe is None
    assert runtime.metrics.snapshot("inference", 0.0).texts["last_error"][""] == ""
    ring.close(unlink=True)


def test_repaired_person_model_loads_and_ppe_model_is_ready(
    tmp_path: Path, redis_server: RedisServer, start: Start
) -> None:
    late = tmp_path / "late" / "model.xml"
    runtime, client = start(models=Models(person=str(late)), precision="full"), redis_server.client()
    ring, frame = writer(tmp_path, "gate", "bus.jpg", 1280, 720, ppe_fps=100.0, model_width=640, target_fps=200.0)

    def text(name: str) -> str:
        publish(ring, frame)
        return runtime.metrics.snapshot("inference", 0.0).texts.get(name, {}).get("", "")

    wait_until(lambda: text("ppe_model") == "crowdperf-ppe-n", what="the PPE model, which is not to wait for the other")
    assert "model.xml' does not exist" in text("last_error")
    assert text("model") == "", "that is what /readyz looks at"
    wait_until(lambda: runtime.metrics.get_counter("drops_no_model", "gate") > 1)
    assert stored(client, "gate") == [], "nobody was looked for: no frame says that nobody was there"
    # The process does more than wait: evidence is saved out of the ring.
    asked = EvidenceRequest(
        id="v1", camera="gate", ts=time.time(), epoch=ring.epoch, sequence=ring.sequence, detection=0
    )
    client.xadd(stream_key(EVIDENCE_REQUESTS, prefix="t:"), codec.encode(EVIDENCE_REQUESTS, asked))
    picture = get_picture_path(tmp_path / "evidence", "gate", asked.id, asked.ts, "full")
    wait_until(picture.exists, what="the evidence")
    assert picture.stat().st_size > 10_000
    # Put right, the .xml last, which is what is looked for.
    late.parent.mkdir()
    source = resolve_model("crowdperf-person-vehicle-n", "person", "openvino").path
    for suffix in (".bin", ".xml"):
        shutil.copyfile(source.with_suffix(suffix), late.with_suffix(".part"))
        late.with_suffix(".part").rename(late.with_suffix(suffix))
    wait_until(lambda: text("model") and stored(client, "gate"), 60, "the model, without a restart")
    assert text("last_error") == ""
    wait_until(lambda: text("model") and any(row.ppe for row in stored(client, "gate")), what="both models' work")
    assert people(stored(client, "gate")[-1]) >= 3
    ring.close(unlink=True)


def test_new_model_takes_over_between_frames_a_bad_one_never(
    tmp_path: Path, redis_server: RedisServer, start: Start
) -> None:
    runtime, client = start(precision="full"), redis_server.client()
    ring, frame = writer(tmp_path, "a", "zidane.jpg", target_fps=200.0)

    def text(name: str) -> str:
        return runtime.metrics.snapshot("inference", 0.0).texts.get(name, {}).get("", "")

    def one_more() -> None:
        publish(ring, frame)
        count = ring.sequence
        wait_until(lambda: runtime.metrics.get_counter("frames_analysed", "a") == count, what=f"frame {count}")

    def choose(**change: object) -> None:
        settings = Inference(**change)  # type: ignore[arg-type]
        reload.write_reload_file(tmp_path / "choice.json", get_selection(settings))

    one_more()
    assert text("device").endswith("full")
    choose(models=Models(person="./no-such-model.pt"))
    while "no-such-model" not in text("last_error"):
        one_more()
    assert text("device").endswith("full"), "the old one goes on"
    choose(precision="int8")
    while not text("device").endswith("int8"):
        one_more()
    one_more()
    assert text("last_error") == ""
    # Not one frame was skipped, dropped or seen twice from the first to the last, through both changes.
    messages = stored(client, "a")
    assert [message.sequence for message in messages] == list(range(1, ring.sequence + 1))
    assert [people(message) for message in messages] == [2] * len(messages)
    assert not [name for name in runtime.metrics.snapshot("inference", 0.0).counters if name.startswith("drops_")]
    ring.close(unlink=True)


def test_detections_wait_while_redis_is_away(tmp_path: Path, redis_server: RedisServer, start: Start) -> None:
    runtime, client = start(), redis_server.client()
    ring, frame = writer(tmp_path, "a", "zidane.jpg")
    publish(ring, frame)
    wait_until(lambda: len(stored(client, "a")) == 1)
    redis_server.kill()
    for n in (2, 3):
        publish(ring, frame)
        wait_until(lambda n=n: runtime.metrics.get_counter("frames_analysed", "a") == n)
    redis_server.start()
    wait_until(lambda: [message.sequence for message in stored(client, "a")] == [1, 2, 3], what="what waited")
    ring.close(unlink=True)


def test_a_bad_model_is_told_once_and_the_process_lives(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    runtime = start(models=Models(person="./no-such-model.pt"))
    wait_until(lambda: "last_error" in runtime.metrics.snapshot("inference", 0.0).texts)
    assert "no-such-model.pt" in runtime.metrics.snapshot("inference", 0.0).texts["last_error"][""]
    assert [record for record in caplog.records if "no-such-model.pt' does not exist" in record.getMessage()]


def test_a_restarted_process_stores_nothing_twice(tmp_path: Path, redis_server: RedisServer, start: Start) -> None:
    client = redis_server.client()
    first = start()
    ring, frame = writer(tmp_path, "a", "zidane.jpg")
    publish(ring, frame)
    wait_until(lambda: len(stored(client, "a")) == 1)
    first.stop()
    wait_until(lambda: not (tmp_path / "bell.sock").exists(), what="the first one's end")
    second = start()
    wait_until(lambda: second.metrics.get_counter("frames_analysed", "a") == 1, what="the fresh frame, analysed again")
    publish(ring, frame)
    wait_until(lambda: [message.sequence for message in stored(client, "a")] == [1, 2])
    ring.close(unlink=True)
