"""A model that is prepared beside the one at work, and cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crowdperf.inference.model_slots import RETRY_S, ModelSlot
from crowdperf.models.registry import ModelError
from tests.conftest import wait_until


class Named:
    """As much of a detector as a slot looks at."""

    def __init__(self, name: str) -> None:
        self.model, self.description = name, "cpu"


@pytest.mark.parametrize("error", [ModelError("no such file"), RuntimeError("CUDA error: out of memory")])
def test_the_model_at_work_stays_until_the_next_one_can_be_had(error: Exception) -> None:
    old, new = Named("old"), Named("new")
    answers: list[Callable[[], Any]] = [lambda: (_ for _ in ()).throw(error), lambda: new]
    slot = ModelSlot("person", old)  # type: ignore[arg-type]
    slot.request_load(lambda: answers.pop(0)())
    try:
        wait_until(lambda: slot.poll(100.0) or slot.error, what="the refusal")
        assert slot.error == str(error)
        assert slot.detector is old
        assert not slot.poll(100.0 + RETRY_S / 2)
        assert len(answers) == 1, "it was tried again too soon"
        wait_until(lambda: slot.poll(100.0 + RETRY_S), what="the new model")
        assert slot.detector is new
        assert slot.error == ""
    finally:
        slot.close()
