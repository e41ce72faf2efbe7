"""Where the picture lies in the model's input, and the way back to the source."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import make_warmup_spec
from crowdperf.models.preprocess import STRIDE, letterbox


@pytest.mark.parametrize(
    ("ring", "model", "offset"),
    [((640, 360), (640, 384), (0, 12)), ((640, 480), (640, 480), (0, 0)), ((270, 480), (288, 480), (9, 0))],
)
def test_the_picture_is_only_padded(ring: tuple[int, int], model: tuple[int, int], offset: tuple[int, int]) -> None:
    box = letterbox(make_warmup_spec(*ring))
    assert ((box.width, box.height), (box.left, box.top)) == (model, offset)


@given(
    st.integers(80, 960),
    st.integers(80, 540),
    st.integers(160, 3840),
    st.integers(160, 2160),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_point_of_the_source_comes_back(
    half_width: int, half_height: int, source_width: int, source_height: int, point: tuple[float, float]
) -> None:
    spec = RingSpec(2 * half_width, 2 * half_height, "yuv420p", source_width, source_height, 4, 10.0, 0)
    box = letterbox(spec)
    assert box.width % STRIDE == box.height % STRIDE == 0
    assert box.width - spec.width < STRIDE
    x0, y0, w, h = spec.content
    x, y = box.left + x0 + point[0] * w, box.top + y0 + point[1] * h
    back = box.to_source(np.array([[x, y, x, y]], np.float32), spec.content)[0]
    assert back == pytest.approx([*point, *point], abs=1e-3)


def test_boxes_in_the_padding_are_clipped_to_the_source() -> None:
    spec = RingSpec(640, 360, "yuv420p", 640, 480, 4, 10.0, 0)
    box = letterbox(spec)
    back = box.to_source(np.array([[0, 0, 640, 384]], np.float32), spec.content)
    assert back.tolist() == [[0.0, 0.0, 1.0, 1.0]]
