"""The system page shows what the site may use of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowdperf.runtime.control_group import UsableCores
from crowdperf.web.api import system


def test_cores_are_those_that_the_quota_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "find_usable_cores", lambda: UsableCores(affinity=8, quota=1.5))
    assert system._measure_machine(tmp_path).cores == 1
