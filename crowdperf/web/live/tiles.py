"""Live camera tiles: one task per watched camera encodes each frame once per format, for all its viewers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import struct
import time
from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np

from crowdperf.frames.ring import RingUnavailable
from crowdperf.messaging.schema import TrackedFrame
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import start_task
from crowdperf.settings.base import CLASSES
from crowdperf.web.live.feed import Feed
from crowdperf.web.live.pictures import EncodedPicture, RingView
from crowdperf.web.live.rate_control import QUALITY_STEPS, PictureFormat, RateController, choose_format

MIN_FRAME_INTERVAL_S = 0.1
"""A tile shows at most ten pictures a second."""
MAX_BOXES_WAIT_S = 0.25
"""A camera whose boxes do not arrive (inference is busy or down) still shows its picture."""
MAX_BOXES_AGE_S = 1.0
MAX_BOXES_LAG_S = 0.3
"""Boxes older than the picture by more than this would be drawn beside their people."""
DOWN_REPEAT_S = 2.0
MAX_SILENCE_S = 120.0
"""A client that gets messages must send one itself within this time."""


class Viewer:
    """One WebSocket: widths of its tiles, its rate control, and the newest waiting message per camera."""

    def __init__(self) -> None:
        self.rate_controller = RateController(time.monotonic())
        self.widths: dict[str, int] = {}
        """Camera -> width of its tile in pixels, as the client sent it."""
        self._waiting: dict[str, bytes] = {}
        self._offered_at: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._unanswered_since: float | None = None

    def record_message(self) -> None:
        """Record that the client has sent a message: somebody is there."""
        self._unanswered_since = None

    def is_silent(self, now: float) -> bool:
        """Check whether the client gets messages and has sent none for too long, a confirmation for example."""
        return self._unanswered_since is not None and now - self._unanswered_since > MAX_SILENCE_S

    def get_due_format(self, camera: str, now: float) -> PictureFormat | None:
        """Return the format of the camera's next picture for this client; None while it is too early."""
        step = self.rate_controller.step
        # Half an interval of tolerance: the intervals vary.
        if (
            now - self._offered_at.get(camera, float("-inf"))
            < QUALITY_STEPS[step].interval_s - MIN_FRAME_INTERVAL_S / 2
        ):
            return None
        return choose_format(self.widths.get(camera, 0), step)

    def offer(self, camera: str, message: bytes) -> None:
        """Replace the camera's waiting message."""
        now = time.monotonic()
        self._offered_at[camera] = now
        self.rate_controller.record_ready(now, camera in self._waiting)
        self._waiting[camera] = message
        self._wake.set()

    def record_confirmed(self, count: int) -> None:
        """Record the number of pictures that the client has received.

        Raises:
            ValueError: The number is higher than that of the pictures sent.
        """
        self.rate_controller.record_confirmed(time.monotonic(), count)
        self._wake.set()

    def drop(self, camera: str) -> None:
        """Drop the waiting message of a camera that the client no longer shows."""
        self._waiting.pop(camera, None)
        self._offered_at.pop(camera, None)

    async def take_message(self) -> bytes:
        """Wait until the client has room; return the next message. Cameras take turns."""
        while not self._waiting or not self.rate_controller.has_room(time.monotonic()):
            self._wake.clear()
            await self._wake.wait()
        message = self._waiting.pop(next(iter(self._waiting)))
        now = time.monotonic()
        self.rate_controller.record_sent(now, len(message))
        if self._unanswered_since is None:
            self._unanswered_since = now
        return message


