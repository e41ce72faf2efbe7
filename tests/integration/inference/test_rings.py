"""Rings come, go and are replaced; a bad one concerns its own camera only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdperf.frames.ring import FrameWriter, RingSpec
from crowdperf.inference.rings import RingSet
from tests.conftest import wait_until

SPEC = RingSpec(64, 36, "yuv420p", 128, 72, 4, 10.0, 0)


def publish(writer: FrameWriter, age_s: float = 0.0) -> int:
    writer.slot()[0] = 1
    return writer.publish(time.time_ns(), time.monotonic_ns() - int(age_s * 1e9))


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return str(tmp_path / "crowdperf.0123abcd.")


@pytest.fixture
def cameras(prefix: str) -> Iterator[RingSet]:
    found = RingSet(prefix, 20.0)
    yield found
    found.close()


def ring(prefix: str, camera: str, spec: RingSpec = SPEC) -> FrameWriter:
    return FrameWriter(Path(prefix + camera), spec)


def sequences(cameras: RingSet) -> list[tuple[str, int, bool]]:
    return [(arrival.feed.camera, arrival.sequence, arrival.available) for arrival in cameras.iter_arrivals()]


def test_a_new_ring_is_found_and_its_fresh_frames_arrive_once(prefix: str, cameras: RingSet) -> None:
    assert cameras.scan(time.monotonic()) == []
    writer = ring(prefix, "lobby")
    publish(writer, age_s=60.0)
    publish(writer)
    publish(writer)
    assert cameras.scan(time.monotonic()) == []
    assert "lobby" in cameras.feeds
    assert sequences(cameras) == [("lobby", 2, True), ("lobby", 3, True)], "the old frame is none of our business"
    assert sequences(cameras) == []
    publish(writer)
    assert sequences(cameras) == [("lobby", 4, True)]
    writer.close(unlink=True)
    assert [feed.camera for feed in cameras.scan(time.monotonic())] == ["lobby"]
    assert cameras.feeds == {}


def test_lapped_frames_are_reported_with_estimated_times(prefix: str, cameras: RingSet) -> None:
    writer = ring(prefix, "lobby")
    publish(writer)
    cameras.scan(time.monotonic())
    assert sequences(cameras) == [("lobby", 1, True)]
    for _ in range(7):
        publish(writer)
    arrivals = list(cameras.iter_arrivals())
    assert [(one.sequence, one.available) for one in arrivals] == [(n, n >= 5) for n in range(2, 9)]
    assert [one.arrived for one in arrivals] == sorted(one.arrived for one in arrivals)
    writer.close(unlink=True)


def test_a_replaced_ring_is_opened_again_and_begins_afresh(prefix: str, cameras: RingSet) -> None:
    old = ring(prefix, "lobby")
    for _ in range(3):
        publish(old)
    cameras.scan(time.monotonic())
    list(cameras.iter_arrivals())
    first_epoch = cameras.feeds["lobby"].reader.epoch
    old.close(unlink=True)
    # An epoch is the time of the ring's making, in milliseconds; no process restarts within one.
    wait_until(lambda: time.time_ns() // 1_000_000 > first_epoch, what="the next millisecond")
    new = ring(prefix, "lobby", RingSpec(64, 48, "yuv420p", 128, 96, 4, 10.0, 0))
    publish(new)
    assert cameras.scan(time.monotonic()) == []
    assert "lobby" in cameras.feeds
    reader = cameras.feeds["lobby"].reader
    assert reader.epoch > first_epoch
    assert reader.spec.height == 48
    assert sequences(cameras) == [("lobby", 1, True)]
    new.close(unlink=True)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 2000, bytes(8192)])
def test_a_bad_ring_is_named_and_the_others_go_on(prefix: str, cameras: RingSet, content: bytes) -> None:
    Path(prefix + "broken").write_bytes(content)
    Path(prefix + "lobby.partial").write_bytes(content)
    writer = ring(prefix, "lobby")
    publish(writer)
    assert cameras.scan(time.monotonic()) == []
    assert "lobby" in cameras.feeds
    assert list(cameras.errors) == ["broken"]
    assert sequences(cameras) == [("lobby", 1, True)]
    Path(prefix + "broken").unlink()
    mended = ring(prefix, "broken")
    assert cameras.scan(time.monotonic()) == []
    assert "broken" in cameras.feeds
    assert cameras.errors == {}
    for one in (writer, mended):
        one.close(unlink=True)


def test_rings_of_another_installation_are_left_alone(tmp_path: Path, cameras: RingSet) -> None:
    other = ring(str(tmp_path / "crowdperf.ffffffff."), "lobby")
    assert cameras.scan(time.monotonic()) == []
    other.close(unlink=True)


def test_a_mapping_is_pinned_while_it_is_open(prefix: str) -> None:
    pinned: list[int] = []
    cameras = RingSet(
        prefix, 0.5, lambda buffer: pinned.append(buffer.ctypes.data), lambda buffer: pinned.remove(buffer.ctypes.data)
    )
    writer = ring(prefix, "lobby")
    cameras.scan(time.monotonic())
    assert len(pinned) == 1
    cameras.close()
    assert pinned == []
    writer.close(unlink=True)
