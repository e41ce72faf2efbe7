"""What a tile's message says, and when a camera's task ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from crowdperf.frames.ring import RingUnavailable
from crowdperf.messaging.schema import TrackedFrame
from crowdperf.runtime.metrics import Metrics
from crowdperf.web.live import tiles
from crowdperf.web.live.pictures import EncodedPicture
from crowdperf.web.live.tiles import MAX_BOXES_LAG_S, MAX_SILENCE_S, Tiles, Viewer, build_header

TAKEN_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize(("late_s", "shown"), [(0.0, 1), (MAX_BOXES_LAG_S - 0.01, 1), (MAX_BOXES_LAG_S + 0.01, 0)])
def test_boxes_of_another_moment_are_not_drawn(late_s: float, shown: int) -> None:
    picture = EncodedPicture(1, 9, TAKEN_NS + round(late_s * 1e9), 640, 360, b"jpeg")
    box = np.array([[0.1, 0.2, 0.3, 0.4]], "<f4").tobytes()
    frame = TrackedFrame("plaza", 1, 7, TAKEN_NS, box, np.array([5], "<u4").tobytes(), bytes([0]), {"square": 2})
    message = build_header("plaza", picture, frame)
    assert [len(message[name]) for name in ("boxes", "tracks", "classes")] == [shown] * 3  # type: ignore[arg-type]
    assert message["occupancy"] == {"square": 2}
    assert message["boxes_sequence"] == (7 if shown else None)


class EmptyView:
    """A ring view of a camera that is down."""

    def encode_frame(self, *_arguments: Any) -> None:
        raise RingUnavailable("no ring")


@pytest.mark.parametrize("turns", range(4))
def test_last_viewer_may_leave_while_boxes_arrive(turns: int) -> None:
    """The wait for boxes swallows a cancellation that comes in the same turn of the loop."""

    async def leave_as_boxes_arrive() -> asyncio.Task[None]:
        made, viewer, arrival = Tiles("", [], Metrics()), Viewer(), asyncio.Event()
        made.feed = cast(Any, SimpleNamespace(frames={}, get_arrival=lambda camera: arrival))
        made.views = {"plaza": cast(Any, EmptyView())}
        made.join("plaza", viewer)
        [task] = (task for task in asyncio.all_tasks() if task.get_name() == "tile plaza")
        await viewer.take_message()
        arrival.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        made.leave("plaza", viewer)
        await asyncio.wait([task], timeout=10)
        return task

    task = asyncio.run(leave_as_boxes_arrive())
    assert task.done()
    assert task.cancelled() or task.exception() is None


@pytest.mark.parametrize("answers", [True, False])
def test_a_viewer_that_never_answers_is_silent(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    now = 100.0
    monkeypatch.setattr(tiles.time, "monotonic", lambda: now)

    async def watch() -> bool:
        nonlocal now
        viewer = Viewer()
        now += 3600
        assert not viewer.is_silent(now), "nothing was sent"
        viewer.offer("plaza", b"picture")
        await viewer.take_message()
        if answers:
            viewer.record_message()
        now += MAX_SILENCE_S + 1
        return viewer.is_silent(now)

    assert asyncio.run(watch()) is not answers
