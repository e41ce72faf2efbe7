"""Live camera tiles: one task per watched camera encodes each frame once and hands the bytes to all who watch."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from pathlib import Path

import msgspec
import numpy as np

from crowdperf.events.schema import TrackedFrame
from crowdperf.frames.ring import RingUnavailable
from crowdperf.settings.base import CLASSES
from crowdperf.web.feed import Feed
from crowdperf.web.pictures import Picture, RingView

FRAME_S = 0.1
"""A tile shows at most ten pictures a second."""
WAIT_FOR_BOXES_S = 0.25
"""A camera whose boxes do not come (inference is busy or away) still shows its picture."""
BOXES_FRESH_S = 1.0
BOXES_APART_S = 0.3
"""Boxes that are this much older than the picture would be drawn beside the people that they belong to."""
DOWN_AGAIN_S = 2.0


class Viewer:
    """One WebSocket's wishes and what waits for it: the newest message per camera, so that a slow one skips."""

    def __init__(self) -> None:
        self._waiting: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self.skipped = 0

    def offer(self, camera: str, message: bytes) -> None:
        """Replace what waits of this camera."""
        self.skipped += camera in self._waiting
        self._waiting[camera] = message
        self._wake.set()

    def drop(self, camera: str) -> None:
        """Forget what waits of a camera that is no longer wanted."""
        self._waiting.pop(camera, None)

    async def take(self) -> list[bytes]:
        """All that waits, at most one message per camera."""
        await self._wake.wait()
        self._wake.clear()
        messages = list(self._waiting.values())
        self._waiting.clear()
        return messages


class Tiles:
    """The watched cameras of one web process."""

    def __init__(self, ring_prefix: str, cameras: tuple[str, ...]) -> None:
        self.views = {camera: RingView(Path(ring_prefix + camera)) for camera in cameras}
        self._viewers: dict[str, set[Viewer]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._last: dict[str, bytes] = {}
        self.frames_sent = 0
        self.feed: Feed | None = None

    def watched(self) -> set[str]:
        """Cameras that somebody looks at."""
        return set(self._viewers)

    def join(self, camera: str, viewer: Viewer) -> None:
        """Send this camera to the viewer from now on, beginning with the tile's last message."""
        self._viewers.setdefault(camera, set()).add(viewer)
        if camera not in self._tasks:
            self._tasks[camera] = asyncio.create_task(self._show(camera), name=f"tile {camera}")
        elif camera in self._last:
            viewer.offer(camera, self._last[camera])

    def leave(self, camera: str, viewer: Viewer) -> None:
        """Stop sending it; the last viewer ends the camera's task."""
        viewers = self._viewers.get(camera, set())
        viewers.discard(viewer)
        viewer.drop(camera)
        if not viewers:
            self._viewers.pop(camera, None)
            self._last.pop(camera, None)
            task = self._tasks.pop(camera, None)
            if task is not None:
                task.cancel()

    def close(self) -> None:
        """End every task and let go of the rings."""
        for task in self._tasks.values():
            task.cancel()
        for view in self.views.values():
            view.close()

    async def _show(self, camera: str) -> None:
        """Encode and hand out this camera's frames until nobody watches."""
        assert self.feed is not None, "tiles are shown only while the feed runs"
        arrival = self.feed.arrival(camera)
        last, down_at = (0, 0), float("-inf")
        while True:
            began = time.monotonic()
            frame = self._boxes(camera)
            try:
                picture = await asyncio.to_thread(
                    self.views[camera].take, (frame.epoch, frame.sequence) if frame else None, last
                )
            except RingUnavailable:
                last = (0, 0)
                if began - down_at >= DOWN_AGAIN_S:
                    down_at = began
                    self._publish(camera, pack({"camera": camera, "state": "down"}, b""))
            else:
                if picture is not None:
                    down_at = float("-inf")
                    last = (picture.epoch, picture.sequence)
                    self._publish(camera, pack(header(camera, picture, frame), picture.jpeg))
            arrival.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(arrival.wait(), WAIT_FOR_BOXES_S)
            await asyncio.sleep(max(0.0, FRAME_S - (time.monotonic() - began)))

    def _boxes(self, camera: str) -> TrackedFrame | None:
        """The camera's newest boxes while they are fresh enough to be drawn on a picture of now."""
        assert self.feed is not None
        frame = self.feed.frames.get(camera)
        if frame is None or time.time() - frame.captured_at_ns / 1e9 > BOXES_FRESH_S:
            return None
        return frame

    def _publish(self, camera: str, message: bytes) -> None:
        self._last[camera] = message
        for viewer in self._viewers.get(camera, ()):
            viewer.offer(camera, message)
            self.frames_sent += 1


def header(camera: str, picture: Picture, frame: TrackedFrame | None) -> dict[str, object]:
    """What the browser needs besides the picture; boxes are normalised to the picture that is sent."""
    known: dict[str, object] = {
        "camera": camera,
        "state": "live",
        "epoch": picture.epoch,
        "sequence": picture.sequence,
        "captured_at": picture.captured_at_ns / 1e9,
        "width": picture.width,
        "height": picture.height,
    }
    if frame is None:
        return {**known, "boxes": [], "tracks": [], "classes": [], "occupancy": {}, "boxes_sequence": None}
    if picture.captured_at_ns - frame.captured_at_ns > BOXES_APART_S * 1e9:
        return {**known, "boxes": [], "tracks": [], "classes": [], "occupancy": frame.occupancy, "boxes_sequence": None}
    boxes = np.frombuffer(frame.boxes, "<f4").reshape(-1, 4)
    return {
        **known,
        "boxes": np.round(boxes.astype(float), 4).tolist(),
        "tracks": np.frombuffer(frame.tracks, "<u4").tolist(),
        "classes": [CLASSES[index] if index < len(CLASSES) else "unknown" for index in frame.classes],
        "occupancy": frame.occupancy,
        "boxes_sequence": frame.sequence,
    }


def pack(head: dict[str, object], jpeg: bytes) -> bytes:
    """Length of the header (u32, big-endian), the header as JSON, the JPEG."""
    encoded = msgspec.json.encode(head)
    return struct.pack(">I", len(encoded)) + encoded + jpeg
