"""Suppression and decoding, beside torchvision and by their properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from crowdperf.models.postprocess import MAX_CANDIDATES, decode, non_max_suppression
from tests.support.pictures import iou


def crowd(seed: int, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
    """n boxes that overlap a lot."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 120, (n, 2))], axis=1).astype(np.float32)
    return boxes, rng.permutation(n).astype(np.float32) / n, rng.integers(0, 6, n).astype(np.int16)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_keeps_what_torchvision_keeps(seed: int, threshold: float) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    boxes, scores, classes = crowd(seed, 300)
    ours = non_max_suppression(boxes, scores, classes, threshold)
    theirs = torchvision.ops.batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes.astype(np.int64)), threshold
    )
    assert 0 < len(ours) < 300
    assert ours.tolist() == theirs.tolist()


@st.composite
def candidates(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
    n = draw(st.integers(0, 25))
    grid = hnp.arrays(np.int16, (n, 4), elements=st.integers(0, 40))
    raw = draw(grid).astype(np.float32)
    boxes = np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1)
    scores = draw(hnp.arrays(np.int16, n, elements=st.integers(0, 20))).astype(np.float32) / 20
    return boxes, scores, draw(hnp.arrays(np.int16, n, elements=st.integers(0, 2)))


@given(candidates(), st.sampled_from([0.2, 0.5, 0.7]))
@settings(max_examples=200, deadline=None)
def test_what_suppression_promises(
    given_: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]], threshold: float
) -> None:
    boxes, scores, classes = given_
    kept = non_max_suppression(boxes, scores, classes, threshold)
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(scores[kept]) <= 0).all()
    with np.errstate(invalid="ignore"):
        beaten = np.nan_to_num(iou(boxes, boxes)) > np.float32(threshold)
    beaten &= classes[:, None] == classes[None, :]
    order = {int(index): rank for rank, index in enumerate(np.argsort(-scores, kind="stable"))}
    for index in range(len(boxes)):
        better = [k for k in kept.tolist() if order[k] < order[index] and beaten[k, index]]
        assert (index in kept) == (not better), "kept exactly when no better kept box of its class beats it"


def head(boxes: list[tuple[float, float, float, float]], scores: list[list[float]]) -> NDArray[np.float32]:
    """A raw head of these anchors: centre x, centre y, width, height and one score per class."""
    return np.concatenate([np.array(boxes, np.float32).T, np.array(scores, np.float32).T])


def test_decoding_takes_the_best_class_maps_it_and_clips() -> None:
    raw = head([(10, 20, 40, 20), (300, 200, 20, 20), (100, 100, 10, 10)], [[0.2, 0.9], [0.8, 0.3], [0.05, 0.05]])
    found = decode(raw, np.array([0, 4], np.int16), 0.1, 0.7, 304, 384)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.classes.tolist() == [4, 0]
    assert found.boxes.tolist() == [[0, 10, 30, 30], [290, 190, 304, 210]]


def test_ignored_best_class_is_not_replaced_by_the_second() -> None:
    raw = head([(50, 50, 20, 20)], [[0.6, 0.7]])
    assert len(decode(raw, np.array([0, -1], np.int16), 0.1, 0.7, 640, 384).scores) == 0


def test_a_flood_of_candidates_keeps_the_best_ones() -> None:
    n = MAX_CANDIDATES + 500
    boxes = [(float(i % 60) * 10 + 5, float(i // 60) * 10 + 5, 8.0, 8.0) for i in range(n)]
    scores = [[0.2 + 0.7 * i / n] for i in range(n)]
    found = decode(head(boxes, scores), np.array([0], np.int16), 0.1, 0.7, 640, 384)
    assert found.scores[0] == pytest.approx(scores[-1][0])
    assert found.scores.min() > 0.2 + 0.7 * 500 / n - 1e-6
