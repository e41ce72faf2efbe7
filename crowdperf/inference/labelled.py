"""Labelled pictures in YOLO's format: a folder with `classes.txt`, `images/*.jpg` and `labels/*.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.registry import ModelError

IMAGE_PATTERNS = ("*.jpg", "*.jpeg", "*.png")


class LabelledImage(NamedTuple):
    """One picture and what is in it."""

    path: Path
    boxes: NDArray[np.float32]
    """(n, 4), x1 y1 x2 y2, normalised."""
    classes: NDArray[np.int64]
    """(n,), index into the classes that were asked for."""


def load_labelled_images(folder: Path, class_names: tuple[str, ...]) -> list[LabelledImage]:
    """The pictures of a folder that have a label file; classes that are not in `system` are left out.

    Raises:
        ModelError: there is no such folder, or a label cannot be read.
    """
    try:
        names = (folder / "classes.txt").read_text(encoding="utf-8").split()
        files = sorted(path for pattern in IMAGE_PATTERNS for path in (folder / "images").glob(pattern))
        found = [_read_labels(path, folder / "labels" / f"{path.stem}.txt", names, class_names) for path in files]
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(
            f"{str(folder)!r} is no folder of labelled pictures ({error}). Remedy: give one with classes.txt, images/ "
            "and labels/ (a line per box: class, centre x, centre y, width, height, normalised)."
        ) from None
    known = [one for one in found if one is not None]
    if not known:
        raise ModelError(f"{str(folder)!r} holds no labelled picture. Remedy: give another folder.")
    return known


def _read_labels(path: Path, label: Path, names: list[str], class_names: tuple[str, ...]) -> LabelledImage | None:
    if not label.exists():
        return None
    rows = [line.split() for line in label.read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = [
        (class_names.index(names[int(row[0])]), *map(float, row[1:5]))
        for row in rows
        if names[int(row[0])] in class_names
    ]
    table = np.array(kept, np.float32).reshape(-1, 5)
    centre, half = table[:, 1:3], table[:, 3:5] / 2
    return LabelledImage(path, np.concatenate([centre - half, centre + half], axis=1), table[:, 0].astype(np.int64))


def load_ring_frame(path: Path, width: int, height: int) -> tuple[NDArray[np.uint8], RingSpec]:
    """A picture as capture would put it into a ring: yuv420p (frame_bytes,), scaled and centred on black.

    Raises:
        ModelError: the file is no picture.
    """
    image = cv2.imread(str(path))
    if image is None:
        raise ModelError(f"{str(path)!r} is not a picture. Remedy: take it out of the folder.")
    spec = RingSpec(width, height, "yuv420p", image.shape[1], image.shape[0], 4, 1.0, 0)
    x0, y0, across, down = spec.content
    ring = np.zeros((height, width, 3), np.uint8)
    ring[y0 : y0 + down, x0 : x0 + across] = cv2.resize(image, (across, down), interpolation=cv2.INTER_AREA)
    frame: NDArray[np.uint8] = cv2.cvtColor(ring, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    return frame, spec
