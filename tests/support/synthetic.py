"""A site without cameras and models: rings, boxes and events made up, for tests of what people see."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameWriter, RingSpec, unlink_instance
from crowdperf.messaging.process_metrics import publish_snapshot
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import AnyEvent, Direction, LineCrossed, TrackedFrame, ZoneChanged
from crowdperf.messaging.streams import EVENTS, TRACKS
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.camera import Camera
from crowdperf.settings.config import Config
from crowdperf.settings.environment import Paths
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import add_crossings, build_crossing

FPS = 10.0
SPEC = RingSpec(
    width=640,
    height=384,
    pix_fmt="yuv420p",
    source_width=1280,
    source_height=720,
    slots=4,
    target_fps=FPS,
    frame_skip=0,
)
COLOURS = ((196, 120, 60), (70, 70, 190), (80, 150, 70), (150, 80, 150), (60, 150, 190), (120, 120, 120))


class SyntheticSite:
    """Writes what capture, inference, tracking and the recorder would write, for every enabled camera of `config`."""

    def __init__(self, config: Config, paths: Paths, url: str) -> None:
        self.config = config
        self._paths = paths
        self._url = url
        self._client = connect(url)
        self._tracks: Publisher[TrackedFrame] = Publisher(self._client, TRACKS)
        self._events: Publisher[AnyEvent] = Publisher(self._client, EVENTS)
        self._calendar = Calendar(config.site.timezone)
        self._writers: dict[str, FrameWriter] = {}
        self._stop = threading.Event()
        self._silent: set[str] = set()
        self._thread: threading.Thread | None = None
        self._count = 0
        self._runtimes = {
            name: ProcessRuntime(name, 0) for name in ("inference", "tracking-0", "worker-recorder-0", "web")
        }
        self.make_metrics("inference").set_text("model", "synthetic")
        self._runtimes |= {
            f"capture-{camera.id}": ProcessRuntime(f"capture-{camera.id}", 0) for camera in self._list_enabled_cameras()
        }

    def _list_enabled_cameras(self) -> list[Camera]:
        return [camera for camera in self.config.cameras if camera.enabled]

    def get_ring_path(self, camera: str) -> Path:
        """Path of the camera's ring."""
        return self._paths.get_ring_path(camera)

    def write_frame(self, camera: str, moment: float) -> list[tuple[float, float, float, float]]:
        """Write one frame of `camera`, and publish its boxes; returns the boxes that were drawn."""
        if camera not in self._writers:
            self._writers[camera] = FrameWriter(self.get_ring_path(camera), SPEC)
        writer = self._writers[camera]
        picture, boxes = draw(moment, seed=sum(camera.encode()))
        writer.slot()[:] = np.ascontiguousarray(to_ring(picture)).data.cast("B")
        now = time.time_ns()
        sequence = writer.publish(now, time.monotonic_ns())
        zones = next(row.zones for row in self.config.cameras if row.id == camera)
        self._tracks.publish(
            TrackedFrame(
                camera=camera,
                epoch=writer.epoch,
                sequence=sequence,
                captured_at_ns=now,
                boxes=np.asarray(boxes, "<f4").tobytes(),
                tracks=np.arange(1, len(boxes) + 1, dtype="<u4").tobytes(),
                classes=bytes([0] * (len(boxes) - 1) + [2]),
                occupancy={zone.id: int(3 + 2 * np.sin(moment / 3 + index)) for index, zone in enumerate(zones)},
            ),
            camera,
        )
        return boxes

    def publish_crossing(
        self, camera: str, line: str, direction: Direction, class_name: str = "person", ts: float | None = None
    ) -> str:
        """Publish a crossing and record it; returns its id."""
        self._count += 1
        event = LineCrossed(
            id=f"{camera}.1.{self._count}.{line}.{direction}.0",
            camera=camera,
            ts=time.time() if ts is None else ts,
            line=line,
            direction=direction,
            class_name=class_name,
            track=self._count,
            epoch=1,
            sequence=self._count,
        )
        self.publish(event)
        add_crossings(self._client, self._calendar, [build_crossing(event)])
        return event.id

    def publish(self, event: AnyEvent) -> None:
        """Append any event to the stream."""
        self._events.publish(event)

    def publish_zone_change(self, camera: str, zone: str, occupancy: int) -> None:
        """Publish a change of a zone's occupancy."""
        self._count += 1
        self.publish(
            ZoneChanged(
                id=f"{camera}.1.{self._count}.{zone}.in.0",
                camera=camera,
                ts=time.time(),
                zone=zone,
                change="in",
                class_name="person",
                track=self._count,
                occupancy=occupancy,
                epoch=1,
                sequence=self._count,
            )
        )

    def publish_metrics(self) -> None:
        """Publish every process's snapshot once."""
        for name, runtime in self._runtimes.items():
            if name == "web":
                continue
            if name.startswith("capture-"):
                camera = name.removeprefix("capture-")
                runtime.metrics.set_text("state", "live" if camera not in self._silent else "backing_off", camera)
            publish_snapshot(self._client, runtime)

    def make_metrics(self, process: str) -> Metrics:
        """Return the made-up metrics of a process."""
        return self._runtimes[process].metrics

    def start(self) -> None:
        """Go on by itself, ten frames a second of every camera."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def silence(self, camera: str) -> None:
        """Stop the frames of a camera."""
        self._silent.add(camera)

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(1 / FPS):
            for camera in self._list_enabled_cameras():
                if camera.id not in self._silent:
                    self.write_frame(camera.id, time.monotonic())
                    self.make_metrics(f"capture-{camera.id}").count("frames_captured", 1, camera.id)
                    self.make_metrics("inference").count("frames_analysed", 1, camera.id)
            if turn % 10 == 0:
                self.publish_metrics()
            turn += 1

    def close(self) -> None:
        """Stop, and remove the rings."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for writer in self._writers.values():
            writer.close(unlink=True)
        unlink_instance(str(self._paths.get_ring_path("")))


