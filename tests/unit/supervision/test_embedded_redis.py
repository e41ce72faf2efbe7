"""The memory of the embedded Redis follows what the control group allows."""

from __future__ import annotations

import pytest

from crowdperf.supervision import embedded_redis


def test_default_is_half_of_the_usable_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "find_usable_memory", lambda: 3 * 2**30)
    assert embedded_redis.compute_memory_limit(0) == 3 * 2**29
    assert embedded_redis.compute_memory_limit(7) == 7 * 2**20
