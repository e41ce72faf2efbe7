"""Which parts of a picture are looked at, and what is carried."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crowdperf.inference.regions.planner import (
    CELL,
    MAX_INTERVAL_S,
    MAX_MISSES,
    MIN_CHANGE,
    MIN_HITS,
    LookPlanner,
    MergedDetections,
    Plan,
)
from crowdperf.models.postprocess import Detections

WIDTH, HEIGHT = 640, 360
GREY = np.full((HEIGHT // CELL, WIDTH // CELL), 100, np.uint8)
PERSON = (100.0, 100.0, 140.0, 200.0)
OTHER = (400.0, 100.0, 440.0, 200.0)


def people(*boxes: tuple[float, ...], score: float = 0.9) -> Detections:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(rows, np.full(len(rows), score, np.float32), np.zeros(len(rows), np.uint8))


def with_change(*boxes: tuple[float, ...], level: int = 200) -> NDArray[np.uint8]:
    """A picture in which these rectangles differ from the grey one."""
    luma = GREY.copy()
    for box in boxes:
        x1, y1, x2, y2 = (round(value / CELL) for value in box)
        luma[y1:y2, x1:x2] = level
    return luma


class Camera:
    """A planner, its clock, and a model that finds what it is told to, where it looks."""

    def __init__(self) -> None:
        self.planner, self.at_s = LookPlanner(WIDTH, HEIGHT), 0.0
        self.looks: list[Plan] = []

    def show(self, luma: NDArray[np.uint8], there: Detections, elapsed_s: float = 0.1) -> MergedDetections:
        self.at_s += elapsed_s
        plan = self.planner.plan(luma, self.at_s)
        self.looks.append(plan)
        centres = (there.boxes[:, :2] + there.boxes[:, 2:]) / 2
        seen = np.array(
            [any((row[:2] < centre).all() and (centre < row[2:]).all() for row in plan.regions) for centre in centres],
            np.bool_,
        )
        return self.planner.merge(plan, Detections(*(column[seen] for column in there)), self.at_s)

    def settle(self, there: Detections, luma: NDArray[np.uint8] = GREY) -> None:
        """Show a still picture until everything in it is carried."""
        for _ in range(MIN_HITS + 1):
            self.show(luma, there)


def covers(plan: Plan, box: tuple[float, ...]) -> bool:
    return any(x1 <= box[0] and y1 <= box[1] and x2 >= box[2] and y2 >= box[3] for x1, y1, x2, y2 in plan.regions)


def test_the_first_picture_is_looked_at_as_a_whole() -> None:
    camera = Camera()
    found = camera.show(GREY, people(PERSON))
    assert camera.looks[0].reason == "first"
    assert camera.looks[0].share == 1.0
    assert found.detections.boxes.tolist() == [list(PERSON)]
    assert found.carried is not None
    assert not found.carried.any()


def test_a_still_picture_costs_nothing_and_nobody_is_forgotten() -> None:
    camera = Camera()
    camera.settle(people(PERSON))
    found = camera.show(GREY, people(PERSON))
    assert camera.looks[-1].share == 0.0
    assert found.carried is not None
    assert found.carried.tolist() == [True]
    assert found.detections.boxes.tolist() == [list(PERSON)]


def test_people_who_stand_for_a_minute_are_looked_at_on_schedule() -> None:
    camera = Camera()
    for _ in range(600):
        found = camera.show(GREY, people(PERSON, OTHER))
        assert len(found.detections.scores) == 2
    whole = [plan for plan in camera.looks if plan.reason]
    assert 60 / MAX_INTERVAL_S - 3 <= len(whole) <= 60 / MAX_INTERVAL_S + 5
    assert sum(plan.share for plan in camera.looks) < 0.1 * len(camera.looks)


def test_what_changes_is_looked_at_with_a_margin() -> None:
    camera = Camera()
    camera.settle(people())
    camera.show(with_change(OTHER), people(OTHER))
    assert camera.looks[-1].reason == ""
    assert covers(camera.looks[-1], OTHER)
    assert 0 < camera.looks[-1].share < 0.15
    assert not covers(camera.looks[-1], PERSON)


def test_a_person_whom_a_region_touches_lies_wholly_in_it() -> None:
    camera = Camera()
    camera.settle(people(PERSON))
    feet = (PERSON[0], PERSON[3] - 8, PERSON[2], PERSON[3])
    camera.show(with_change(feet), people(PERSON))
    assert covers(camera.looks[-1], PERSON)


def test_who_leaves_is_gone_at_once() -> None:
    camera = Camera()
    camera.settle(people(PERSON, OTHER), with_change(PERSON, OTHER))
    found = camera.show(with_change(OTHER), people(OTHER))
    assert found.detections.boxes.tolist() == [list(OTHER)]


def test_a_whole_look_finds_who_was_missed_and_comes_sooner() -> None:
    camera = Camera()
    camera.settle(people())
    for _ in range(100):
        camera.show(GREY, people())
    assert camera.planner.interval_s == MAX_INTERVAL_S
    while len(camera.show(GREY, people(PERSON)).detections.scores) == 0:
        assert camera.at_s < 20, "a whole look must come"
    looks = camera.planner.take_looks()
    assert looks.disagreements == 1
    assert looks.total == len(camera.looks)
    assert looks.whole == sum(plan.reason in ("first", "schedule") for plan in camera.looks)
    assert camera.planner.interval_s < MAX_INTERVAL_S


def test_a_person_who_is_missed_now_and_then_stays() -> None:
    """The model finds the same still person in four looks of five: a miss is no departure."""
    camera = Camera()
    camera.settle(people(PERSON))
    for number in range(600):
        found = camera.show(GREY, people() if number % 5 == 0 else people(PERSON))
        assert len(found.detections.scores) == 1, number


def test_one_who_is_never_found_again_is_dropped() -> None:
    camera = Camera()
    camera.settle(people(PERSON))
    lengths = [len(camera.show(GREY, people()).detections.scores) for _ in range(60)]
    assert lengths[-1] == 0
    misses = [plan for plan, length in zip(camera.looks[MIN_HITS + 1 :], lengths, strict=True) if plan.share and length]
    assert len(misses) == MAX_MISSES - 1, "so many looks without it before the last"


def test_what_comes_and_goes_is_not_carried() -> None:
    camera = Camera()
    camera.settle(people())
    camera.show(with_change(OTHER), people(OTHER, score=0.35))
    found = camera.show(with_change(OTHER), people())
    assert len(found.detections.scores) == 0


def test_a_part_at_a_regions_edge_waits_for_a_look_at_all_of_it() -> None:
    camera = Camera()
    camera.settle(people())
    luma = with_change((300.0, 200.0, 320.0, 220.0))
    camera.at_s += 0.1
    plan = camera.planner.plan(luma, camera.at_s)
    ((x1, y1, x2, y2),) = plan.regions.tolist()
    found = camera.planner.merge(plan, people((x1, y1, x2 - 4, y2)), camera.at_s)
    assert len(found.detections.scores) == 0
    camera.show(luma, people())
    assert camera.looks[-1].regions[0][0] < x1, "with a margin on the side where it was cut"


def test_a_box_that_stands_still_is_the_mean_of_its_looks() -> None:
    """A box that differs from look to look would cross a line while nobody moves."""
    camera = Camera()
    rng = np.random.default_rng(1)
    bottoms = []
    for _ in range(300):
        noisy = tuple(value + rng.normal(0, 2) for value in PERSON)
        bottoms.append(camera.show(GREY, people(noisy)).detections.boxes[0, 3])
    assert np.abs(np.diff(bottoms[20:])).max() < 1.0


def test_slow_changes_add_up_to_a_look() -> None:
    camera = Camera()
    camera.settle(people())
    for level in range(101, 101 + MIN_CHANGE):
        camera.show(with_change(OTHER, level=level), people(), 0.01)
    assert any(covers(plan, OTHER) and not plan.reason for plan in camera.looks)


@pytest.mark.parametrize("level", [20, 250], ids=["lights off", "lights on"])
def test_a_change_all_over_is_a_whole_look(level: int) -> None:
    camera = Camera()
    camera.settle(people(PERSON))
    found = camera.show(np.full_like(GREY, level), people(OTHER))
    assert camera.looks[-1].reason == "changed"
    assert found.detections.boxes.tolist() == [list(OTHER)]
    assert camera.planner.take_looks().disagreements == 0, "no fault of what was carried"


def test_noise_of_a_sensor_is_no_change() -> None:
    camera = Camera()
    camera.settle(people())
    rng = np.random.default_rng(1)
    for _ in range(5):
        camera.show((GREY + rng.normal(0, 2, GREY.shape)).astype(np.uint8), people(), 0.01)
    assert camera.looks[-1].share == 0.0


def test_after_a_restart_the_next_look_is_a_whole_one() -> None:
    camera = Camera()
    camera.settle(people(PERSON))
    plan = camera.planner.plan(with_change(OTHER), camera.at_s + 0.1)
    camera.planner.restart()
    # What was on its way is merged as it was planned, whatever happened meanwhile.
    camera.planner.merge(plan, people(OTHER), camera.at_s + 0.1)
    found = camera.show(GREY, people(PERSON))
    assert camera.looks[-1].reason == "first"
    assert found.detections.boxes.tolist() == [list(PERSON)]


def test_a_look_from_before_a_restart_changes_nothing_after_it() -> None:
    """Another model is taken over while a batch of the old one is computed."""
    camera = Camera()
    camera.settle(people(PERSON))
    before = camera.planner.plan(with_change(OTHER), camera.at_s + 0.1)
    camera.planner.restart()
    after = camera.planner.plan(GREY, camera.at_s + 0.2)
    late = camera.planner.merge(before, people(OTHER), camera.at_s + 0.1)
    assert late.detections.boxes.tolist() == [list(OTHER)]
    assert camera.planner.in_flight, "the look after it is on its way"
    found = camera.planner.merge(after, people(PERSON), camera.at_s + 0.2)
    assert found.detections.boxes.tolist() == [list(PERSON)]


def test_cameras_are_looked_at_at_different_times() -> None:
    def find_second_whole_look(planner: LookPlanner) -> int:
        for number in range(200):
            plan = planner.plan(GREY, number / 100)
            planner.merge(plan, people(), number / 100)
            if plan.reason == "schedule":
                return number
        raise AssertionError("a whole look must come")

    assert len({find_second_whole_look(LookPlanner(WIDTH, HEIGHT, phase)) for phase in (0.0, 0.5, 0.9)}) == 3


@pytest.mark.parametrize(("width", "height"), [(640, 360), (480, 270), (854, 480), (352, 240)])
def test_regions_lie_in_the_picture_at_even_pixels(width: int, height: int) -> None:
    planner = LookPlanner(width, height)
    columns, rows = planner.cells
    grey = np.full((rows, columns), 100, np.uint8)
    planner.merge(planner.plan(grey, 0.0), people(), 0.0)
    rng = np.random.default_rng(1)
    for number in range(1, 40):
        luma = grey.copy()
        x, y = rng.integers(0, columns), rng.integers(0, rows)
        luma[y : y + 12, x : x + 12] = 200
        plan = planner.plan(luma, number / 1000)
        planner.merge(plan, people(), number / 1000)
        assert (plan.regions % 2 == 0).all()
        assert (plan.regions[:, :2] >= 0).all()
        assert (plan.regions[:, 2:] <= (width, height)).all()
        assert (plan.regions[:, 2:] - plan.regions[:, :2] >= 16).all()
