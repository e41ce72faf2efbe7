"""Pictures for detector tests: Ultralytics' packaged assets, and ring frames made of any picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.models.preprocess import Letterbox


def asset(name: str) -> NDArray[np.uint8]:
    """Return a picture of the ultralytics package (found without importing it), uint8 (h, w, 3), BGR."""
    found = importlib.util.find_spec("ultralytics")
    assert found is not None
    assert found.origin is not None
    return picture(Path(found.origin).parent / "assets" / name)


def picture(path: Path) -> NDArray[np.uint8]:
    """Return a picture from a file, uint8 (h, w, 3), BGR."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return np.asarray(image, np.uint8)


def ring_frame(
    image: NDArray[np.uint8], width: int, height: int, pix_fmt: Literal["yuv420p", "bgr24"] = "yuv420p"
) -> tuple[NDArray[np.uint8], RingSpec]:
    """`image` scaled and padded with black, centred, into a ring picture, as capture has FFmpeg do it."""
    source_height, source_width = image.shape[:2]
    spec = RingSpec(width, height, pix_fmt, source_width, source_height, 4, 10.0, 0)
    x0, y0, w, h = spec.content
    padded = np.zeros((height, width, 3), np.uint8)
    padded[y0 : y0 + h, x0 : x0 + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    if pix_fmt == "bgr24":
        return padded.reshape(-1), spec
    return np.asarray(cv2.cvtColor(padded, cv2.COLOR_BGR2YUV_I420), np.uint8).reshape(-1), spec


def to_torch_input(frames: Any, box: Letterbox, dtype: Any = None) -> Any:
    """The torch runtime's input of these frames, uint8 (b, frame_bytes); float32 by default."""
    import torch

    from crowdperf.models.torch_graphs import GeometryBuffers
    from crowdperf.models.torch_network import paint_batch

    canvas = GeometryBuffers(len(frames), box, dtype or torch.float32, "cpu").canvas
    paint_batch(frames, box, canvas)
    return canvas


def iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (n, m): overlap of boxes x1 y1 x2 y2."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return np.asarray(overlap / (areas[0][:, None] + areas[1][None, :] - overlap), np.float32)
