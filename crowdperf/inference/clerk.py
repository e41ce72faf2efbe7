"""Answers requests for evidence, on a thread of its own: a slow disk or Redis never delays a frame.

The frame that was asked for comes out of the keeper, or out of the ring while it is still there; else the nearest later
one is saved and marked as such. Whoever asks needs neither pixels nor torch: the answer is an entry and two files.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.events.bus import Consumer, Publisher
from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.schema import EvidenceRequest, EvidenceSaved
from crowdperf.events.streams import EVIDENCE, EVIDENCE_REQUESTS
from crowdperf.frames.ring import FrameReader, FrameStamp, RingUnavailable
from crowdperf.inference.blur import Blur, hide, obscure
from crowdperf.inference.evidence import Keeper, Scene, encode, to_jpeg
from crowdperf.runtime import Metrics
from crowdperf.settings.base import CAMERA_ID, CLASSES
from crowdperf.settings.ppe import PPE_CLASSES
from crowdperf.storage.evidence import Box, Metadata, picture_path, save, with_metadata

MARGIN = 0.2
"""Of a crop, share of the person's size on each side."""
SHOWN = 0.25
"""Weaker detections are not written into the metadata."""

log = logging.getLogger(__name__)


class Shot(NamedTuple):
    """A picture and what is known of it."""

    stamp: FrameStamp
    jpeg: bytes
    scene: Scene | None
    """None for a picture fresh from the ring, in which nobody has been looked for."""


class Clerk:
    """Saves pictures. `start` begins the thread, `close` ends it.

    Args:
        url, prefix: of Redis.
        keeper: the pictures that are kept.
        ring_prefix: path of the rings without the camera id.
        folder: where pictures are saved.
        blur: what is hidden in them.
        metrics: where counters go.
    """

    def __init__(
        self, url: str, prefix: str, keeper: Keeper, ring_prefix: str, folder: Path, blur: Blur, metrics: Metrics
    ) -> None:
        self._url, self._prefix = url, prefix
        self._keeper, self._ring_prefix = keeper, ring_prefix
        self._folder, self._blur, self._metrics = folder, blur, metrics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer what is at hand, and end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        client: Any = connect(self._url)
        requests: Consumer[EvidenceRequest] = Consumer(
            client, EVIDENCE_REQUESTS, "inference", "inference", prefix=self._prefix
        )
        answers: Publisher[EvidenceSaved] = Publisher(client, EVIDENCE, self._prefix)
        backoff = Backoff()
        connected = False
        while not self._stop.is_set():
            wait_s = 0.0
            try:
                if not connected:
                    requests.start()
                    connected = True
                for entry in requests.read(count=16):
                    answer = self._answer_whatever(entry.message)
                    with client.pipeline(transaction=True) as pipe:
                        answers.stage(pipe, answer)
                        requests.stage_ack(pipe, [entry])
                        pipe.execute()
                backoff.reset()
            except OUTAGE as error:
                if backoff.worth_saying(error):
                    log.warning("Redis takes nothing (%s): requests for evidence wait", error)
                connected, wait_s = False, backoff.next()
            self._stop.wait(wait_s)

    def _answer_whatever(self, request: EvidenceRequest) -> EvidenceSaved:
        """As `answer`. One request with which nobody has reckoned must not end the thread that saves all the others."""
        try:
            return self.answer(request)
        except (ArithmeticError, ValueError, MemoryError, cv2.error) as error:
            # A time or box without end, a picture that cannot be encoded.
            log.exception("evidence of camera %s cannot be saved", request.camera)
            return self._refusal(request, f"it cannot be saved: {error}")

    def answer(self, request: EvidenceRequest) -> EvidenceSaved:
        """Save the pictures of one request; never raises for a request that cannot be met, but says why."""
        if not CAMERA_ID.fullmatch(request.camera):
            return self._refusal(request, "that is no camera id")
        shot = self._find(request)
        if shot is None:
            return self._refusal(request, "the frame is gone, and the camera gives no other one")
        exact = (shot.stamp.epoch, shot.stamp.sequence) == (request.epoch, request.sequence)
        try:
            crop = self._save(request, shot, exact)
        except OSError as error:
            log.error("evidence of camera %s cannot be saved: %s", request.camera, error)
            return self._refusal(request, f"it cannot be saved: {error.strerror}")
        self._metrics.count("evidence_saved", camera=request.camera)
        return EvidenceSaved(
            id=request.id,
            camera=request.camera,
            ts=shot.stamp.captured_at_ns / 1e9,
            epoch=shot.stamp.epoch,
            sequence=shot.stamp.sequence,
            exact=exact,
            full=self._relative(request, "full"),
            crop=self._relative(request, "crop") if crop else "",
        )

    def _refusal(self, request: EvidenceRequest, problem: str) -> EvidenceSaved:
        self._metrics.count("evidence_missed", camera=request.camera if CAMERA_ID.fullmatch(request.camera) else "")
        return EvidenceSaved(
            id=request.id,
            camera=request.camera,
            ts=request.ts,
            epoch=request.epoch,
            sequence=request.sequence,
            exact=False,
            problem=problem,
        )

    def _find(self, request: EvidenceRequest) -> Shot | None:
        """That frame, else the nearest later one."""
        held = self._keeper.get(request.camera, request.epoch, request.sequence)
        if held:
            return Shot(held.scene.stamp, held.jpeg.result(), held.scene)
        try:
            reader = FrameReader(Path(f"{self._ring_prefix}{request.camera}"))
        except RingUnavailable:
            reader = None
        try:
            exact = self._from_ring(reader, request.sequence) if reader and reader.epoch == request.epoch else None
            if exact:
                return exact
            held = self._keeper.after(request.camera, request.epoch, request.sequence)
            if held:
                return Shot(held.scene.stamp, held.jpeg.result(), held.scene)
            # A ring's newest picture may be overwritten under the copy; the next one then will do.
            for _ in range(3):
                fresh = self._from_ring(reader, reader.head()) if reader else None
                if fresh:
                    return fresh
        finally:
            if reader:
                reader.close()
        return None

    def _from_ring(self, reader: FrameReader, sequence: int) -> Shot | None:
        pixels = reader.room()
        stamp = reader.read(sequence, pixels)
        return Shot(stamp, encode(pixels, reader.spec), None) if stamp else None

    def _save(self, request: EvidenceRequest, shot: Shot, exact: bool) -> bool:
        """Write the full picture, and the crop where there is a subject; returns whether there is one."""
        subject = self._subject(request, shot, exact)
        boxes = boxes_of(shot.scene, request.detection if exact else -1)
        if subject and not any(box.subject for box in boxes):
            boxes.insert(0, Box(klass="person", score=0.0, box=subject, subject=True))
        # Decoded anew even where nothing is hidden: the crop is cut from it.
        image: Any = cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), cv2.IMREAD_COLOR)
        self._hide(image, shot.scene)
        jpeg = shot.jpeg if self._blur == "none" else to_jpeg(image)
        self._write(request, "full", jpeg, shot, exact, boxes)
        if subject is None:
            return False
        part, window = crop(image, subject)
        self._write(request, "crop", to_jpeg(part), shot, exact, within(boxes, window))
        return True

    def _subject(self, request: EvidenceRequest, shot: Shot, exact: bool) -> tuple[float, float, float, float] | None:
        """The box of the person whom the request is about, normalised."""
        if exact and shot.scene is not None and 0 <= request.detection < len(shot.scene.found.boxes):
            x1, y1, x2, y2 = shot.scene.found.boxes[request.detection].tolist()
            return x1, y1, x2, y2
        if request.x2 > request.x1 and request.y2 > request.y1:
            return request.x1, request.y1, request.x2, request.y2
        return None

    def _hide(self, image: NDArray[np.uint8], scene: Scene | None) -> None:
        height, width = image.shape[:2]
        if self._blur == "none":
            return
        if scene is None:
            # Nobody knows where people are in this picture, so nobody in it may be recognised.
            hide(image, 0, 0, width, height)
            return
        people = scene.found.boxes[scene.found.classes == 0] * np.array([width, height] * 2)
        obscure(image, [tuple(box) for box in people.tolist()], self._blur)

    def _write(
        self, request: EvidenceRequest, kind: Any, jpeg: bytes, shot: Shot, exact: bool, boxes: list[Box]
    ) -> None:
        metadata = Metadata(
            id=request.id,
            camera=request.camera,
            ts=shot.stamp.captured_at_ns / 1e9,
            epoch=shot.stamp.epoch,
            sequence=shot.stamp.sequence,
            exact=exact,
            boxes=boxes,
            blur=self._blur,
        )
        path = picture_path(self._folder, request.camera, request.id, request.ts, kind)
        save(path, with_metadata(jpeg, metadata))

    def _relative(self, request: EvidenceRequest, kind: Any) -> str:
        path = picture_path(self._folder, request.camera, request.id, request.ts, kind)
        return str(path.relative_to(self._folder))


