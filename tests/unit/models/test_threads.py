"""Threads never exceed the usable cores, and `crowdperf check` names a setting that does."""

from __future__ import annotations

import logging

import pytest

from crowdperf.cli import check
from crowdperf.models import threads
from crowdperf.runtime.control_group import UsableCores


def test_threads_are_limited_to_the_usable_cores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "find_usable_cores", lambda: UsableCores(32, 2.0))
    with caplog.at_level(logging.WARNING):
        assert [threads.limit_threads(wanted) for wanted in (0, 1, 2)] == [2, 1, 2]
        assert caplog.messages == []
        assert threads.limit_threads(8) == 2
    (line,) = caplog.messages
    assert "8 threads are wanted" in line
    assert "CPU quota of the control group 2" in line
    assert "Remedy" in line


def test_check_shows_cores_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "find_usable_cores", lambda: UsableCores(32, 2.0))
    fitting, excessive = check._check_cores(2), check._check_cores(4)
    assert (fitting.ok, excessive.ok) == (True, False)
    assert "usable cores: 2 (affinity 32, CPU quota of the control group 2)" in fitting.text
    assert excessive.text.startswith("inference.threads is 4, usable cores: 2")
    assert "Remedy" in excessive.text
