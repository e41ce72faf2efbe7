"""The demo's camera: 960x540 pixels, 3.8 m above flat ground, looking along it. Pure.

The horizon is a row of the picture, so a metre at row y is `SCALE * (y - HORIZON)` pixels wide and high.
"""

from __future__ import annotations

WIDTH, HEIGHT, FPS = 960, 540, 10
HORIZON = 60.0
SCALE = 0.261
"""Pixels per metre and row below the horizon."""
FOCAL = 900.0
"""Focal length in pixels: how strongly depth is foreshortened."""
PERSON_M, BUS_M = 1.75, 3.1
MARGIN = 12
"""Rows at the lower edge that carry the frame counter."""


def compute_pixels_per_metre(y: float) -> float:
    """Pixels per metre of what stands on row `y`."""
    return SCALE * (y - HORIZON)


def compute_depth(y: float) -> float:
    """Distance from the camera, in metres, of the ground at row `y`."""
    return FOCAL / compute_pixels_per_metre(y)


def compute_distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Metres along the ground between two pixels that are near each other."""
    across = (b[0] - a[0]) / compute_pixels_per_metre((a[1] + b[1]) / 2)
    along = compute_depth(a[1]) - compute_depth(b[1])
    return float((across**2 + along**2) ** 0.5)
