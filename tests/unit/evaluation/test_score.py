"""Precision, recall, count error and their intervals, against published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.evaluation.matching import Passage
from crowdperf.evaluation.score import (
    compute_byar_limits,
    compute_count_error,
    compute_figures,
    compute_wilson_interval,
)
from tests.support.matching import match_crossings

NUMBERS = st.integers(0, 500)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        # R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17, 1998.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(hits: int, of: int, low: float, high: float) -> None:
    found = compute_wilson_interval(hits, of)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("seen", "low", "high"),
    # Garwood's exact limits, Biometrika 28, 1936.
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (10, 4.795, 18.390), (100, 81.36, 121.63)],
)
def test_byar_is_near_the_exact_limits(seen: int, low: float, high: float) -> None:
    found = compute_byar_limits(seen)
    assert found == (pytest.approx(low, rel=0.02, abs=0.02), pytest.approx(high, rel=0.02))


def test_nothing_to_measure_is_no_estimate() -> None:
    assert compute_wilson_interval(0, 0) is None
    assert compute_count_error(0, 0, 3) is None


def test_no_mistake_in_few_crossings_is_no_proof() -> None:
    few, many = compute_count_error(6, 0, 0), compute_count_error(600, 0, 0)
    assert few is not None
    assert many is not None
    assert few.value == many.value == 0
    assert few.high > 0.5
    assert many.high < 0.01


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_shares_lie_in_their_interval_and_in_0_to_1(hits: int, more: int) -> None:
    found = compute_wilson_interval(hits, hits + more)
    assert (found is None) == (hits + more == 0)
    if found:
        assert 0 <= found.low <= found.value <= found.high <= 1


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 500), NUMBERS)
def test_the_error_lies_in_its_interval(matched: int, missed: int, surplus: int) -> None:
    true = matched + missed
    found = compute_count_error(true, missed, surplus)
    assert (found is None) == (true == 0)
    if found:
        assert -1 <= found.low <= found.value <= found.high
        assert found.value == (surplus - missed) / true


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_misses_and_surplus_mirror_each_other(missed: int, surplus: int) -> None:
    found, mirrored = compute_count_error(1000, missed, surplus), compute_count_error(1000, surplus, missed)
    assert found is not None
    assert mirrored is not None
    assert (mirrored.low, mirrored.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    missed_mean, surplus_mean, covered, tries = 4.0, 2.5, 0, 4000
    for missed, surplus in zip(random.poisson(missed_mean, tries), random.poisson(surplus_mean, tries)):
        found = compute_count_error(100, int(missed), int(surplus))
        assert found is not None
        covered += found.low <= (surplus_mean - missed_mean) / 100 <= found.high
    assert 0.94 <= covered / tries <= 0.99


def test_a_score_by_direction() -> None:
    true = [Passage(at, "door", way) for at, way in ((1.0, "in"), (5.0, "in"), (9.0, "out"))]
    counted = [Passage(at, "door", way) for at, way in ((1.4, "in"), (9.1, "out"), (9.2, "in"), (20.0, "out"))]
    matching = match_crossings(true, counted, 2.0)
    total, into, out = (compute_figures(one) for one in (matching, matching.select("in"), matching.select("out")))
    assert (total.true, total.counted, total.matched) == (3, 4, 2)
    assert into.recall is not None
    assert into.precision is not None
    assert (into.recall.value, into.precision.value) == (0.5, 0.5)
    assert out.count_error is not None
    assert math.isclose(out.count_error.value, 1.0)
    assert matching.surplus == counted[2:]
