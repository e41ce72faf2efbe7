"""Which people the PPE model analyses, and whose an item is."""

from __future__ import annotations

import numpy as np
import pytest

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.ppe_items import (
    MAX_PEOPLE,
    MIN_HEIGHT_PX,
    assign_items,
    crop_person,
    crop_to_source,
    select_people,
)
from crowdperf.models.detector import PPE_CROP_SPEC
from crowdperf.models.postprocess import Detections
from crowdperf.settings.ppe import PPE_CLASSES

SPEC = RingSpec(1280, 720, "yuv420p", 1920, 1080, 4, 10.0, 0, 1.0)
PADDED = RingSpec(640, 640, "yuv420p", 1920, 1080, 4, 10.0, 0, 1.0)
HARDHAT, NO_HARDHAT, VEST, MASK = (PPE_CLASSES.index(name) for name in ("hardhat", "no_hardhat", "vest", "mask"))


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.uint8))


def test_people_who_are_weak_small_or_vehicles_are_not_looked_at() -> None:
    least = MIN_HEIGHT_PX / 720
    seen = found(
        *((0.1, 0.1, 0.2, 0.5, 0.9, 0), (0.3, 0.1, 0.4, 0.5, 0.2, 0), (0.5, 0.1, 0.6, 0.5, 0.9, 2)),
        *((0.7, 0.1, 0.8, 0.1 + 1.1 * least, 0.5, 0), (0.9, 0.1, 0.95, 0.1 + 0.9 * least, 0.5, 0)),
    )
    assert select_people(seen, SPEC) == [0, 3]


def test_of_a_crowd_the_tallest_are_looked_at() -> None:
    crowd = [(0.1, 0.1, 0.2, 0.3 + index / 100, 0.9, 0) for index in range(MAX_PEOPLE + 4)]
    assert select_people(found(*crowd), SPEC) == list(range(4, MAX_PEOPLE + 4))


def test_detection_in_the_padding_is_not_analysed() -> None:
    assert select_people(found((1.0, 0.1, 1.0, 0.9, 0.9, 0), (0.0, 0.2, 0.001, 0.9, 0.9, 0)), SPEC) == []


@pytest.mark.parametrize("spec", [SPEC, PADDED])
@pytest.mark.parametrize(
    "box", [(0.4, 0.3, 0.5, 0.8), (0.0, 0.0, 0.3, 0.4), (0.9, 0.5, 1.0, 1.0), (0.2, 0.2, 0.9, 0.3)]
)
def test_a_box_of_a_crop_goes_back_to_where_it_was_cut(spec: RingSpec, box: tuple[float, ...]) -> None:
    person = np.array(box, np.float32)
    x0, y0, across, down = spec.content
    image = np.zeros((spec.height, spec.width, 3), np.uint8)
    corners = (person * [across, down, across, down] + [x0, y0, x0, y0]).round().astype(int)
    image[corners[1] : corners[3], corners[0] : corners[2]] = 255
    one = crop_person(image, person, spec)
    pixels = one.pixels.reshape(PPE_CROP_SPEC.height, PPE_CROP_SPEC.width, 3)[..., 0]
    rows, columns = np.nonzero(pixels > 200)
    inside = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    inside /= [PPE_CROP_SPEC.width, PPE_CROP_SPEC.height, PPE_CROP_SPEC.width, PPE_CROP_SPEC.height]
    (back,) = crop_to_source(inside, one, spec)
    assert np.abs((back - person) * [across, down, across, down]).max() < 1.5 / min(1.0, one.scale) + 1


def test_an_item_belongs_to_the_person_on_whom_it_lies_best() -> None:
    people = np.array([[0.1, 0.1, 0.3, 0.9], [0.25, 0.1, 0.45, 0.9]], np.float32)
    items = np.array(
        [
            [0.17, 0.10, 0.23, 0.17],  # on the first one's head
            [0.28, 0.11, 0.34, 0.18],  # on the second one's head, in the overlap of both boxes
            [0.28, 0.35, 0.42, 0.6],  # the second one's vest
            [0.17, 0.75, 0.23, 0.82],  # a helmet at the first one's feet
            [0.7, 0.1, 0.75, 0.15],  # nobody's
            [0.1, 0.1, 0.3, 0.9],  # a person
        ],
        np.float32,
    )
    classes = [HARDHAT, NO_HARDHAT, VEST, HARDHAT, MASK, 0]
    assert assign_items(people, items, classes).tolist() == [0, 1, 1, -1, -1, -1]
    assert assign_items(people[:0], items, classes).tolist() == [-1] * 6
    assert assign_items(people, items[:0], []).tolist() == []
