"""The PPE model's work: helmets, vests and masks of the people that the person model has found.

It looks at each person's crop, cut from the ring's picture at its full size, and not at the whole picture: measured on
labelled pictures, that decides more people rightly, and costs less until there are a dozen of them (docs/models.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.events.schema import PpeColumns
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import Detector
from crowdperf.inference.letterbox import PAD
from crowdperf.inference.nms import Found
from crowdperf.inference.pixels import picture
from crowdperf.settings.base import CLASSES
from crowdperf.settings.ppe import PPE_CLASSES

CROP = RingSpec(192, 384, "bgr24", 192, 384, 2, 1.0, 0)
"""The picture that a person fills. Larger ones were measured: no better, and dearer."""
MARGIN = 0.1
"""Added to a person's box on each side, share of its size: a helmet may stick out of it."""
LEAST_SCORE = 0.25
LEAST_HEIGHT = 32
LEAST_WIDTH = 4
"""People that are weaker, or smaller in pixels, are not looked at: nobody could tell what they wear."""
MOST = 16
"""People of one picture that are looked at, the tallest first."""
PERSON = CLASSES.index("person")
HEAD = frozenset(PPE_CLASSES.index(name) for name in ("hardhat", "no_hardhat", "mask", "no_mask"))
HEAD_AT, HEAD_ENDS, TORSO_AT, TORSO_ENDS = 0.1, 0.55, 0.4, 0.9
"""Where an item's centre is expected, and the lowest place, as a share of the person's height from the top."""
INSIDE = 0.5
"""Least share of an item's area that lies in the box of its owner, which is grown by `SLACK`."""
SLACK = 0.05
FAIR = 0.5
"""Of the longest waiting, in periods: who has waited less lets others pass."""
HERE_S = 2.0
"""A camera without frames for so long waits for nothing."""
SHARE = 1.0
"""The model rests this many times as long as it worked, so that counting keeps half of the machine at least."""


class Cut(NamedTuple):
    """A crop and where it comes from."""

    pixels: NDArray[np.uint8]
    """uint8 (CROP.frame_bytes,)."""
    shift: NDArray[np.float64]
    """Of the crop's corner in the ring picture, minus the padding: x y x y, pixels."""
    scale: float
    """Crop pixels per ring pixel."""


class Cadence:
    """When a camera is due: `fps` times a second at most, and never more than the model's share of the time.

    Where that is too little for all, they share it: whoever comes along first when the model has rested would otherwise
    be served again and again, since batches have an order that keeps itself. Times are seconds on the monotonic clock.
    Bounded: a camera that is gone is forgotten by `forget`.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Turn] = {}
        self._rest_until = float("-inf")

    def due(self, camera: str, fps: float, arrived: float, now: float) -> bool:
        """Whether this frame is to be looked at; if so, the camera is served."""
        if fps <= 0:
            return False
        own = self._known.setdefault(camera, _Turn(arrived - 1 / fps))
        own.fps, own.here = fps, now
        # Frames come at a rhythm of their own: half a period early is nearer to the rate than half a period late.
        if now < self._rest_until or (arrived - own.last) * fps < 0.95:
            return False
        longest = max(other.waited(now) for other in self._known.values() if now - other.here <= HERE_S)
        if own.waited(now) < FAIR * longest:
            return False
        own.last = arrived
        return True

    def give_back(self, camera: str) -> None:
        """The frame that was due was not whole: the next one is due at once."""
        own = self._known.get(camera)
        if own is not None:
            own.last -= 1 / own.fps

    def worked(self, now: float, spent_s: float) -> None:
        """The model was busy for `spent_s` until `now`."""
        self._rest_until = now + SHARE * spent_s

    def forget(self, camera: str) -> None:
        """The camera is gone."""
        self._known.pop(camera, None)


class _Turn:
    """One camera's place in the order."""

    def __init__(self, last: float) -> None:
        self.last = last
        """Arrival of the frame that was last looked at; of a new camera such that it is due."""
        self.fps = 1.0
        self.here = last
        """When it last had a frame."""

    def waited(self, now: float) -> float:
        """In periods of its own."""
        return (now - self.last) * self.fps


def look(detector: Detector, frame: NDArray[np.uint8], spec: RingSpec, found: Found) -> PpeColumns:
    """What the people of one picture wear.

    Args:
        detector: the PPE model.
        frame: uint8 (spec.frame_bytes,), a ring's picture.
        spec: its geometry.
        found: the person model's detections in it, boxes normalised to the source.
    """
    people = chosen(found, spec)
    image = picture(frame, spec.pix_fmt, spec.width, spec.height)[..., ::-1]
    cuts = [cut(image, found.boxes[person], spec) for person in people]
    owners: list[int] = []
    rows: list[Found] = []
    for person, one, seen in zip(people, cuts, detector.detect([one.pixels for one in cuts], CROP)):
        boxes = to_source(seen.boxes, one, spec)
        mine = belonging(found.boxes[people], boxes, seen.classes) == people.index(person)
        rows.append(Found(boxes[mine], seen.scores[mine], seen.classes[mine]))
        owners += [person] * int(mine.sum())
    return PpeColumns(
        persons=np.array(people, "<u2").tobytes(),
        owners=np.array(owners, "<u2").tobytes(),
        items=b"".join(row.classes.astype(np.uint8).tobytes() for row in rows),
        scores=b"".join(row.scores.astype("<f4").tobytes() for row in rows),
        boxes=b"".join(row.boxes.astype("<f4").tobytes() for row in rows),
        picture_height=spec.content.h,
    )


