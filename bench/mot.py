"""How well tracks agree with a MOT sequence: MOTA and IDF1 by motmetrics, HOTA by its definition.

Boxes are x1 y1 x2 y2 in one unit, whichever; a frame is its boxes (n, 4) and ids (n,).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import lap
import motmetrics
import numpy as np
from numpy.typing import NDArray

ALPHAS = np.arange(0.05, 0.99, 0.05)
MIN_IOU = 0.5


class Frame(NamedTuple):
    """Who is where."""

    boxes: NDArray[np.float64]
    ids: NDArray[np.int64]


class Agreement(NamedTuple):
    """Shares; 1 is perfect. MOTA may be negative."""

    hota: float
    idf1: float
    mota: float
    switches: int


def read_truth(path: Path, frames: int) -> list[Frame]:
    """Return a gt.txt of MOTChallenge: frame (from 1), id, left, top, width, height, ..."""
    rows: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    with path.open() as file:
        for row in csv.reader(file):
            number, who, x, y, w, h = (float(value) for value in row[:6])
            rows[int(number) - 1].append((who, x, y, x + w, y + h))
    truth = []
    for number in range(frames):
        table = np.array(rows[number], float).reshape(-1, 5)
        truth.append(Frame(table[:, 1:], table[:, 0].astype(np.int64)))
    return truth


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every pair, shape (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared + 1e-12))


def compare(truth: Sequence[Frame], tracked: Sequence[Frame]) -> Agreement:
    """Return all figures of one sequence."""
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for real, found in zip(truth, tracked):
        distance = 1 - overlap(real.boxes, found.boxes)
        accumulator.update(real.ids, found.ids, np.where(distance <= 1 - MIN_IOU, distance, np.nan))
    summary = motmetrics.metrics.create().compute(accumulator, metrics=["mota", "idf1", "num_switches"])
    row = summary.iloc[0]
    return Agreement(hota(truth, tracked), float(row["idf1"]), float(row["mota"]), int(row["num_switches"]))


def hota(truth: Sequence[Frame], tracked: Sequence[Frame]) -> float:
    """Luiten et al., HOTA: A Higher Order Metric for Evaluating Multi-object Tracking (2021), mean over all alphas."""
    real_ids = {who: n for n, who in enumerate(sorted({int(i) for frame in truth for i in frame.ids}))}
    found_ids = {who: n for n, who in enumerate(sorted({int(i) for frame in tracked for i in frame.ids}))}
    together = np.zeros((len(real_ids), len(found_ids)))
    real_count, found_count = np.zeros((len(real_ids), 1)), np.zeros((1, len(found_ids)))
    pairs = []
    for real, found in zip(truth, tracked):
        rows = np.array([real_ids[int(i)] for i in real.ids], int)
        columns = np.array([found_ids[int(i)] for i in found.ids], int)
        similarity = overlap(real.boxes, found.boxes)
        total = similarity.sum(0)[None] + similarity.sum(1)[:, None] - similarity
        together[rows[:, None], columns[None]] += np.where(total > 1e-12, similarity / np.maximum(total, 1e-12), 0)
        real_count[rows, 0] += 1
        found_count[0, columns] += 1
        pairs.append((rows, columns, similarity))
    alignment = together / np.maximum(1, real_count + found_count - together)
    matched = np.zeros((len(ALPHAS), *together.shape))
    hits = np.zeros(len(ALPHAS))
    for rows, columns, similarity in pairs:
        if not len(rows) or not len(columns):
            continue
        score = alignment[rows[:, None], columns[None]] * similarity
        _, column_of_row, _ = lap.lapjv(-score, extend_cost=True)
        row = (column_of_row >= 0).nonzero()[0]
        column = column_of_row[row]
        for number, alpha in enumerate(ALPHAS):
            good = similarity[row, column] >= alpha - np.finfo(float).eps
            hits[number] += good.sum()
            matched[number, rows[row[good]], columns[column[good]]] += 1
    missed, surplus = real_count.sum() - hits, found_count.sum() - hits
    association = matched / np.maximum(1, real_count + found_count - matched)
    ass_a = (matched * association).sum(axis=(1, 2)) / np.maximum(1, hits)
    det_a = hits / np.maximum(1, hits + missed + surplus)
    return float(np.sqrt(det_a * ass_a).mean())