def boxes_of(scene: Scene | None, subject: int) -> list[Box]:
    """Everything that was seen, the subject first and then the surest."""
    if scene is None:
        return []
    found = scene.found
    boxes = [
        Box(klass=CLASSES[klass], score=round(score, 3), box=_rounded(box), subject=index == subject)
        for index, (box, score, klass) in enumerate(
            zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist())
        )
        if score >= SHOWN or index == subject
    ]
    if scene.ppe:
        items = np.frombuffer(scene.ppe.boxes, "<f4").reshape(-1, 4).tolist()
        scores = np.frombuffer(scene.ppe.scores, "<f4").tolist()
        owners = np.frombuffer(scene.ppe.owners, "<u2").tolist()
        boxes += [
            Box(klass=PPE_CLASSES[item], score=round(score, 3), box=_rounded(box), subject=owner == subject)
            for box, score, owner, item in zip(items, scores, owners, scene.ppe.items)
            if item
        ]
    return sorted(boxes, key=lambda box: (not box.subject, -box.score))


def crop(
    image: NDArray[np.uint8], box: tuple[float, float, float, float]
) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """The part of a picture around a box, and where it lies in the picture (both normalised)."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    across, down = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left = min(max(0, int((x1 - across) * width)), width - 1)
    top = min(max(0, int((y1 - down) * height)), height - 1)
    right = min(max(left + 1, int(np.ceil((x2 + across) * width))), width)
    bottom = min(max(top + 1, int(np.ceil((y2 + down) * height))), height)
    window = (left / width, top / height, right / width, bottom / height)
    return image[top:bottom, left:right], window


def within(boxes: list[Box], window: tuple[float, float, float, float]) -> list[Box]:
    """The boxes that show in a part of the picture, normalised to that part and clipped to it."""
    left, top, right, bottom = window
    shown = []
    for box in boxes:
        x1, y1, x2, y2 = box.box
        moved = (
            *((max(x1, left) - left) / (right - left), (max(y1, top) - top) / (bottom - top)),
            *((min(x2, right) - left) / (right - left), (min(y2, bottom) - top) / (bottom - top)),
        )
        if moved[0] < moved[2] and moved[1] < moved[3]:
            shown.append(Box(klass=box.klass, score=box.score, box=_rounded(moved), subject=box.subject))
    return shown


def _rounded(box: Any) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 4) for value in box)
    return x1, y1, x2, y2
