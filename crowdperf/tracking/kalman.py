"""Kalman filters of many boxes at once, in closed form.

The motion model of SORT and ByteTrack (constant velocity, diagonal noise) never couples centre x, centre y, width and
height, so that an 8 x 8 filter is exactly four filters of two states (value, velocity). Each of them needs a handful of
scalars and no matrix is ever inverted: with structures of arrays a frame costs a few numpy calls for all tracks.

Process noise: discrete white-noise acceleration (Bar-Shalom, Li and Kirubarajan, Estimation with Applications to
Tracking and Navigation, 6.3.2), so that irregular frame times need no tuning. All noise is a share of the box's height:
a person twice as large moves and jitters twice as many pixels.

Units: picture heights and seconds. Arrays: float64, shape (5, n, 4): value, velocity, var(value), cov, var(velocity)
by row, (centre x, centre y, width, height) by column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ACCELERATION = np.array([3.0, 3.0, 0.6, 0.6])
"""Standard deviation of the acceleration, box heights per second squared."""
MEASUREMENT = np.array([0.1, 0.1, 0.16, 0.16])
"""Standard deviation of a detection, box heights."""
START_VELOCITY = np.array([2.0, 2.0, 0.4, 0.4])
"""Standard deviation of the unknown velocity of a new track, box heights per second."""
VALUE, VELOCITY, VARIANCE, COVARIANCE, VELOCITY_VARIANCE = range(5)
SMALLEST = 1e-4
"""Widths and heights are kept above this (picture heights), whatever a filter extrapolates."""


def empty() -> Floats:
    """No tracks."""
    return np.zeros((5, 0, 4))


def start(measured: Floats) -> Floats:
    """Filters of new tracks; `measured` has shape (n, 4): centre x, centre y, width, height."""
    height = measured[:, 3:4]
    state = np.zeros((5, len(measured), 4))
    state[VALUE] = measured
    state[VARIANCE] = (2 * MEASUREMENT * height) ** 2
    state[VELOCITY_VARIANCE] = (START_VELOCITY * height) ** 2
    return state


def predict(state: Floats, dt: float) -> None:
    """Move every filter `dt` seconds on, in place."""
    noise = ACCELERATION * state[VALUE, :, 3:4]
    noise *= noise
    noise *= dt * dt
    state[VALUE] += dt * state[VELOCITY]
    np.maximum(state[VALUE, :, 2:], SMALLEST, out=state[VALUE, :, 2:])
    state[VARIANCE] += dt * (2 * state[COVARIANCE] + dt * state[VELOCITY_VARIANCE]) + (dt * dt / 4) * noise
    state[COVARIANCE] += dt * state[VELOCITY_VARIANCE] + (dt / 2) * noise
    state[VELOCITY_VARIANCE] += noise


def correct(state: Floats, rows: NDArray[np.intp], measured: Floats) -> None:
    """Correct the filters of `rows` (k indices) by their measurements, shape (k, 4), in place."""
    value, velocity, variance, covariance, velocity_variance = state[:, rows]
    noise = MEASUREMENT * measured[:, 3:4]
    total = variance + noise * noise
    gain = variance / total
    velocity_gain = covariance / total
    innovation = measured - value
    keep = 1.0 - gain
    state[VALUE, rows] = value + gain * innovation
    state[VELOCITY, rows] = velocity + velocity_gain * innovation
    state[VARIANCE, rows] = variance * keep
    state[VELOCITY_VARIANCE, rows] = velocity_variance - velocity_gain * covariance
    state[COVARIANCE, rows] = covariance * keep