def draw(moment: float, seed: int = 0) -> tuple[NDArray[np.uint8], list[tuple[float, float, float, float]]]:
    """Return a picture of walking figures on a plaza, uint8 BGR of shape (360, 640, 3), and their normalised boxes."""
    shade = np.linspace(172, 118, 360, dtype=np.uint8)[:, None, None]
    picture = np.broadcast_to(shade, (360, 640, 3)).copy()
    for x in range(-400, 1100, 90):
        cv2.line(picture, (x, 360), (320 + (x - 320) // 3, 90), (128, 130, 134), 1, cv2.LINE_AA)
    picture[:90] = (150, 138, 126)
    boxes = []
    for index, colour in enumerate(COLOURS):
        phase = moment * (0.06 + 0.01 * index) + index * 0.37 + seed * 0.113
        x = int((phase % 1.0) * 680) - 20
        foot = 170 + 30 * index
        height = foot // 3
        width = height // 3
        cv2.ellipse(picture, (x, foot), (width // 2, 4), 0, 0, 360, (95, 95, 95), -1, cv2.LINE_AA)
        cv2.rectangle(picture, (x - width // 2, foot - int(height * 0.8)), (x + width // 2, foot - 2), colour, -1)
        cv2.circle(picture, (x, foot - int(height * 0.88)), max(4, width // 3), (120, 150, 190), -1, cv2.LINE_AA)
        box = ((x - width * 0.7) / 640, (foot - height * 1.02) / 360, (x + width * 0.7) / 640, foot / 360)
        x1, y1, x2, y2 = (min(1.0, max(0.0, value)) for value in box)
        boxes.append((x1, y1, x2, y2))
    return picture, boxes


def to_ring(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture in the ring's form: padded to 640x384 and yuv420p."""
    padded = np.zeros((SPEC.height, SPEC.width, 3), np.uint8)
    content = SPEC.content
    padded[content.y0 : content.y0 + content.h, content.x0 : content.x0 + content.w] = picture
    return np.asarray(cv2.cvtColor(padded, cv2.COLOR_BGR2YUV_I420), np.uint8)
