"""Detectors that several files share: loading them is the slow part."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowdperf.inference.detector import Detector, load_detector
from crowdperf.settings.engine import Inference
from tests.conftest import missing


@pytest.fixture(scope="session")
def openvino_detector(model_cache: Path) -> Detector:
    """What a CPU site runs in full precision."""
    return load_detector(Inference(runtime="openvino", precision="full"), model_cache)


@pytest.fixture(scope="session")
def torch_detector(model_cache: Path) -> Detector:
    """The torch runtime on the processor."""
    for name in ("torch", "torchvision", "ultralytics"):
        try:
            __import__(name)
        except ImportError:
            missing(f"{name} is not installed: the torch runtime is not tested")
    return load_detector(Inference(runtime="torch", device="cpu"), model_cache)
