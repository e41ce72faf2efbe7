"""What several folders share: the web process with its made-up site, and detectors, whose loading is slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.engine import Inference
from tests.conftest import RedisServer, missing
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import Served, serving


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    """The test site, served."""
    with serving(redis_server.url, tmp_path) as served:
        yield served


@pytest.fixture
def site(server: Served, redis_server: RedisServer) -> Iterator[SyntheticSite]:
    """Its cameras and crossings, made by the test."""
    made = SyntheticSite(server.config, server.paths, redis_server.url)
    yield made
    made.close()


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