def chosen(found: Found, spec: RingSpec) -> list[int]:
    """Indices of the people who are looked at, in ascending order."""
    heights = (found.boxes[:, 3] - found.boxes[:, 1]) * spec.content.h
    # A detection in the padding beside the picture has no width in it.
    widths = (found.boxes[:, 2] - found.boxes[:, 0]) * spec.content.w
    large = (heights >= LEAST_HEIGHT) & (widths >= LEAST_WIDTH)
    able = np.flatnonzero((found.classes == PERSON) & (found.scores >= LEAST_SCORE) & large)
    tallest = able[np.argsort(-heights[able], kind="stable")][:MOST]
    return sorted(tallest.tolist())


def cut(image: NDArray[np.uint8], box: NDArray[np.float32], spec: RingSpec) -> Cut:
    """One person, scaled into a CROP and padded with the letterbox grey.

    Args:
        image: uint8 (spec.height, spec.width, 3), BGR.
        box: float32 (4,), x1 y1 x2 y2, normalised to the source.
    """
    x0, y0, across, down = spec.content
    x1, y1, x2, y2 = (box * np.array([across, down] * 2) + np.array([x0, y0] * 2)).tolist()
    margin_x, margin_y = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = max(x0, int(x1 - margin_x)), max(y0, int(y1 - margin_y))
    right, bottom = min(x0 + across, int(x2 + margin_x) + 1), min(y0 + down, int(y2 + margin_y) + 1)
    scale = min(CROP.width / (right - left), CROP.height / (bottom - top))
    width = min(CROP.width, max(1, round((right - left) * scale)))
    height = min(CROP.height, max(1, round((bottom - top) * scale)))
    at_x, at_y = (CROP.width - width) // 2, (CROP.height - height) // 2
    canvas = np.full((CROP.height, CROP.width, 3), PAD, np.uint8)
    canvas[at_y : at_y + height, at_x : at_x + width] = cv2.resize(
        image[top:bottom, left:right], (width, height), interpolation=cv2.INTER_LINEAR
    )
    shift = np.array([left - at_x / scale, top - at_y / scale] * 2)
    return Cut(canvas.reshape(-1), shift, scale)


def to_source(boxes: NDArray[np.float32], one: Cut, spec: RingSpec) -> NDArray[np.float32]:
    """Boxes of a crop, normalised to it, as boxes normalised to the source: float32 (n, 4)."""
    x0, y0, across, down = spec.content
    inside = boxes * np.array([CROP.width, CROP.height] * 2) / one.scale + one.shift
    normalised: NDArray[np.float32] = np.clip(
        (inside - np.array([x0, y0] * 2)) / np.array([across, down] * 2), 0, 1
    ).astype(np.float32)
    return normalised


def belonging(
    people: NDArray[np.float32], items: NDArray[np.float32], classes: Sequence[int] | NDArray[np.uint8]
) -> NDArray[np.intp]:
    """The person that each item is worn by (or missing on), -1 for nobody.

    An item lies in its owner's box, where such an item is worn; of several such people the one on whom it lies best.

    Args:
        people: (p, 4), x1 y1 x2 y2.
        items: (m, 4), in the same unit.
        classes: (m,), index into `settings.ppe.PPE_CLASSES`; people among them belong to nobody.
    """
    owners = np.full(len(items), -1, np.intp)
    if not len(people) or not len(items):
        return owners
    kind = np.asarray(classes)
    head = np.isin(kind, list(HEAD))
    size = np.maximum(people[:, 2:] - people[:, :2], 1e-9)
    low = np.maximum((people[:, :2] - SLACK * size)[None], items[:, None, :2])
    high = np.minimum((people[:, 2:] + SLACK * size)[None], items[:, None, 2:])
    area = np.maximum(np.prod(items[:, 2:] - items[:, :2], axis=1), 1e-12)
    inside = np.prod(np.clip(high - low, 0, None), axis=2) / area[:, None]
    centre = (items[:, None, :2] + items[:, None, 2:]) / 2
    along = (centre - people[None, :, :2]) / size[None]
    away = np.abs(along[..., 0] - 0.5) + np.abs(along[..., 1] - np.where(head, HEAD_AT, TORSO_AT)[:, None])
    able = (inside >= INSIDE) & (along[..., 1] < np.where(head, HEAD_ENDS, TORSO_ENDS)[:, None])
    able &= (kind > 0)[:, None]
    best = np.where(able, away, np.inf)
    return np.where(able.any(axis=1), best.argmin(axis=1), owners)
