"""The PPE model per person: crops at the ring's full size, as the product looks, beside the whole picture.

Labelled pictures: CROWDPERF_IMAGES (default ../shared/images) / ppe; without them there is nothing to measure.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.harness import Row, compared
from crowdperf.evaluation.accuracy import (
    LabelledImage,
    load_labelled_images,
    measure_accuracy,
    measure_ppe_accuracy,
)
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.ppe_items import assign_items, detect_ppe, select_people
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.settings.engine import Inference
from crowdperf.settings.ppe import PPE_CLASSES, Ppe

FOLDER = (
    Path(os.environ.get("CROWDPERF_IMAGES", str(Path(__file__).resolve().parents[3] / "shared" / "images"))) / "ppe"
)
SIZE = 640
"""Of the rings: the size of the pictures."""
Look = Callable[[Detector, np.ndarray, RingSpec, Detections], PpeColumns]


def whole(detector: Detector, frame: np.ndarray, spec: RingSpec, found: Detections) -> PpeColumns:
    """Return the other way: one look at the whole picture, items given to the people on whom they lie."""
    (seen,) = detector.detect([frame], spec)
    people = select_people(found, spec)
    owner = assign_items(found.boxes[people], seen.boxes, seen.classes)
    mine = owner >= 0
    return PpeColumns(
        persons=np.array(people, "<u2").tobytes(),
        owners=np.array([people[index] for index in owner[mine]], "<u2").tobytes(),
        items=seen.classes[mine].astype(np.uint8).tobytes(),
        scores=seen.scores[mine].astype("<f4").tobytes(),
        boxes=seen.boxes[mine].astype("<f4").tobytes(),
        picture_height=spec.content.h,
    )


def rows(short: bool) -> list[Row]:
    """ppe_person_f1/<class>, ppe_person_f1/mean, ppe_ms_per_picture and map50_95/ppe."""
    if not (FOLDER / "labels").is_dir():
        return []
    pictures = load_labelled_images(FOLDER, PPE_CLASSES)[:: 3 if short else 1]
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as scratch:
        settings = Inference(device="cpu", runtime="openvino", precision="full")
        people = load_detector(settings, Path(scratch))
        ppe = load_detector(settings, Path(scratch), role="ppe", confidence=Ppe().confidence)
        weak = load_detector(settings, Path(scratch), role="ppe", confidence=0.001)
        crops, full, times = [], [], []
        for one in pictures:
            frame, spec = load_ring_frame(one.path, (SIZE, SIZE))
            (found,) = people.detect([frame], spec)
            ours, ours_ms = timed(detect_ppe, ppe, frame, spec, found)
            theirs, theirs_ms = timed(whole, ppe, frame, spec, found)
            crops.append((one, found, ours))
            full.append((one, found, theirs))
            times.append((ours_ms, theirs_ms))
        accuracy = measure_accuracy(weak, pictures)
    return [
        *_f1(crops, full),
        compared("ppe_ms_per_picture", times[2:], "whole picture", unit="ms"),
        Row(name="map50/ppe", value=accuracy.map50, unit="", better="higher"),
        Row(name="map50_95/ppe", value=accuracy.map50_95, unit="", better="higher"),
    ]


def timed(
    method: Look, detector: Detector, frame: np.ndarray, spec: RingSpec, found: Detections
) -> tuple[PpeColumns, float]:
    """Return what was seen, and in how many milliseconds."""
    began = time.perf_counter()
    columns = method(detector, frame, spec, found)
    return columns, (time.perf_counter() - began) * 1e3


def _f1(
    crops: list[tuple[LabelledImage, Detections, PpeColumns]], full: list[tuple[LabelledImage, Detections, PpeColumns]]
) -> list[Row]:
    ours, theirs = measure_ppe_accuracy(crops), measure_ppe_accuracy(full)
    pairs = [*((name, ours.f1[name], theirs.f1[name]) for name in ours.f1), ("mean", ours.mean, theirs.mean)]
    return [
        *(
            Row(
                name=f"ppe_person_f1/{name}",
                value=value,
                unit="",
                limit_or_peer=f"whole picture ({peer:.3f})",
                ratio=value / peer if peer else None,
                better="higher",
            )
            for name, value, peer in pairs
        ),
        Row(name="ppe_people_found", value=ours.matched_people, unit=f"of {ours.people}", better="higher"),
    ]
