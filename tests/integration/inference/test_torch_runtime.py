"""The torch runtime's own ways, on the processor: batches in flight, and a device that runs out of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crowdperf.inference.detector import Detector
from crowdperf.inference.letterbox import letterbox
from crowdperf.inference.registry import ModelError
from tests.support.pictures import asset, ring_frame

NAMES = ("bus.jpg", "zidane.jpg", "bus.jpg", "zidane.jpg", "bus.jpg")
FRAMES, SPECS = zip(*(ring_frame(asset(name), 320, 192) for name in NAMES))


def fresh(detector: Detector) -> Any:
    """The shared runtime without what an earlier test has left in it."""
    runtime: Any = detector.runtime
    runtime.max_batch = 64
    runtime._steps.clear()
    return runtime


def test_batches_in_flight_come_back_in_order(torch_detector: Detector) -> None:
    alone = [torch_detector.detect([frame], spec)[0] for frame, spec in zip(FRAMES, SPECS)]
    for index in (0, 1):
        torch_detector.load([FRAMES[index]], [SPECS[index]])
        torch_detector.start()
    for index in (0, 1):
        (found,) = torch_detector.finish([SPECS[index]])
        assert np.array_equal(found.boxes, alone[index].boxes)


def test_where_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(
    torch_detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
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
        said = [record.getMessage() for record in caplog.records if "out of device memory" in record.getMessage()]
        assert len(said) == 2, "from 8 to 4, from 4 to 2"
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
        runtime.load(FRAMES[:2], "yuv420p", letterbox(320, 192))
        with pytest.raises(ModelError, match=r"no memory for one picture of 320x192.*Remedy"):
            runtime.start()
    finally:
        runtime._network = network
        fresh(torch_detector)


def test_time_is_booked_by_stage(torch_detector: Detector, openvino_detector: Detector) -> None:
    for detector in (torch_detector, openvino_detector):
        detector.runtime.stages.take()
        detector.detect([FRAMES[0]], SPECS[0])
        _, copy, preprocess, infer, postprocess, *_ = detector.runtime.stages.take()
        assert min(preprocess, infer, postprocess) > 0
        assert infer > postprocess
        assert (copy > 0) == (detector.runtime.name == "torch")
