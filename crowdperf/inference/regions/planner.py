"""Decide which parts of a camera's picture the model looks at, and carry what stands still. Pure.

A region is a rectangle of cells that have changed since the model looked there last, with a margin. Every detection
that a region touches lies wholly in it. Detections outside all regions are carried on as they are. The whole picture is
looked at on a schedule: at the shortest interval if such a look finds what was not carried, at the longest if not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.inference.regions.rectangles import Rectangle, cover_touched
from crowdperf.models.postprocess import Detections, compute_iou_matrix

CELL = 4
"""Width and height of a cell, pixels of the model input. Cells are compared by their mean luma."""
MIN_CHANGE = 14
"""Change of a cell's luma (0..255) that counts. Sensor noise averages out over the 16 pixels of a cell."""
MARGIN = 5
"""Cells around what has changed that the model sees too: 20 pixels, about what a person moves between two looks."""
MAX_SHARE = 0.6
"""Regions that cover more than this share of the picture are no cheaper than all of it."""
SAME_OBJECT_IOU = 0.4
"""Two boxes of one class that overlap more are the same object in two looks."""
SAME_PLACE_IOU = 0.8
"""A box that overlaps its last one less has moved, even if no cell shows it."""
MIN_HITS = 3
"""A detection is looked at until so many looks in a row have found it without a change: only then it is carried."""
MAX_MEAN = 10
"""The box of a detection that stands still is the mean of about so many looks: what differs between them is noise."""
MAX_MISSES = 5
"""One that was found so often, and whose cells have not changed, is dropped after so many looks without it."""
STILL_SHARE = 0.02
"""A detection is still while at most this share of its cells changes."""
EDGE = 2
"""A box that ends this near to a region's edge, pixels, may be cut by it."""
MIN_INTERVAL_S, MAX_INTERVAL_S = 1.0, 3.0
"""Between two whole looks."""
CLEAR_SCORE = 0.3
"""A whole look disagrees if it finds a new detection of at least this score: weaker ones come and go anyway."""

SHARE_WEIGHT = 0.3
"""Weight of the newest look in the moving average of a camera's share."""
MIN_SHARE = 0.02
"""Cost of a picture in which nothing is looked at, by that of a whole one."""

Reason = Literal["", "first", "schedule", "changed"]


class Plan(NamedTuple):
    """What the model looks at in one picture."""

    regions: NDArray[np.intp]
    """(n, 4), x1 y1 x2 y2, pixels of the model's picture; one region is the whole picture if `reason` is set."""
    reason: Reason
    """Why the whole picture is looked at; empty if it is not."""
    still: NDArray[np.bool_]
    """(carried,), which of the carried detections show no change."""
    share: float
    """Area of the regions by that of the picture."""
    start: int
    """How many times the planner had started by then."""


class MergedDetections(NamedTuple):
    """Detections of a picture: found in it, or carried from one before."""

    detections: Detections
    """Boxes in pixels of the model's picture."""
    carried: NDArray[np.bool_] | None
    """(n,), True for those that were not found in this picture; None if all were."""


class LookCounts(NamedTuple):
    """Looks at a camera's pictures."""

    total: int = 0
    area: float = 0.0
    """Sum of the shares that were looked at."""
    whole: int = 0
    """Looks at a whole picture: the first, and those by the schedule."""
    changed: int = 0
    """Looks at a whole picture that had changed all over."""
    disagreements: int = 0
    """Looks at a whole picture that found what was not carried."""


