"""The two pictures that the `ultralytics` package ships, from which the demo's people, bus and house are cut."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BgrImage = NDArray[np.uint8]
"""Shape (height, width, 3), BGR."""


class DemoError(Exception):
    """The demo cannot be rendered; the message names the cause and the remedy."""


def find_assets_folder() -> Path:
    """The `assets` folder of the installed `ultralytics` package, found without importing it (that would load torch).

    Raises:
        DemoError: the package is not installed.
    """
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(
            "the demo is cut from pictures of the ultralytics package, which is not installed. "
            "Remedy: pip install ultralytics-opencv-headless, or configure cameras of your own in config.json."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "assets"


def read_asset(name: str, shape: tuple[int, int]) -> BgrImage:
    """One picture of the assets folder; `shape` is the (height, width) that the hand-made masks were drawn on.

    Raises:
        DemoError: missing, unreadable, or of another size.
    """
    path = find_assets_folder() / name
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[:2] != shape:
        found = "is missing or unreadable" if picture is None else f"is {picture.shape[1]}x{picture.shape[0]}"
        raise DemoError(
            f"the demo needs {path} with {shape[1]}x{shape[0]} pixels, but it {found}. "
            "Remedy: reinstall ultralytics-opencv-headless."
        )
    return np.asarray(picture, dtype=np.uint8)


def read_bus_picture() -> BgrImage:
    """The street picture: two whole pedestrians and a bus."""
    return read_asset("bus.jpg", (1080, 810))


def read_touchline_picture() -> BgrImage:
    """The football picture, which lends a head."""
    return read_asset("zidane.jpg", (720, 1280))
