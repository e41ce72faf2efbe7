"""Connection quality: hours by hand."""

from __future__ import annotations

import pytest

from crowdperf.capture.connection import ConnectionQuality, Grade


def hour(minutes: int, per_minute: int, fps: float = 10.0) -> ConnectionQuality:
    """A camera that has delivered evenly since 0."""
    quality = ConnectionQuality(0.0)
    quality.set_expected_fps(fps)
    for second in range(minutes * 60):
        quality.record_frames(float(second), per_minute // 60)
    return quality


@pytest.mark.parametrize(
    ("per_minute", "grade"), [(600, "excellent"), (540, "fair"), (480, "poor"), (300, "poor"), (240, "unusable")]
)
def test_the_share_of_the_expected_pictures(per_minute: int, grade: Grade) -> None:
    assert hour(10, per_minute).compute_grade(600.0) == grade


def test_losses_count_though_every_picture_came() -> None:
    quality = hour(10, 600)
    quality.record_loss(600.0, stall=False)
    assert quality.compute_grade(600.0) == "fair"
    quality.record_loss(600.0, stall=True)
    assert quality.compute_grade(600.0) == "fair"
    quality.record_loss(600.0, stall=False)
    assert quality.compute_grade(600.0) == "poor"


def test_an_hour_later_all_is_forgotten() -> None:
    quality = hour(1, 600)
    for _ in range(9):
        quality.record_loss(60.0, stall=True)
    for second in range(60, 3660):
        quality.record_frames(float(second), 10)
    assert quality.compute_grade(3600.0) == "poor"
    assert quality.compute_grade(3661.0) == "excellent"


def test_a_camera_that_has_gone_becomes_unusable() -> None:
    quality = hour(10, 600)
    assert quality.compute_grade(700.0) == "poor"
    assert quality.compute_grade(1300.0) == "unusable"
    assert quality.compute_grade(50_000.0) == "unusable"


def test_a_slow_start_is_no_loss() -> None:
    quality = ConnectionQuality(0.0)
    quality.set_expected_fps(10.0)
    for second in range(8, 60):
        quality.record_frames(float(second), 10)
    assert quality.compute_grade(60.0) == "excellent"


def test_a_source_without_a_rate_is_measured_by_its_best_minute() -> None:
    quality = hour(5, 600, fps=0.0)
    assert quality.compute_grade(300.0) == "excellent"
    assert quality.compute_grade(400.0) == "poor"


def test_verdict_is_not_early_and_clear_for_an_absent_camera() -> None:
    quality = ConnectionQuality(0.0)
    quality.record_frames(5.0, 50)
    assert quality.compute_grade(14.0) is None
    assert quality.compute_grade(20.0) is None, "it delivers, at a rate that nobody knows yet"
    assert ConnectionQuality(0.0).compute_grade(20.0) == "unusable"
