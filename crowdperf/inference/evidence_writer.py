"""Save evidence pictures on request, on a thread of its own: a slow disk or Redis never delays a frame.

The requested frame comes from the evidence cache or from the ring. If it is gone, the nearest later frame is saved and
marked as not exact. A worker that requests evidence needs neither pixels nor torch.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameReader, FrameStamp, RingUnavailable
from crowdperf.inference.anonymize import Blur, Rectangle, anonymize, pixelate
from crowdperf.inference.evidence_cache import EvidenceCache, FrameAnalysis, encode_jpeg, encode_ring_frame
from crowdperf.messaging.consumer import Consumer
from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import EvidenceRequest
from crowdperf.messaging.streams import EVIDENCE_REQUESTS
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import start_thread
from crowdperf.settings.base import CAMERA_ID, CLASSES
from crowdperf.settings.ppe import PPE_CLASSES
from crowdperf.storage.evidence import EvidenceBox, EvidenceMetadata, add_metadata, get_picture_path, save_picture

CROP_MARGIN = 0.2
"""Margin of a crop on each side, as a share of the person's size."""
MIN_BOX_SCORE = 0.25
"""Minimum score of a detection in the metadata."""

log = logging.getLogger(__name__)


class EvidenceFrame(NamedTuple):
    """A JPEG picture and what is known about it."""

    stamp: FrameStamp
    jpeg: bytes
    analysis: FrameAnalysis | None
    """None if the frame was read from the ring and never analysed."""


