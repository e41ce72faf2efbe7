"""Requests for evidence: the frame itself while it is kept, else a later one that says so."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from crowdperf.frames.ring import FrameReader, FrameStamp, FrameWriter
from crowdperf.inference.anonymize import Rectangle, anonymize, get_region
from crowdperf.inference.evidence_cache import EvidenceCache, FrameAnalysis
from crowdperf.inference.evidence_writer import EvidenceWriter
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import EvidenceRequest, PpeColumns
from crowdperf.messaging.streams import EVIDENCE_REQUESTS, stream_key
from crowdperf.models.postprocess import Detections
from crowdperf.runtime.metrics import Metrics
from crowdperf.storage.evidence import EvidenceMetadata, get_picture_path, read_metadata
from tests.conftest import RedisServer, wait_until
from tests.support.pictures import asset, ring_frame

FRAME, SPEC = ring_frame(asset("zidane.jpg"), 640, 360)
BOXES = np.array([[0.1, 0.2, 0.3, 0.9], [0.6, 0.1, 0.9, 0.95]], np.float32)
FOUND = Detections(BOXES, np.array([0.9, 0.8], np.float32), np.array([0, 0], np.uint8))
COLUMNS = PpeColumns(
    persons=b"\0\0\1\0",
    owners=b"\1\0",
    items=b"\2",
    scores=np.array([0.7], "<f4").tobytes(),
    boxes=np.array([[0.7, 0.1, 0.8, 0.25]], "<f4").tobytes(),
    picture_height=360,
)


@pytest.fixture
def evidence_cache() -> Iterator[EvidenceCache]:
    made = EvidenceCache(30.0)
    yield made
    made.close()


def make_writer(
    tmp_path: Path, evidence_cache: EvidenceCache, blur: Any = "none", url: str = "unix:///nowhere"
) -> EvidenceWriter:
    return EvidenceWriter(url, "", evidence_cache, str(tmp_path / "ring."), tmp_path / "evidence", blur, Metrics())


def keep(evidence_cache: EvidenceCache, sequence: int) -> None:
    now = time.time_ns()
    evidence_cache.put(
        "gate", FRAME.copy(), FrameAnalysis(FrameStamp(7, sequence, now, time.monotonic_ns()), SPEC, FOUND, COLUMNS)
    )


def ask(sequence: int, detection: int = 1, **more: Any) -> EvidenceRequest:
    return EvidenceRequest(
        **{"id": "e", "camera": "gate", "ts": 1e9, "epoch": 7, "sequence": sequence, "detection": detection, **more}
    )


def saved(tmp_path: Path, kind: Any, name: str = "e", camera: str = "gate") -> tuple[np.ndarray, EvidenceMetadata]:
    """Read a saved picture and what is written in it."""
    return read(get_picture_path(tmp_path / "evidence", camera, name, 1e9, kind))


def read(path: Path) -> tuple[np.ndarray, EvidenceMetadata]:
    data = path.read_bytes()
    metadata = read_metadata(data)
    assert metadata is not None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), metadata


def test_the_frame_itself_with_its_subject(tmp_path: Path, evidence_cache: EvidenceCache) -> None:
    keep(evidence_cache, 5)
    assert make_writer(tmp_path, evidence_cache).handle(ask(5)) == ""
    image, metadata = saved(tmp_path, "full")
    assert image.shape == (360, 640, 3)
    assert (metadata.exact, metadata.sequence) == (True, 5)
    # The subject and what it wears come first.
    assert [(box.class_name, box.subject) for box in metadata.boxes] == [
        ("person", True),
        ("no_hardhat", True),
        ("person", False),
    ]
    cropped, inside = saved(tmp_path, "crop")
    assert cropped.shape[1] / 640 == pytest.approx(0.3 + 0.1, abs=0.04)
    assert {box.class_name for box in inside.boxes if box.subject} == {"person", "no_hardhat"}


def test_missing_frame_is_replaced_by_the_nearest_later_one(tmp_path: Path, evidence_cache: EvidenceCache) -> None:
    for sequence in (8, 12):
        keep(evidence_cache, sequence)
    assert make_writer(tmp_path, evidence_cache).handle(ask(5, x1=0.1, y1=0.2, x2=0.3, y2=0.9)) == ""
    _, metadata = saved(tmp_path, "full")
    assert (metadata.exact, metadata.sequence) == (False, 8)
    assert saved(tmp_path, "crop")[0].size, "a crop of where the person was"
    assert make_writer(tmp_path, evidence_cache).handle(ask(5, id="other")) == ""
    assert saved(tmp_path, "full", "other")[0].size
    with pytest.raises(FileNotFoundError):
        saved(tmp_path, "crop", "other")  # Without a box nobody knows where the person was.


def test_a_frame_that_nobody_kept_comes_from_the_ring(tmp_path: Path, evidence_cache: EvidenceCache) -> None:
    ring = FrameWriter(tmp_path / "ring.gate", SPEC)
    for _ in range(3):
        ring.slot()[:] = FRAME.tobytes()
        ring.publish(time.time_ns(), time.monotonic_ns())
    writer = make_writer(tmp_path, evidence_cache)
    assert writer.handle(ask(2, epoch=ring.epoch)) == ""
    present = saved(tmp_path, "full")[1]
    assert (present.exact, present.sequence, present.epoch) == (True, 2, ring.epoch)
    assert writer.handle(ask(1, id="f", epoch=ring.epoch - 1)) == ""
    gone = saved(tmp_path, "full", "f")[1]
    assert (gone.exact, gone.sequence, gone.epoch) == (False, 3, ring.epoch)
    assert FrameReader(tmp_path / "ring.gate").head() == 3
    ring.close(unlink=True)


@pytest.mark.parametrize(("camera", "says"), [("nobody", "frame is gone"), ("../../etc", "no camera id")])
def test_what_cannot_be_had_is_answered_with_the_reason(
    tmp_path: Path, evidence_cache: EvidenceCache, camera: str, says: str
) -> None:
    assert says in make_writer(tmp_path, evidence_cache).handle(ask(5, camera=camera))
    assert not (tmp_path / "evidence").exists()


def test_a_disk_without_room_is_answered_too(tmp_path: Path, evidence_cache: EvidenceCache) -> None:
    keep(evidence_cache, 5)
    (tmp_path / "evidence").write_text("in the way")
    assert "cannot be saved" in make_writer(tmp_path, evidence_cache).handle(ask(5))


def test_a_picture_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    """Half a picture stays where the disk is full: here the kernel allows a file of 1 KB, in a process of its own."""
    code = f"""