class Tiles:
    """The watched cameras of one web process.

    Args:
        ring_prefix: path of the rings without the camera id.
        cameras: ids of the enabled cameras.
        metrics: counts the failures of the cameras' tasks.
    """

    def __init__(self, ring_prefix: str, cameras: Collection[str], metrics: Metrics) -> None:
        self._ring_prefix, self._metrics = ring_prefix, metrics
        self.views: dict[str, RingView] = {}
        """Enabled camera -> its ring. Replaced as a whole, never changed: other threads read it."""
        self._viewers: dict[str, set[Viewer]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._last_messages: dict[str, bytes] = {}
        self.frames_sent = 0
        self.feed: Feed | None = None
        self.set_cameras(cameras)

    def get_watched(self) -> set[str]:
        """Return the cameras with at least one viewer."""
        return set(self._viewers)

    def get_watched_by(self, viewer: Viewer) -> set[str]:
        """Return the cameras that this viewer watches."""
        return {camera for camera, viewers in self._viewers.items() if viewer in viewers}

    def set_cameras(self, cameras: Collection[str]) -> None:
        """Replace the cameras. Viewers of a removed camera receive the state `down`."""
        before = self.views
        self.views = {camera: before.get(camera) or RingView(Path(self._ring_prefix + camera)) for camera in cameras}
        for camera in before.keys() - self.views.keys():
            for viewer in list(self._viewers.get(camera, ())):
                self.leave(camera, viewer)
                viewer.offer(camera, pack_message({"camera": camera, "state": "down"}, b""))
            before[camera].close()

    def join(self, camera: str, viewer: Viewer) -> None:
        """Start sending this camera to the viewer, beginning with the tile's last message."""
        self._viewers.setdefault(camera, set()).add(viewer)
        if camera not in self._tasks:
            self._tasks[camera] = start_task(
                f"tile {camera}", functools.partial(self._stream_camera, camera), self._metrics
            )
        elif camera in self._last_messages:
            viewer.offer(camera, self._last_messages[camera])

    def leave(self, camera: str, viewer: Viewer) -> None:
        """Stop sending it; the last viewer ends the camera's task."""
        viewers = self._viewers.get(camera, set())
        viewers.discard(viewer)
        viewer.drop(camera)
        if not viewers:
            self._viewers.pop(camera, None)
            self._last_messages.pop(camera, None)
            task = self._tasks.pop(camera, None)
            if task is not None:
                task.cancel()

    def close(self) -> None:
        """Cancel every task and close the rings."""
        for task in self._tasks.values():
            task.cancel()
        for view in self.views.values():
            view.close()

    async def _stream_camera(self, camera: str) -> None:
        """Encode and publish this camera's frames while it has viewers."""
        assert self.feed is not None, "tiles need a running feed"
        arrival = self.feed.get_arrival(camera)
        last, down_at = (0, 0), float("-inf")
        # `asyncio.wait_for` swallows a cancellation that comes with the boxes: `leave` ends the loop in any case.
        while self._tasks.get(camera) is asyncio.current_task():
            began = time.monotonic()
            frame = self._get_fresh_boxes(camera)
            viewers = self._group_viewers(camera, began)
            try:
                pictures = await asyncio.to_thread(
                    self.views[camera].encode_frame,
                    tuple(viewers),
                    (frame.epoch, frame.sequence) if frame else None,
                    last,
                )
            except RingUnavailable:
                last = (0, 0)
                if began - down_at >= DOWN_REPEAT_S:
                    down_at = began
                    self._publish(camera, pack_message({"camera": camera, "state": "down"}, b""), self._viewers[camera])
            else:
                for form, picture in pictures.items():
                    down_at = float("-inf")
                    last = (picture.epoch, picture.sequence)
                    message = pack_message(build_header(camera, picture, frame, form.quality), picture.jpeg)
                    # Viewers who have left in the meantime receive nothing.
                    self._publish(camera, message, viewers[form] & self._viewers[camera])
            arrival.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(arrival.wait(), MAX_BOXES_WAIT_S)
            await asyncio.sleep(max(0.0, MIN_FRAME_INTERVAL_S - (time.monotonic() - began)))

    def _get_fresh_boxes(self, camera: str) -> TrackedFrame | None:
        """Return the camera's newest boxes while they are fresh enough for a live picture."""
        assert self.feed is not None
        frame = self.feed.frames.get(camera)
        if frame is None or time.time() - frame.captured_at_ns / 1e9 > MAX_BOXES_AGE_S:
            return None
        return frame

    def _group_viewers(self, camera: str, now: float) -> dict[PictureFormat, set[Viewer]]:
        """Group the viewers who are due for a picture by its format."""
        due: dict[PictureFormat, set[Viewer]] = {}
        for viewer in self._viewers[camera]:
            form = viewer.get_due_format(camera, now)
            if form is not None:
                due.setdefault(form, set()).add(viewer)
        return due

    def _publish(self, camera: str, message: bytes, viewers: Collection[Viewer]) -> None:
        self._last_messages[camera] = message
        for viewer in viewers:
            viewer.offer(camera, message)
            self.frames_sent += 1


def build_header(
    camera: str, picture: EncodedPicture, frame: TrackedFrame | None, quality: int = QUALITY_STEPS[0].quality
) -> dict[str, object]:
    """Build the data that the browser needs besides the picture.

    Args:
        camera: Id of the camera.
        picture: The picture that is sent.
        frame: Its boxes; None without fresh ones.
        quality: JPEG quality.

    Returns:
        The header; boxes are normalised to the picture.
    """
    age_ns = picture.captured_at_ns - frame.captured_at_ns if frame else 0
    drawn = frame if age_ns <= MAX_BOXES_LAG_S * 1e9 else None
    boxes = np.frombuffer(drawn.boxes, "<f4").reshape(-1, 4).astype(float) if drawn else np.empty((0, 4))
    return {
        "camera": camera,
        "state": "live",
        "epoch": picture.epoch,
        "sequence": picture.sequence,
        "captured_at": picture.captured_at_ns / 1e9,
        "width": picture.width,
        "height": picture.height,
        "quality": quality,
        "boxes": np.round(boxes, 4).tolist(),
        "tracks": np.frombuffer(drawn.tracks, "<u4").tolist() if drawn else [],
        "classes": [CLASSES[index] if index < len(CLASSES) else "unknown" for index in drawn.classes] if drawn else [],
        "occupancy": frame.occupancy if frame else {},
        "boxes_sequence": drawn.sequence if drawn else None,
    }


def pack_message(header: dict[str, object], jpeg: bytes) -> bytes:
    """Pack length of the header (u32, big-endian), the header as JSON, and the JPEG."""
    encoded = msgspec.json.encode(header)
    return struct.pack(">I", len(encoded)) + encoded + jpeg
