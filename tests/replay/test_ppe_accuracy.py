"""What the shipped PPE model says of people on labelled pictures (CROWDPERF_IMAGES, default ../shared/images)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from crowdperf.evaluation.accuracy import load_labelled_images, measure_ppe_accuracy
from crowdperf.inference.ppe_items import detect_ppe
from crowdperf.models.loader import load_detector
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.settings.engine import Inference
from crowdperf.settings.ppe import PPE_CLASSES, Ppe
from tests.conftest import ROOT, missing

MEAN_FLOOR, WORN_FLOOR = 0.68, 0.70
"""Measured: mean F1 per person 0.724 in bf16; a helmet, vest or mask that is worn 0.72, 0.74, 0.81."""


def test_people_are_judged_by_what_they_wear(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    folder = Path(os.environ.get("CROWDPERF_IMAGES", str(ROOT.parent / "shared" / "images"))) / "ppe"
    if not (folder / "labels").is_dir():
        missing(f"no labelled pictures at {folder}: set CROWDPERF_IMAGES")
    settings = Inference(device="cpu", runtime="openvino", precision="full")
    people = load_detector(settings, tmp_path)
    ppe = load_detector(settings, tmp_path, role="ppe", confidence=Ppe().confidence)
    results = []
    for one in load_labelled_images(folder, PPE_CLASSES):
        frame, spec = load_ring_frame(one.path, (640, 640))
        (found,) = people.detect([frame], spec)
        results.append((one, found, detect_ppe(ppe, frame, spec, found)))
    judged = measure_ppe_accuracy(results)
    shown = " ".join(f"{name}={value:.2f}" for name, value in judged.f1.items())
    record_property(
        "figures", f"PPE per person: mean F1 {judged.mean:.2f} ({shown}), {judged.matched_people}/{judged.people} found"
    )
    assert judged.mean > MEAN_FLOOR
    assert sum(judged.f1[name] for name in ("hardhat", "vest", "mask")) / 3 > WORN_FLOOR
