"""Detect helmets, vests and masks of the people that the person model has found.

The PPE model sees one crop per person, cut from the ring's picture at full size. On labelled pictures this was right
for more people than the whole picture. It is also faster for up to a dozen people (docs/models.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.detector import PPE_CROP_SPEC, Detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import PAD_VALUE, to_rgb
from crowdperf.settings.base import CLASSES
from crowdperf.settings.ppe import PPE_CLASSES

CROP_MARGIN = 0.1
"""Margin added to a person's box on each side, as a share of its size, for a helmet above it."""
MIN_SCORE = 0.25
MIN_HEIGHT_PX = 32
MIN_WIDTH_PX = 4
"""People with a lower score or a smaller box are skipped: their PPE cannot be seen."""
MAX_PEOPLE = 16
"""Bound of the people analysed in one picture, the tallest first."""
PERSON_CLASS_ID = CLASSES.index("person")
HEAD_CLASS_IDS = frozenset(PPE_CLASSES.index(name) for name in ("hardhat", "no_hardhat", "mask", "no_mask"))
HEAD_CENTER_Y, MAX_HEAD_Y, TORSO_CENTER_Y, MAX_TORSO_Y = 0.1, 0.55, 0.4, 0.9
"""Expected and lowest position of an item's centre, as a share of the person's height from the top."""
MIN_INSIDE_SHARE = 0.5
"""Minimum share of an item's area inside the box of its owner, which is grown by `BOX_GROWTH_SHARE`."""
BOX_GROWTH_SHARE = 0.05


class PersonCrop(NamedTuple):
    """A person's crop and its position in the ring's picture."""

    pixels: NDArray[np.uint8]
    """Shape (PPE_CROP_SPEC.frame_bytes,)."""
    shift: NDArray[np.float64]
    """Corner of the crop in the ring's picture, minus the padding: x y x y, pixels."""
    scale: float
    """Crop pixels per ring pixel."""


def detect_ppe(detector: Detector, frame: NDArray[np.uint8], spec: RingSpec, detections: Detections) -> PpeColumns:
    """Detect what the people of one picture wear.

    Args:
        detector: the PPE model.
        frame: uint8 (spec.frame_bytes,), a ring's picture.
        spec: its geometry.
        detections: what the person model found in it, boxes normalised to the source.

    Returns:
        The people that were analysed and their items, as packed columns.
    """
    people = select_people(detections, spec)
    image = to_rgb(frame, spec)[..., ::-1]
    crops = [crop_person(image, detections.boxes[person], spec) for person in people]
    owners: list[int] = []
    rows: list[Detections] = []
    for person, crop, items in zip(
        people, crops, detector.detect([crop.pixels for crop in crops], PPE_CROP_SPEC), strict=True
    ):
        boxes = crop_to_source(items.boxes, crop, spec)
        is_own = assign_items(detections.boxes[people], boxes, items.classes) == people.index(person)
        rows.append(Detections(boxes[is_own], items.scores[is_own], items.classes[is_own]))
        owners += [person] * int(is_own.sum())
    return PpeColumns(
        persons=np.array(people, "<u2").tobytes(),
        owners=np.array(owners, "<u2").tobytes(),
        items=b"".join(row.classes.astype(np.uint8).tobytes() for row in rows),
        scores=b"".join(row.scores.astype("<f4").tobytes() for row in rows),
        boxes=b"".join(row.boxes.astype("<f4").tobytes() for row in rows),
        picture_height=spec.content.h,
    )


def select_people(detections: Detections, spec: RingSpec) -> list[int]:
    """Return the indices of the people to analyse, in ascending order."""
    heights = (detections.boxes[:, 3] - detections.boxes[:, 1]) * spec.content.h
    # Boxes are clipped to the source: a detection in the padding has no width.
    widths = (detections.boxes[:, 2] - detections.boxes[:, 0]) * spec.content.w
    large = (heights >= MIN_HEIGHT_PX) & (widths >= MIN_WIDTH_PX)
    people = np.flatnonzero((detections.classes == PERSON_CLASS_ID) & (detections.scores >= MIN_SCORE) & large)
    tallest = people[np.argsort(-heights[people], kind="stable")][:MAX_PEOPLE]
    return sorted(tallest.tolist())


