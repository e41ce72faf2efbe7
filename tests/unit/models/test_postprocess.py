"""Suppression and decoding, compared with torchvision and with a plain loop in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bench.micro.postprocess import suppress_in_numpy
from crowdperf.models.postprocess import MAX_CANDIDATES, MAX_DETECTIONS, BoxDecoder, non_max_suppression


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
    """Boxes on a grid, also at negative places and without area: overlaps and scores are often equal."""
    n = draw(st.integers(0, 30))
    side = draw(st.sampled_from([4, 40]))
    corner = draw(hnp.arrays(np.int16, (n, 2), elements=st.integers(-side, side)))
    size = draw(hnp.arrays(np.int16, (n, 2), elements=st.integers(0, side)))
    boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    scores = draw(hnp.arrays(np.int16, n, elements=st.integers(0, 10))).astype(np.float32) / 10
    return boxes, scores, draw(hnp.arrays(np.int16, n, elements=st.integers(0, 5)))


@given(candidates(), st.sampled_from([0.1, 0.2, 0.3, 0.45, 0.5, 0.7, 0.9, 1.0]))
@settings(max_examples=400, deadline=None)
def test_suppression_keeps_what_the_loop_in_numpy_keeps(
    drawn: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]], threshold: float
) -> None:
    kept = non_max_suppression(*drawn, threshold)
    assert kept.tolist() == suppress_in_numpy(*drawn, threshold).tolist()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 30, 300, MAX_CANDIDATES + 500])
def test_suppression_of_fixed_crowds_is_that_of_the_loop(seed: int, count: int) -> None:
    boxes, scores, classes = crowd(seed, count)
    if seed % 2:
        boxes -= np.float32(150)
        scores = np.round(scores, 1)
    for threshold in (0.3, 0.5, 0.7):
        kept = non_max_suppression(boxes, scores, classes, threshold)
        assert kept.tolist() == suppress_in_numpy(boxes, scores, classes, threshold).tolist()


def test_suppression_of_nothing_keeps_nothing() -> None:
    kept = non_max_suppression(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int16), 0.7)
    assert kept.shape == (0,)
    assert kept.dtype == np.intp


@pytest.mark.parametrize(("width", "shared"), [(10, 5), (10, 7), (20, 9), (10, 1), (100, 45)])
def test_a_box_of_exactly_the_threshold_is_kept(width: int, shared: int) -> None:
    boxes = np.array([[0, 0, width, 1], [0, 0, shared, 1]], np.float32)
    both = np.array([0.9, 0.8], np.float32), np.zeros(2, np.int16)
    assert non_max_suppression(boxes, *both, shared / width).tolist() == [0, 1]
    assert non_max_suppression(boxes, *both, shared / width - 0.001).tolist() == [0]


def test_equal_scores_keep_the_first_box() -> None:
    boxes = np.repeat(np.array([[5, 5, 20, 40]], np.float32), 100, axis=0)
    kept = non_max_suppression(boxes, np.full(100, 0.5, np.float32), np.arange(100, dtype=np.int16) // 50, 0.7)
    assert kept.tolist() == [0, 50]


def head(boxes: list[tuple[float, float, float, float]], scores: list[list[float]]) -> NDArray[np.float32]:
    """A raw head of these anchors: centre x, centre y, width, height and one score per class."""
    return np.concatenate([np.array(boxes, np.float32).T, np.array(scores, np.float32).T])


def test_decoding_takes_the_best_class_maps_it_and_clips() -> None:
    raw = head([(10, 20, 40, 20), (300, 200, 20, 20), (100, 100, 10, 10)], [[0.2, 0.9], [0.8, 0.3], [0.05, 0.05]])
    found = BoxDecoder(np.array([0, 4], np.int16), 0.1, 0.7).decode(raw, (304, 384))
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.classes.tolist() == [4, 0]
    assert found.boxes.tolist() == [[0, 10, 30, 30], [290, 190, 304, 210]]


def test_ignored_best_class_is_not_replaced_by_the_second() -> None:
    raw = head([(50, 50, 20, 20)], [[0.6, 0.7]])
    assert len(BoxDecoder(np.array([0, -1], np.int16), 0.1, 0.7).decode(raw, (640, 384)).scores) == 0


def test_a_flood_of_candidates_keeps_the_best_ones() -> None:
    n = MAX_CANDIDATES + 500
    boxes = [(float(i % 60) * 10 + 5, float(i // 60) * 10 + 5, 8.0, 8.0) for i in range(n)]
    scores = [[0.2 + 0.7 * i / n] for i in range(n)]
    found = BoxDecoder(np.array([0], np.int16), 0.1, 0.7).decode(head(boxes, scores), (640, 384))
    assert found.scores[0] == pytest.approx(scores[-1][0])
    assert found.scores.min() > 0.2 + 0.7 * 500 / n - 1e-6


def test_a_picture_keeps_at_most_its_share_of_boxes() -> None:
    boxes = [(float(i % 40) * 16 + 8, float(i // 40) * 16 + 8, 10.0, 10.0) for i in range(MAX_DETECTIONS + 100)]
    found = BoxDecoder(np.array([0], np.int16), 0.1, 0.7).decode(head(boxes, [[0.5]] * len(boxes)), (640, 384))
    assert len(found.scores) == MAX_DETECTIONS
