"""Tasks of one process: the failure of one is logged and counted, and the others go on."""

from __future__ import annotations

import asyncio
import threading

import pytest

from crowdperf.runtime import tasks
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.runtime.tasks import TaskGuard


def fail(text: str) -> int:
    raise ValueError(text)


def test_a_failure_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
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


class Task:
    """Fails a number of times, then ends."""

    def __init__(self, failures: int) -> None:
        self.failures, self.runs = failures, 0

    def __call__(self) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            raise ValueError("a defect")


def test_a_thread_that_ends_by_an_error_starts_again() -> None:
    metrics, task = Metrics(), Task(2)
    waits: list[float] = []

    def wait_for_stop(seconds: float) -> bool:
        waits.append(seconds)
        return False

    thread = tasks.start_thread("evidence", task, metrics, wait_for_stop)
    thread.join(10.0)
    assert (thread.is_alive(), task.runs, metrics.get_counter("task_failures", "evidence")) == (False, 3, 2)
    assert 0 < waits[0] <= tasks.FIRST_WAIT_S < waits[1]


def test_a_thread_that_is_to_stop_does_not_start_again() -> None:
    task = Task(5)
    tasks.start_thread("evidence", task, Metrics(), lambda _: True).join(10.0)
    assert task.runs == 1


def test_a_task_that_ends_by_an_error_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_WAIT_S", 0.001)
    metrics, task = Metrics(), Task(2)

    async def run() -> None:
        async def work() -> None:
            task()

        await asyncio.wait_for(tasks.start_task("keep-alive", work, metrics), 10.0)

    asyncio.run(run())
    assert (task.runs, metrics.get_counter("task_failures", "keep-alive")) == (3, 2)


def test_a_task_can_be_cancelled() -> None:
    async def run() -> bool:
        task = tasks.start_task("keep-alive", lambda: asyncio.sleep(60), Metrics())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10.0)
        return task.cancelled()

    assert asyncio.run(run())


def test_the_error_of_any_thread_is_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    metrics = Metrics()
    tasks.count_thread_crashes(metrics)
    thread = threading.Thread(target=Task(1), name="decoder")
    thread.start()
    thread.join()
    assert metrics.get_counter("task_failures", "decoder") == 1
    assert "ValueError: a defect" in caplog.text