class EvidenceWriter:
    """Answers evidence requests from Redis.

    Args:
        redis_url: of Redis.
        key_prefix: of every key in it.
        cache: the frames that are still in memory.
        ring_prefix: path of the rings without the camera id.
        folder: where pictures are saved.
        blur: what to hide of each person.
        metrics: where counters go.
    """

    def __init__(
        self,
        redis_url: str,
        key_prefix: str,
        cache: EvidenceCache,
        ring_prefix: str,
        folder: Path,
        blur: Blur,
        metrics: Metrics,
    ) -> None:
        self._redis_url, self._key_prefix = redis_url, key_prefix
        self._cache, self._ring_prefix = cache, ring_prefix
        self._folder, self._blur, self._metrics = folder, blur, metrics
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread("evidence", self._run, self._metrics, self._stop.wait)

    def close(self) -> None:
        """Finish the current requests and stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _run(self) -> None:
        client: Any = connect(self._redis_url)
        requests: Consumer[EvidenceRequest] = Consumer(
            client, EVIDENCE_REQUESTS, "inference", "inference", prefix=self._key_prefix
        )
        outage = OutageHandler("requests for evidence wait")
        while not self._stop.wait(outage.wait_s):
            with outage:
                if outage.must_start:
                    requests.start()
                for entry in requests.read(count=16):
                    self._handle_safely(entry.message)
                    requests.ack([entry])

    def _handle_safely(self, request: EvidenceRequest) -> None:
        """Handle a request; a malformed one must not end the thread that saves all the others."""
        try:
            self.handle(request)
        except (ArithmeticError, ValueError, MemoryError, cv2.error):
            # An infinite time or box, or a picture that cannot be encoded.
            log.exception("evidence of camera %s cannot be saved", request.camera)
            self._count_missed(request)

    def handle(self, request: EvidenceRequest) -> str:
        """Save the pictures of one request, and return why there are none; empty where they are saved."""
        if not CAMERA_ID.fullmatch(request.camera):
            return self._refuse(request, "that is no camera id")
        frame = self._find_frame(request)
        if frame is None:
            return self._refuse(request, "the frame is gone, and the camera gives no other one")
        exact = (frame.stamp.epoch, frame.stamp.sequence) == (request.epoch, request.sequence)
        try:
            self._save_pictures(request, frame, exact)
        except OSError as error:
            return self._refuse(request, f"it cannot be saved: {error.strerror}")
        self._metrics.count("evidence_saved", 1, request.camera)
        return ""

    def _refuse(self, request: EvidenceRequest, problem: str) -> str:
        log.warning("no evidence %s of camera %s: %s", request.id, request.camera, problem)
        self._count_missed(request)
        return problem

    def _count_missed(self, request: EvidenceRequest) -> None:
        self._metrics.count("evidence_missed", 1, request.camera if CAMERA_ID.fullmatch(request.camera) else "")

    def _find_frame(self, request: EvidenceRequest) -> EvidenceFrame | None:
        """Return the requested frame, or the nearest later one."""
        key = (request.camera, request.epoch, request.sequence)
        if cached := self._cache.get(key):
            return EvidenceFrame(cached.analysis.stamp, cached.jpeg.result(), cached.analysis)
        try:
            reader = FrameReader(Path(f"{self._ring_prefix}{request.camera}"))
        except RingUnavailable:
            reader = None
        try:
            exact = self._read_from_ring(reader, request.sequence) if reader and reader.epoch == request.epoch else None
            if exact:
                return exact
            if cached := self._cache.get_after(key):
                return EvidenceFrame(cached.analysis.stamp, cached.jpeg.result(), cached.analysis)
            # The newest picture may be overwritten during the copy; then the next one is taken.
            for _ in range(3):
                newest = self._read_from_ring(reader, reader.head()) if reader else None
                if newest:
                    return newest
        finally:
            if reader:
                reader.close()
        return None

    def _read_from_ring(self, reader: FrameReader, sequence: int) -> EvidenceFrame | None:
        pixels = reader.room()
        stamp = reader.read(sequence, pixels)
        return EvidenceFrame(stamp, encode_ring_frame(pixels, reader.spec), None) if stamp else None

    def _save_pictures(self, request: EvidenceRequest, frame: EvidenceFrame, exact: bool) -> None:
        """Write the full picture, and a crop if the subject is known."""
        subject = self._find_subject_box(request, frame, exact)
        boxes = build_boxes(frame.analysis, request.detection if exact else -1)
        if subject and not any(box.subject for box in boxes):
            boxes.insert(0, EvidenceBox(class_name="person", score=0.0, box=subject, subject=True))
        # Decoded even if nothing is hidden: the crop is cut from it.
        image: Any = cv2.imdecode(np.frombuffer(frame.jpeg, np.uint8), cv2.IMREAD_COLOR)
        self._anonymize(image, frame.analysis)
        jpeg = frame.jpeg if self._blur == "none" else encode_jpeg(image)
        self._write_picture(request, "full", jpeg, frame, exact, boxes)
        if subject is not None:
            cropped, window = crop(image, subject)
            self._write_picture(request, "crop", encode_jpeg(cropped), frame, exact, clip_boxes(boxes, window))

    def _find_subject_box(self, request: EvidenceRequest, frame: EvidenceFrame, exact: bool) -> Rectangle | None:
        """Return the normalised box of the person whom the request is about."""
        if exact and frame.analysis is not None and 0 <= request.detection < len(frame.analysis.detections.boxes):
            x1, y1, x2, y2 = frame.analysis.detections.boxes[request.detection].tolist()
            return x1, y1, x2, y2
        if request.x2 > request.x1 and request.y2 > request.y1:
            return request.x1, request.y1, request.x2, request.y2
        return None

    def _anonymize(self, image: NDArray[np.uint8], analysis: FrameAnalysis | None) -> None:
        height, width = image.shape[:2]
        if self._blur == "none":
            return
        if analysis is None:
            # The frame was never analysed: people may be anywhere, so the whole picture is hidden.
            pixelate(image, 0, 0, width, height)
            return
        people = analysis.detections.boxes[analysis.detections.classes == 0] * np.array([width, height] * 2)
        anonymize(image, [tuple(box) for box in people.tolist()], self._blur)

    def _write_picture(
        self,
        request: EvidenceRequest,
        kind: Any,
        jpeg: bytes,
        frame: EvidenceFrame,
        exact: bool,
        boxes: list[EvidenceBox],
    ) -> None:
        metadata = EvidenceMetadata(
            id=request.id,
            camera=request.camera,
            ts=frame.stamp.captured_at_ns / 1e9,
            epoch=frame.stamp.epoch,
            sequence=frame.stamp.sequence,
            exact=exact,
            boxes=boxes,
            blur=self._blur,
        )
        path = get_picture_path(self._folder, request.camera, request.id, request.ts, kind)
        save_picture(path, add_metadata(jpeg, metadata))


def build_boxes(analysis: FrameAnalysis | None, subject: int) -> list[EvidenceBox]:
    """List all detections of a frame, the subject first, then by score; `subject` is its index."""
    if analysis is None:
        return []
    detections = analysis.detections
    boxes = [
        EvidenceBox(class_name=CLASSES[class_id], score=round(score, 3), box=_round_box(box), subject=index == subject)
        for index, (box, score, class_id) in enumerate(
            zip(detections.boxes.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True)
        )
        if score >= MIN_BOX_SCORE or index == subject
    ]
    if analysis.ppe:
        items = np.frombuffer(analysis.ppe.boxes, "<f4").reshape(-1, 4).tolist()
        scores = np.frombuffer(analysis.ppe.scores, "<f4").tolist()
        owners = np.frombuffer(analysis.ppe.owners, "<u2").tolist()
        boxes += [
            EvidenceBox(
                class_name=PPE_CLASSES[item], score=round(score, 3), box=_round_box(box), subject=owner == subject
            )
            for box, score, owner, item in zip(items, scores, owners, analysis.ppe.items, strict=True)
            if item
        ]
    return sorted(boxes, key=lambda box: (not box.subject, -box.score))


def crop(image: NDArray[np.uint8], box: Rectangle) -> tuple[NDArray[np.uint8], Rectangle]:
    """Cut the region around a normalised box; return it and its normalised window in the picture."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    across, down = CROP_MARGIN * (x2 - x1), CROP_MARGIN * (y2 - y1)
    left = min(max(0, int((x1 - across) * width)), width - 1)
    top = min(max(0, int((y1 - down) * height)), height - 1)
    right = min(max(left + 1, int(np.ceil((x2 + across) * width))), width)
    bottom = min(max(top + 1, int(np.ceil((y2 + down) * height))), height)
    window = (left / width, top / height, right / width, bottom / height)
    return image[top:bottom, left:right], window


def clip_boxes(boxes: list[EvidenceBox], window: Rectangle) -> list[EvidenceBox]:
    """Return the boxes that overlap a window, clipped and normalised to it."""
    left, top, right, bottom = window
    clipped = []
    for box in boxes:
        x1, y1, x2, y2 = box.box
        inside = (
            *((max(x1, left) - left) / (right - left), (max(y1, top) - top) / (bottom - top)),
            *((min(x2, right) - left) / (right - left), (min(y2, bottom) - top) / (bottom - top)),
        )
        if inside[0] < inside[2] and inside[1] < inside[3]:
            clipped.append(replace(box, box=_round_box(inside)))
    return clipped


def _round_box(box: Any) -> Rectangle:
    x1, y1, x2, y2 = (round(float(value), 4) for value in box)
    return x1, y1, x2, y2