def crop_person(image: NDArray[np.uint8], box: NDArray[np.float32], spec: RingSpec) -> PersonCrop:
    """Cut one person, scale it into a crop and pad it with the letterbox grey.

    Args:
        image: uint8 (spec.height, spec.width, 3), BGR.
        box: float32 (4,), x1 y1 x2 y2, normalised to the source.
        spec: geometry of the image.

    Returns:
        The crop with its position.
    """
    x0, y0, across, down = spec.content
    x1, y1, x2, y2 = (box * np.array([across, down] * 2) + np.array([x0, y0] * 2)).tolist()
    margin_x, margin_y = CROP_MARGIN * (x2 - x1), CROP_MARGIN * (y2 - y1)
    left, top = max(x0, int(x1 - margin_x)), max(y0, int(y1 - margin_y))
    right, bottom = min(x0 + across, int(x2 + margin_x) + 1), min(y0 + down, int(y2 + margin_y) + 1)
    scale = min(PPE_CROP_SPEC.width / (right - left), PPE_CROP_SPEC.height / (bottom - top))
    width = min(PPE_CROP_SPEC.width, max(1, round((right - left) * scale)))
    height = min(PPE_CROP_SPEC.height, max(1, round((bottom - top) * scale)))
    at_x, at_y = (PPE_CROP_SPEC.width - width) // 2, (PPE_CROP_SPEC.height - height) // 2
    canvas = np.full((PPE_CROP_SPEC.height, PPE_CROP_SPEC.width, 3), PAD_VALUE, np.uint8)
    canvas[at_y : at_y + height, at_x : at_x + width] = cv2.resize(
        image[top:bottom, left:right], (width, height), interpolation=cv2.INTER_LINEAR
    )
    shift = np.array([left - at_x / scale, top - at_y / scale] * 2)
    return PersonCrop(canvas.reshape(-1), shift, scale)


def crop_to_source(boxes: NDArray[np.float32], crop: PersonCrop, spec: RingSpec) -> NDArray[np.float32]:
    """Convert boxes of a crop to boxes of the source picture.

    Args:
        boxes: float32 (n, 4), x1 y1 x2 y2, normalised to the crop.
        crop: where they were found.
        spec: geometry of the ring's picture.

    Returns:
        float32 (n, 4), normalised to the source and clipped to it.
    """
    x0, y0, across, down = spec.content
    inside = boxes * np.array([PPE_CROP_SPEC.width, PPE_CROP_SPEC.height] * 2) / crop.scale + crop.shift
    normalised: NDArray[np.float32] = np.clip(
        (inside - np.array([x0, y0] * 2)) / np.array([across, down] * 2), 0, 1
    ).astype(np.float32)
    return normalised


def assign_items(
    people: NDArray[np.float32], items: NDArray[np.float32], classes: Sequence[int] | NDArray[np.uint8]
) -> NDArray[np.intp]:
    """Assign each item to the person who wears it, or on whom it is missing.

    An item must lie in its owner's box, at a height where it is worn. If several people qualify, the one whose expected
    position is nearest gets it.

    Args:
        people: (p, 4), x1 y1 x2 y2.
        items: (m, 4), in the same unit.
        classes: (m,), index into `settings.ppe.PPE_CLASSES`; the class person has no owner.

    Returns:
        (m,), index of the person, -1 for none.
    """
    owners = np.full(len(items), -1, np.intp)
    if not len(people) or not len(items):
        return owners
    class_ids = np.asarray(classes)
    on_head = np.isin(class_ids, list(HEAD_CLASS_IDS))
    size = np.maximum(people[:, 2:] - people[:, :2], 1e-9)
    low = np.maximum((people[:, :2] - BOX_GROWTH_SHARE * size)[None], items[:, None, :2])
    high = np.minimum((people[:, 2:] + BOX_GROWTH_SHARE * size)[None], items[:, None, 2:])
    area = np.maximum(np.prod(items[:, 2:] - items[:, :2], axis=1), 1e-12)
    inside = np.prod(np.clip(high - low, 0, None), axis=2) / area[:, None]
    centre = (items[:, None, :2] + items[:, None, 2:]) / 2
    place = (centre - people[None, :, :2]) / size[None]
    expected_y = np.where(on_head, HEAD_CENTER_Y, TORSO_CENTER_Y)[:, None]
    distance = np.abs(place[..., 0] - 0.5) + np.abs(place[..., 1] - expected_y)
    worn = (inside >= MIN_INSIDE_SHARE) & (place[..., 1] < np.where(on_head, MAX_HEAD_Y, MAX_TORSO_Y)[:, None])
    worn &= (class_ids > 0)[:, None]
    nearest = np.where(worn, distance, np.inf).argmin(axis=1)
    return np.where(worn.any(axis=1), nearest, owners)