class LookPlanner:
    """One camera's picture as the model knows it.

    Args:
        width: of the picture that the model sees, pixels.
        height: of it.
        phase: 0..1, spreads the whole looks of many cameras over time.
    """

    def __init__(self, width: int, height: int, phase: float = 0.0) -> None:
        self.width, self.height = width, height
        self.cells = (max(1, width // CELL), max(1, height // CELL))
        """Columns and rows."""
        self.interval_s = MIN_INTERVAL_S
        self._phase = phase
        self._reference: NDArray[np.uint8] | None = None
        """Mean luma of each cell when the model looked there last; None before the first look."""
        self._scale = np.array([width / self.cells[0], height / self.cells[1]] * 2, np.float32)
        self._kernel = np.ones((2 * MARGIN + 1,) * 2, np.uint8)
        self.share = 1.0
        """Share of its pictures that is looked at, a moving average."""
        self._looks = LookCounts()
        self._starts = 0
        self.in_flight = False
        """True from `plan` to `merge`: the next plan depends on what is found."""
        self._clear()

    def restart(self) -> None:
        """Forget everything at the next picture, which is looked at as a whole."""
        self._reference = None
        self.in_flight = False

    def _clear(self) -> None:
        self._starts += 1
        self._changed = np.zeros(self.cells[::-1], np.uint8)
        self._next_whole_at = float("-inf")
        self._found = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
        self._uncertain = np.empty((0, 4), np.float32)
        """Boxes at a region's edge that were not published: looked at again with a margin."""
        self._hits = np.empty(0, np.intp)
        """(carried,), how many looks in a row have found it."""
        self._still_hits = np.empty(0, np.intp)
        """(carried,), how many of them since it changed last."""
        self._misses = np.empty(0, np.intp)
        """(carried,), how many looks since then have not."""
        self._look_again = np.empty(0, np.bool_)
        """(carried,), which are looked at in the next picture even if nothing changes."""

    def take_looks(self) -> LookCounts:
        """Return the counts since the last call."""
        taken, self._looks = self._looks, LookCounts()
        return taken

    def estimate_cost(self, at_s: float) -> float:
        """Return what the next look costs, by the cost of a whole picture."""
        if self._reference is None or at_s >= self._next_whole_at:
            return 1.0
        return max(self.share, MIN_SHARE)

    def plan(self, luma: NDArray[np.uint8], at_s: float) -> Plan:
        """Choose the regions of a picture.

        Args:
            luma: uint8 (rows, columns), mean luma of each cell.
            at_s: time of the picture, seconds, of any clock that does not go back.

        Returns:
            What to look at; pass it to `merge` with what was found.
        """
        plan = self._choose(luma, at_s)
        self.in_flight = True
        self.share += SHARE_WEIGHT * (plan.share - self.share)
        self._looks = self._looks._replace(
            total=self._looks.total + 1,
            area=self._looks.area + plan.share,
            changed=self._looks.changed + (plan.reason == "changed"),
            whole=self._looks.whole + (plan.reason in ("first", "schedule")),
        )
        return plan

    def _choose(self, luma: NDArray[np.uint8], at_s: float) -> Plan:
        if self._reference is None:
            self._clear()
            self._reference = luma.copy()
            return self._plan_whole("first", np.zeros(0, np.bool_))
        changed = cv2.threshold(cv2.absdiff(luma, self._reference), MIN_CHANGE - 1, 1, cv2.THRESH_BINARY)[1]
        self._changed = changed
        still = self._find_still(self._found.boxes)
        if at_s >= self._next_whole_at:
            self._reference[...] = luma
            return self._plan_whole("schedule", still)
        if not (changed.any() or self._look_again.any() or len(self._uncertain)):
            return Plan(np.empty((0, 4), np.intp), "", still, 0.0, self._starts)
        regions = self._find_regions(changed)
        area = np.prod(regions[:, 2:] - regions[:, :2], axis=1).sum()
        if area > MAX_SHARE * luma.size:
            self._reference[...] = luma
            return self._plan_whole("changed", still)
        for x1, y1, x2, y2 in regions.tolist():
            self._reference[y1:y2, x1:x2] = luma[y1:y2, x1:x2]
        pixels = (regions * self._scale).round().astype(np.intp)
        # Colour has half the resolution, so regions begin and end at even pixels.
        pixels[:, :2] -= pixels[:, :2] % 2
        pixels[:, 2:] = np.minimum(pixels[:, 2:] + pixels[:, 2:] % 2, (self.width, self.height))
        return Plan(pixels, "", still, float(area) / luma.size, self._starts)

    def merge(self, plan: Plan, found: Detections, at_s: float) -> MergedDetections:
        """Put what was found in the regions beside what is carried.

        Args:
            plan: of this picture.
            found: in its regions, boxes in pixels of the model's picture.
            at_s: time of the picture, seconds.

        Returns:
            All detections of the picture, best first.
        """
        if plan.start != self._starts:
            # It was restarted meanwhile, and the next picture is planned already.
            return MergedDetections(found, np.zeros(len(found.scores), np.bool_))
        self.in_flight = False
        before = self._found
        looked_at = _intersect(before.boxes, plan.regions).any(axis=1)
        overlaps = compute_iou_matrix(before.boxes, found.boxes)
        same = overlaps > SAME_OBJECT_IOU
        same &= before.classes[:, None] == found.classes[None, :]
        if plan.reason:
            self._schedule(plan.reason, found, same, at_s)
        cut = self._find_cut(found.boxes, plan)
        # What ends at a region's edge may be a part of something: the next look shows it whole.
        trusted = ~cut | same.any(axis=0)
        self._uncertain = found.boxes[~trusted]
        missed = looked_at & ~np.asarray(same.any(axis=1))
        misses = np.where(missed, self._misses + 1, np.where(looked_at, 0, self._misses))
        kept = ~looked_at | (missed & plan.still & (self._hits >= MIN_HITS) & (misses < MAX_MISSES))
        hits = 1 + np.where(same, self._hits[:, None], 0).max(axis=0, initial=0)
        found, still_hits = self._average(plan, found, np.where(same, overlaps, 0.0))
        boxes, scores, classes, hits, still_hits, misses, again, carried = (
            np.concatenate([new[trusted], old[kept]])
            for new, old in (
                (found.boxes, before.boxes),
                (found.scores, before.scores),
                (found.classes, before.classes),
                (hits, self._hits),
                (still_hits, self._still_hits),
                (np.zeros(len(hits), np.intp), misses),
                (cut | (still_hits < MIN_HITS), missed),
                (np.zeros(len(hits), np.bool_), np.ones(len(kept), np.bool_)),
            )
        )
        order = np.argsort(-scores, kind="stable")
        self._found = Detections(boxes[order], scores[order], classes[order])
        self._hits, self._still_hits, self._misses = hits[order], still_hits[order], misses[order]
        self._look_again = again[order]
        return MergedDetections(self._found, carried[order])

    def _average(
        self, plan: Plan, found: Detections, overlaps: NDArray[np.float32]
    ) -> tuple[Detections, NDArray[np.intp]]:
        """Average the boxes of what stands still; return also how many looks without a change each has."""
        hits = np.ones(len(found.scores), np.intp)
        if not len(found.scores) or not plan.still.any():
            return found, hits
        overlaps = overlaps * plan.still[:, None]
        nearest = overlaps.argmax(axis=0)
        (again,) = np.nonzero(overlaps.max(axis=0) > SAME_PLACE_IOU)
        hits[again] += self._still_hits[nearest[again]]
        before = self._found.boxes[nearest[again]]
        boxes = found.boxes.copy()
        boxes[again] = before + (boxes[again] - before) / np.minimum(hits[again], MAX_MEAN)[:, None]
        return found._replace(boxes=boxes), hits

    def _plan_whole(self, reason: Reason, still: NDArray[np.bool_]) -> Plan:
        return Plan(np.array([[0, 0, self.width, self.height]], np.intp), reason, still, 1.0, self._starts)

    def _find_still(self, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Find the boxes, (n, 4) in pixels, in which hardly a cell has changed: (n,)."""
        if not len(boxes):
            return np.zeros(0, np.bool_)
        sums = cv2.integral(self._changed)
        x1, y1, x2, y2 = self._get_cell_boxes(boxes).T
        counts = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
        still: NDArray[np.bool_] = counts <= STILL_SHARE * (x2 - x1) * (y2 - y1)
        return still

    def _find_regions(self, changed: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Find the rectangles (n, 4) of cells to look at."""
        mask = cv2.dilate(changed, self._kernel)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        boxes = self._get_cell_boxes(np.concatenate([self._found.boxes, self._uncertain]))
        covers = np.clip(boxes + np.array([-MARGIN, -MARGIN, MARGIN, MARGIN]), 0, np.array(self.cells * 2))
        again = np.concatenate([self._look_again, np.ones(len(self._uncertain), np.bool_)])
        parts = [(left, top, left + width, top + height) for left, top, width, height, _ in stats[1:].tolist()]
        to_cover: list[Rectangle] = [tuple(cover) for cover in covers.tolist()]
        begin = [*parts, *(cover for cover, needed in zip(to_cover, again.tolist()) if needed)]
        regions = cover_touched(begin, [tuple(box) for box in boxes.tolist()], to_cover)
        return np.array(regions, np.intp).reshape(-1, 4)

    def _get_cell_boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.intp]:
        """Convert boxes in pixels to the cells that they touch, (n, 4)."""
        scaled = boxes / self._scale
        low, high = np.floor(scaled[:, :2]), np.ceil(scaled[:, 2:])
        cells = np.clip(np.concatenate([low, high], axis=1), 0, np.array(self.cells * 2))
        return np.asarray(cells, np.intp)

    def _schedule(self, reason: Reason, found: Detections, same: NDArray[np.bool_], at_s: float) -> None:
        """Choose the time of the next whole look after this one."""
        appeared = (found.scores >= CLEAR_SCORE) & ~same.any(axis=0) & self._find_still(found.boxes)
        if reason == "schedule":
            disagrees = bool(appeared.any())
            self._looks = self._looks._replace(disagreements=self._looks.disagreements + disagrees)
            self.interval_s = MIN_INTERVAL_S if disagrees else min(MAX_INTERVAL_S, self.interval_s * 1.5)
        spread = 0.5 + self._phase if reason == "first" else 1.0
        self._next_whole_at = at_s + spread * self.interval_s

    def _find_cut(self, boxes: NDArray[np.float32], plan: Plan) -> NDArray[np.bool_]:
        """Find boxes (n, 4) that end at a region's edge inside the picture: more of them may lie beyond it."""
        if plan.reason or not len(boxes) or not len(plan.regions):
            return np.zeros(len(boxes), np.bool_)
        edges = plan.regions[:, None, :].astype(np.float32)
        near = np.abs(boxes[None, :, :] - edges) <= EDGE
        inner = (edges > 0) & (edges < np.array([self.width, self.height] * 2))
        return np.asarray((near & inner).any(axis=(0, 2)))


def _intersect(boxes: NDArray[np.float32] | NDArray[np.intp], regions: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Check each pair of box and region for a common area: (boxes, regions)."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    return np.asarray((low < high).all(axis=2))
