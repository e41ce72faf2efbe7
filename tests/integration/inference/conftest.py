"""Detectors that several files share: loading them is the slow part."""

from __future__ import annotations

import pytest

from crowdperf.inference.detector import Detector, load_detector
from crowdperf.settings.engine import Inference
from tests.conftest import missing


@pytest.fixture(scope="session")
def openvino_detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """What a CPU site runs in full precision."""
    return load_detector(Inference(runtime="openvino", precision="full"), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def torch_detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The torch runtime on the processor."""
    for name in ("torch", "torchvision", "ultralytics"):
        try:
            __import__(name)
        except ImportError:
            missing(f"{name} is not installed: the torch runtime is not tested")
    return load_detector(Inference(runtime="torch", device="cpu"), tmp_path_factory.mktemp("cache"))
