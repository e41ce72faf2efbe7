"""Average precision against Ultralytics' own, and what people are judged to wear."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from crowdperf.evaluation.accuracy import (
    LabelledImage,
    compute_average_precision,
    load_labelled_images,
    measure_ppe_accuracy,
)
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.models.registry import ModelError
from crowdperf.settings.base import CLASSES
from crowdperf.settings.ppe import PPE_CLASSES


def scene(rng: np.random.Generator, picture: int) -> tuple[Detections, LabelledImage]:
    """Boxes on a grid, and detections that are near them, far from them, missing or doubled."""
    corners = np.array([[x, y] for x in (0.1, 0.4, 0.7) for y in (0.1, 0.5)], np.float32)
    truth = np.concatenate([corners, corners + 0.2], axis=1)
    classes = rng.integers(0, 2, len(truth))
    noisy = np.concatenate([truth, truth])[rng.random(2 * len(truth)) < 0.7]
    noisy = np.clip(noisy + rng.normal(0, 0.02, noisy.shape), 0, 1).astype(np.float32)
    guessed = rng.integers(0, 2, len(noisy)).astype(np.uint8)
    scores = rng.random(len(noisy)).astype(np.float32)
    return Detections(noisy, scores, guessed), LabelledImage(Path(f"{picture}.jpg"), truth, classes)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_ultralytics_computes(seed: int) -> None:
    pytest.importorskip("ultralytics")
    from ultralytics.utils.metrics import ap_per_class

    rng = np.random.default_rng(seed)
    scenes = [scene(rng, picture) for picture in range(30)]
    ours = compute_average_precision([found for found, _ in scenes], [truth for _, truth in scenes])
    hits, scores, guessed, true = [], [], [], []
    for found, truth in scenes:
        table = compute_iou_matrix(found.boxes, truth.boxes)
        hit = np.zeros((len(found.boxes), 10), bool)
        for level, least in enumerate(np.linspace(0.5, 0.95, 10)):
            free = np.ones(len(truth.boxes), bool)
            for row in np.argsort(-found.scores):
                possible = np.where(free & (truth.classes == found.classes[row]) & (table[row] >= least), table[row], 0)
                if possible.any():
                    hit[row, level] = True
                    free[int(possible.argmax())] = False
        hits.append(hit)
        scores.append(found.scores)
        guessed.append(found.classes)
        true.append(truth.classes)
    theirs = ap_per_class(*(np.concatenate(column) for column in (hits, scores, guessed, true)), plot=False)[5]
    assert ours.map50 == pytest.approx(theirs[:, 0].mean(), abs=0.01)
    assert ours.map50_95 == pytest.approx(theirs.mean(), abs=0.01)


def test_perfect_and_useless_detectors() -> None:
    _, truth = scene(np.random.default_rng(1), 0)
    perfect = Detections(truth.boxes, np.ones(6, np.float32), truth.classes.astype(np.uint8))
    assert compute_average_precision([perfect], [truth])[:2] == pytest.approx((1.0, 1.0))
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
    assert compute_average_precision([nothing], [truth])[:2] == (0.0, 0.0)


def columns(*items: tuple[int, str, float]) -> PpeColumns:
    return PpeColumns(
        persons=b"\0\0\1\0",
        owners=np.array([owner for owner, _, _ in items], "<u2").tobytes(),
        items=bytes(PPE_CLASSES.index(name) for _, name, _ in items),
        scores=np.array([score for _, _, score in items], "<f4").tobytes(),
        boxes=b"",
        picture_height=100,
    )


def test_people_are_judged_one_by_one() -> None:
    boxes = np.array([[0.1, 0.1, 0.3, 0.9], [0.6, 0.1, 0.8, 0.9]], np.float32)
    hats = np.array([[0.17, 0.1, 0.23, 0.17], [0.67, 0.1, 0.73, 0.17]], np.float32)
    kinds = np.array([0, 0, PPE_CLASSES.index("hardhat"), PPE_CLASSES.index("no_hardhat")])
    truth = LabelledImage(Path("a.jpg"), np.concatenate([boxes, hats]), kinds)
    found = Detections(boxes, np.ones(2, np.float32), np.zeros(2, np.uint8))
    right = measure_ppe_accuracy(
        [(truth, found, columns((0, "hardhat", 0.9), (0, "no_hardhat", 0.4), (1, "no_hardhat", 0.3)))]
    )
    assert right.f1 == {"hardhat": 1.0, "no_hardhat": 1.0}
    assert (right.people, right.matched_people, right.mean) == (2, 2, 1.0)
    # A vest that nobody has labelled counts for nothing; a helmet on the wrong person counts against it.
    wrong = measure_ppe_accuracy([(truth, found, columns((1, "hardhat", 0.9), (0, "vest", 0.9)))])
    assert wrong.f1 == {"hardhat": 0.0, "no_hardhat": 0.0}
    unseen = measure_ppe_accuracy(
        [(truth, Detections(boxes[:1], np.ones(1, np.float32), np.zeros(1, np.uint8)), columns())]
    )
    assert (unseen.people, unseen.matched_people, unseen.mean) == (2, 1, 0.0)


def test_labels_are_read_by_the_names_of_their_classes(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text("dog\ncar\nperson\n")
    for name in ("a", "b", "c"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.jpg"), np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("2 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.1 0.1\n1 0.1 0.1 0.2 0.2\n")
    (tmp_path / "labels" / "b.txt").write_text("")
    first, second = load_labelled_images(tmp_path, CLASSES)
    assert first.classes.tolist() == [0, CLASSES.index("car")]
    assert first.boxes[0].tolist() == pytest.approx([0.4, 0.3, 0.6, 0.7])
    assert second.boxes.shape == (0, 4)
    (tmp_path / "labels" / "c.txt").write_text("9 0.5 0.5 0.2 0.4\n")
    with pytest.raises(ModelError, match=r"no folder of labelled pictures.*Remedy"):
        load_labelled_images(tmp_path, CLASSES)
    with pytest.raises(ModelError, match=r"no folder of labelled pictures.*Remedy"):
        load_labelled_images(tmp_path / "none", CLASSES)