import resource, signal
from pathlib import Path
from crowdperf.storage.evidence import save_picture
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
try:
    save_picture(Path({str(tmp_path)!r}) / "gate" / "picture.jpg", bytes(1 << 20))
except OSError as error:
    print(error.errno)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == errno.EFBIG
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_unexpected_request_is_refused_and_the_next_one_served(
    tmp_path: Path, evidence_cache: EvidenceCache, redis_server: RedisServer
) -> None:
    keep(evidence_cache, 5)
    one = make_writer(tmp_path, evidence_cache, url=redis_server.url)
    one.start()
    client = redis_server.client()
    for request in (ask(5, id="endless", ts=float("inf")), ask(5, id="good")):
        Publisher(client, EVIDENCE_REQUESTS).publish(request)

    good = get_picture_path(tmp_path / "evidence", "gate", "good", 1e9, "crop")
    wait_until(lambda: good.exists(), what="the second picture")
    one.close()
    assert len(list((tmp_path / "evidence").rglob("*.jpg"))) == 2


def test_requests_are_read_again_after_redis_lost_its_streams(
    tmp_path: Path, evidence_cache: EvidenceCache, redis_server: RedisServer
) -> None:
    keep(evidence_cache, 5)
    writer = make_writer(tmp_path, evidence_cache, url=redis_server.url)
    writer.start()
    client = redis_server.client()
    publisher: Publisher[EvidenceRequest] = Publisher(client, EVIDENCE_REQUESTS)
    for name in ("before", "after"):
        publisher.publish(ask(5, id=name))
        picture = get_picture_path(tmp_path / "evidence", "gate", name, 1e9, "crop")
        wait_until(picture.exists, what=f"the picture {name} the loss")
        client.flushall()
    writer.close()


