"""The torch runtime's own ways, on the processor: batches in flight, and a device that runs out of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowdperf.models.detector import Detector
from crowdperf.models.preprocess import letterbox
from crowdperf.models.registry import ModelError
from tests.conftest import ROOT
from tests.support.pictures import asset, ring_frame

NAMES = ("bus.jpg", "zidane.jpg", "bus.jpg", "zidane.jpg", "bus.jpg")
FRAMES, SPECS = zip(*(ring_frame(asset(name), 320, 192) for name in NAMES))


def fresh(detector: Detector) -> Any:
    """The shared runtime without what an earlier test has left in it."""
    runtime: Any = detector.backend
    runtime.max_batch = 64
    runtime._geometries.clear()
    return runtime


def test_batches_in_flight_come_back_in_order(torch_detector: Detector) -> None:
    alone = [torch_detector.detect([frame], spec)[0] for frame, spec in zip(FRAMES, SPECS)]
    for index in (0, 1):
        torch_detector.load([FRAMES[index]], [SPECS[index]])
        torch_detector.start()
    for index in (0, 1):
        (found,) = torch_detector.finish([SPECS[index]])
        assert np.array_equal(found.boxes, alone[index].boxes)


def test_a_size_that_the_network_cannot_compute_is_refused_alone(torch_detector: Detector) -> None:
    runtime = fresh(torch_detector)
    frame, small = ring_frame(asset("bus.jpg"), 160, 96)
    network, asked = runtime._network, []

    def particular(pictures: Any) -> Any:
        asked.append(pictures.shape[3])
        if pictures.shape[3] == 160:
            raise RuntimeError("selected index k out of range")
        return network.call(pictures)

    runtime._network = network._replace(call=particular)
    try:
        torch_detector.retain([small, SPECS[0]])
        for _ in range(3):
            with pytest.raises(ModelError, match=r"cannot be prepared for pictures of 160x96.*out of range.*Remedy"):
                torch_detector.detect([frame], small)
        assert len(torch_detector.detect([FRAMES[0]], SPECS[0])) == 1
        assert asked == [160, 320], "the failure is remembered"
    finally:
        runtime._network = network
    torch_detector.retain([SPECS[0]])
    assert len(torch_detector.detect([frame], small)) == 1, "the camera went, and so did its failure"


def test_batch_is_halved_when_memory_runs_out(torch_detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    runtime = fresh(torch_detector)
    expected = torch_detector.detect_batch(FRAMES, SPECS)
    fresh(torch_detector)
    network, asked = runtime._network, []

    def small(pictures: Any) -> Any:
        asked.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network.call(pictures)

    runtime._network = network._replace(call=small)
    try:
        found = torch_detector.detect_batch(FRAMES, SPECS)
        assert asked == [8, 4, 2, 2, 1], "8 for five frames, then what fits"
        assert runtime.max_batch == 2
        logged = [record.getMessage() for record in caplog.records if "out of device memory" in record.getMessage()]
        assert len(logged) == 2, "from 8 to 4, from 4 to 2"
        for one, other in zip(found, expected):
            assert np.allclose(one.boxes, other.boxes, atol=1e-4)
        asked.clear()
        torch_detector.detect_batch(FRAMES, SPECS)
        assert max(asked) == 2, "it does not try again what has failed"
    finally:
        runtime._network = network
        fresh(torch_detector)


def test_a_device_without_memory_for_one_picture_says_so(torch_detector: Detector) -> None:
    import torch

    runtime = fresh(torch_detector)
    network = runtime._network

    def none(pictures: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    runtime._network = network._replace(call=none)
    try:
        runtime.load(FRAMES[:2], letterbox(SPECS[0]))
        with pytest.raises(ModelError, match=r"no memory for one picture of 320x192.*Remedy"):
            runtime.start()
    finally:
        runtime._network = network
        fresh(torch_detector)


def test_time_is_booked_by_stage(torch_detector: Detector, openvino_detector: Detector) -> None:
    for detector in (torch_detector, openvino_detector):
        detector.backend.stages.take()
        detector.detect([FRAMES[0]], SPECS[0])
        _, copy, preprocess, infer, postprocess, *_ = detector.backend.stages.take()
        assert min(preprocess, infer, postprocess) > 0
        assert (copy > 0) == (detector.backend.name == "torch")


def test_more_parts_than_buffers_use_their_own_frames(torch_detector: Detector) -> None:
    """What a device whose memory ran out during `load` does: the frames of one batch in several parts."""
    runtime = fresh(torch_detector)
    expected = torch_detector.detect_batch(FRAMES, SPECS)
    fresh(torch_detector)
    runtime.max_batch = 1
    try:
        torch_detector.load(FRAMES, SPECS)
        torch_detector.start()
        for one, other in zip(torch_detector.finish(SPECS), expected):
            assert len(one.boxes) == len(other.boxes)
            assert np.allclose(one.boxes, other.boxes, atol=1e-4)
    finally:
        fresh(torch_detector)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_broken_cuda_device_is_named_and_the_processor_used(device: str, tmp_path: Path) -> None:
    """The driver says that there is a device, and torch cannot use it: here, since none is visible to it."""
    code = f"""
import logging, pathlib
from crowdperf.models import loader as detector
from crowdperf.settings.engine import Inference
logging.basicConfig(format="%(levelname)s %(message)s")
detector._should_use_cuda = lambda asked, cache: asked != "cpu"
try:
    found = detector.load_detector(Inference(device={device!r}), pathlib.Path({str(tmp_path)!r}))
    print(found.description)
except detector.ModelError as error:
    print("refused:", error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    output = run.stdout if device == "cuda" else run.stderr
    assert "the CUDA device cannot run the model 'crowdperf-person-vehicle-n': " in output
    assert "Remedy: check `nvidia-smi`" in output
    if device == "auto":
        assert "ERROR" in output
        assert "The processor is used instead" in output
        assert run.stdout.splitlines()[-1].lower().startswith("cpu, openvino")
    else:
        assert run.stdout.splitlines()[-1].startswith("refused: ")
