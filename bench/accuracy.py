"""How right a detector is, as rows that stand beside its speed: a speed says nothing of a model that sees nothing."""

from __future__ import annotations

import os
from pathlib import Path

from bench import clips
from bench.harness import Row
from crowdperf.evaluation.accuracy import load_labelled_images, measure_accuracy
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.base import CLASSES
from crowdperf.settings.engine import Inference

IMAGES = Path(os.environ.get("CROWDPERF_IMAGES", str(clips.ROOT.parent / "shared" / "images"))) / "person"
LIMITS = {"demo_sparse": 0.0, "demo_dense": 0.05}
"""Greatest count error per scene, as the replay tests have it."""
MIN_CONFIDENCE = 0.001
"""Average precision asks for every detection, however weak."""


def rows(settings: Inference, suffix: str, cache: Path) -> list[Row]:
    """count_error/<scene>/<suffix> on the demo's scenes, map50 and map50_95/person/<suffix> where pictures are.

    Args:
        settings: the `inference` block whose speed was measured.
        suffix: of that row.
        cache: of compiled models.
    """
    counting = load_detector(settings, cache)
    return [*counts(counting, suffix), *precision(load_detector(settings, cache, confidence=MIN_CONFIDENCE), suffix)]


def counts(detector: Detector, suffix: str) -> list[Row]:
    """Measure every picture of the demo's scenes, through the detector, the tracker and the counters."""
    found = []
    for scene in clips.demo_scenes():
        limit = LIMITS[scene.name]
        found.append(
            Row(
                name=f"count_error/{scene.name}/{suffix}",
                value=clips.errors(scene, clips.detections(scene, detector))[0],
                unit="share",
                limit_or_peer=f"limit {limit:g} of {len(scene.truth)} crossings",
            )
        )
    return found


def precision(detector: Detector, suffix: str) -> list[Row]:
    """Measure the labelled pictures that int8 was not calibrated with; none where there is no such folder."""
    if not (IMAGES / "labels").is_dir():
        return []
    seen = measure_accuracy(detector, load_labelled_images(IMAGES, CLASSES)[::3])
    return [
        Row(name=f"map50/person/{suffix}", value=seen.map50, unit="", better="higher"),
        Row(name=f"map50_95/person/{suffix}", value=seen.map50_95, unit="", better="higher"),
    ]