def test_faces_are_hidden_and_everything_where_never_analysed(tmp_path: Path, evidence_cache: EvidenceCache) -> None:
    keep(evidence_cache, 5)
    plain, hidden = make_writer(tmp_path, evidence_cache), make_writer(tmp_path, evidence_cache, "upper_body")
    assert plain.handle(ask(5)) == hidden.handle(ask(5, id="b")) == ""
    before, after = (saved(tmp_path, "full", name)[0].astype(int) for name in ("e", "b"))
    face, elsewhere = (slice(50, 150), slice(400, 560)), (slice(340, 360), slice(250, 350))
    assert np.abs(before[face] - after[face]).mean() > 10
    assert np.abs(before[elsewhere] - after[elsewhere]).mean() < 3
    crops = [saved(tmp_path, "crop", name)[0].astype(int) for name in ("e", "b")]
    assert np.abs(crops[0] - crops[1]).mean() > 5
    ring = FrameWriter(tmp_path / "ring.lobby", SPEC)
    ring.slot()[:] = FRAME.tobytes()
    ring.publish(time.time_ns(), time.monotonic_ns())
    assert hidden.handle(ask(1, id="c", camera="lobby", epoch=ring.epoch)) == ""
    unknown, _ = saved(tmp_path, "full", "c", "lobby")
    assert len(np.unique(unknown.reshape(-1, 3), axis=0)) < len(np.unique(before.reshape(-1, 3), axis=0)) / 5
    ring.close(unlink=True)


def test_requests_through_redis_are_handled_once(
    tmp_path: Path, evidence_cache: EvidenceCache, redis_server: RedisServer
) -> None:
    client = redis_server.client()
    publisher: Publisher[EvidenceRequest] = Publisher(client, EVIDENCE_REQUESTS)
    for sequence in (5, 6):
        keep(evidence_cache, sequence)
        publisher.publish(ask(sequence, id=f"e{sequence}"))
    writer = make_writer(tmp_path, evidence_cache, url=redis_server.url)
    writer.start()
    publisher.publish(ask(7, id="e7", camera="nobody"))

    key = stream_key(EVIDENCE_REQUESTS)

    def acknowledged() -> bool:
        groups: Any = client.xinfo_groups(key)
        last: Any = client.xinfo_stream(key)
        return bool(groups) and (groups[0]["pending"], groups[0]["last-delivered-id"]) == (0, last["last-generated-id"])

    wait_until(acknowledged, what="three acknowledgements")
    writer.close()
    found = {path.relative_to(tmp_path / "evidence") for path in (tmp_path / "evidence").rglob("*.jpg")}
    expected = {get_picture_path(Path(), "gate", name, 1e9, kind) for name in ("e5", "e6") for kind in ("full", "crop")}
    assert found == expected
    assert all(read(tmp_path / "evidence" / path)[1].exact for path in found)


@pytest.mark.parametrize(
    ("name", "box", "face"),
    [
        ("zidane.jpg", (751.0, 42.0, 1147.0, 714.0), (895, 95, 1060, 290)),
        ("zidane.jpg", (128.0, 204.0, 1138.0, 715.0), (505, 230, 665, 455)),
        ("bus.jpg", (671.0, 397.0, 810.0, 879.0), (788, 400, 810, 460)),
        ("bus.jpg", (49.0, 402.0, 240.0, 904.0), (112, 415, 168, 472)),
    ],
)
def test_no_part_of_a_face_is_left(name: str, box: Rectangle, face: tuple[int, int, int, int]) -> None:
    """Two men cut by the picture's lower edge, one by its side, and one who stands.

    Boxes as the model finds them; faces by hand, from the brow to the chin.
    """
    before = asset(name)
    after = before.copy()
    anonymize(after, [box], "face")
    x1, y1, x2, y2 = face
    left, top, right, bottom = get_region(box, "face")
    assert left <= x1 < x2 <= right
    assert top <= y1 < y2 <= bottom
    # What makes a face known is its fine structure: nothing of it is left, down to the chin.
    for rows in (slice(y1, y2), slice((y1 + y2) // 2, y2)):
        shown, left_over = (cv2.Laplacian(image[rows, x1:x2], cv2.CV_64F).std() for image in (before, after))
        assert left_over < 0.2 * shown
