"""Tasks of one process: the failure of one is logged and counted, and the others go on."""

from __future__ import annotations

import pytest

from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.runtime.tasks import TaskGuard


def fail(text: str) -> int:
    raise ValueError(text)


def test_a_task_that_fails_is_counted_and_logged_until_it_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    guard = TaskGuard(metrics)
    for text in ("first", "first", "second"):
        assert guard.run("audit", lambda text=text: fail(text)) is None  # type: ignore[misc]
    assert guard.run("audit", lambda: 3) == 3
    assert metrics.get_counter("task_failures", "audit") == 3
    assert [record.levelname for record in caplog.records if record.name.endswith("tasks")] == ["ERROR"] * 2
    assert "the task audit failed, the others go on (ValueError: first)" in caplog.text


def test_an_error_that_concerns_every_task_is_raised() -> None:
    with pytest.raises(ConnectionError):
        TaskGuard(Metrics(), passes=(ConnectionError,)).run("audit", lambda: int(open_nothing()))


def open_nothing() -> str:
    raise ConnectionError


def test_a_cache_that_cannot_be_pruned_keeps_no_other_from_it() -> None:
    runtime = ProcessRuntime("inference", 0)
    runtime.register_cache("broken", lambda: fail("changed during the iteration"))
    runtime.register_cache("own", lambda: 3)
    assert runtime.housekeep() == {"metrics": 0, "broken": 0, "own": 3}
    runtime.report(1.0)
    assert runtime.metrics.get_counter("task_failures", "prune broken") == 2
