"""A failure of OpenVINO on one picture ends its batch, whose requests can be used again."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from crowdperf.frames.ring import RingSpec
from crowdperf.models.openvino_backend import OpenvinoBackend, _LoadedBatch
from crowdperf.models.preprocess import letterbox
from crowdperf.runtime.timings import StageTimings

BOX = letterbox(RingSpec(64, 36, "yuv420p", 64, 36, 4, 1.0, 0))


class Request:
    """A request of the plug-in that may fail."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at, self.waits, self.is_busy = fails_at, 0, False

    def start_async(self, _inputs: object, share_inputs: bool) -> None:
        if self.fails_at == "start":
            raise RuntimeError("the plug-in failed")
        self.is_busy = share_inputs

    def wait(self) -> None:
        self.waits += 1
        self.is_busy = False
        if self.fails_at == "wait":
            raise RuntimeError("the plug-in failed")


@pytest.mark.parametrize("fails_at", ["start", "wait"])
def test_no_request_of_a_failed_batch_goes_on(fails_at: str) -> None:
    backend = OpenvinoBackend.__new__(OpenvinoBackend)
    backend.stages, backend._started = StageTimings(), deque()
    requests = [Request(fails_at if n == (fails_at == "start") else "") for n in range(3)]
    backend._loaded = _LoadedBatch(BOX, np.zeros((3, 36, 64, 3), np.uint8), requests)
    if fails_at == "wait":
        backend.start()
    with pytest.raises(RuntimeError, match="plug-in"):
        (backend.start if fails_at == "start" else backend.finish)()
    assert not any(request.is_busy for request in requests)
    assert not backend._started, "the next batch is not mixed up with it"
