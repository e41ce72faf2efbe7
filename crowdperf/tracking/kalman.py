"""Run Kalman filters of many boxes at once, in closed form.

The motion model of SORT and ByteTrack (constant velocity, diagonal noise) never couples centre x, centre y, width and
height. So an 8 x 8 filter is exactly four filters of two states (value, velocity). Each needs a few scalars, and no
matrix is inverted. With structures of arrays a frame costs a few numpy calls for all tracks.

Process noise is discrete white-noise acceleration (Bar-Shalom, Li and Kirubarajan, Estimation with Applications to
Tracking and Navigation, 6.3.2), so irregular frame times need no tuning. All noise is a share of the box's height,
since a person twice as large moves and jitters by twice as many pixels.

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
MIN_SIZE = 1e-4
"""Lower bound of widths and heights (picture heights) after an extrapolation."""


def empty() -> Floats:
    """Create the filters of zero tracks."""
    return np.zeros((5, 0, 4))


def start(measured: Floats) -> Floats:
    """Create filters of new tracks from centre x, centre y, width and height, shape (n, 4)."""
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
    np.maximum(state[VALUE, :, 2:], MIN_SIZE, out=state[VALUE, :, 2:])
    state[VARIANCE] += dt * (2 * state[COVARIANCE] + dt * state[VELOCITY_VARIANCE]) + (dt * dt / 4) * noise
    state[COVARIANCE] += dt * state[VELOCITY_VARIANCE] + (dt / 2) * noise
    state[VELOCITY_VARIANCE] += noise


def correct(state: Floats, rows: NDArray[np.intp], measured: Floats) -> None:
    """Correct filters by measurements, in place.

    Args:
        state: all filters, shape (5, n, 4).
        rows: indices of the filters to correct, shape (k,).
        measured: their measurements, shape (k, 4).
    """
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
