"""Keep the tasks of one process apart: the failure of one is logged and counted, and the others go on.

A background thread or task that ends by an error starts again after a pause. One that its owner waits for is made by
the owner; tests/architecture/test_tasks.py lists those.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from crowdperf.primitives.backoff import Backoff
from crowdperf.runtime.metrics import Metrics

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 60.0
"""First and longest pause before a task starts again."""
JITTER = 0.2
"""Largest share that a pause is shortened by."""
STABLE_S = 60.0
"""A task that ran for this long begins again with the first pause."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class TaskGuard:
    """Run tasks of which none may keep the others from running.

    Args:
        metrics: counts the failures.
        passes: errors that concern every task, such as a server that is gone; they are raised.
        expected: errors that are logged without their traceback.
    """

    def __init__(
        self,
        metrics: Metrics,
        passes: tuple[type[Exception], ...] = (),
        expected: tuple[type[Exception], ...] = (OSError,),
    ) -> None:
        self._metrics, self._passes, self._expected = metrics, passes, expected
        self._failures: dict[str, str] = {}
        """Text of the newest failure of each failing task. The same one is logged once."""

    def run(self, name: str, task: Callable[[], T]) -> T | None:
        """Run a task and return its result; None where it failed."""
        with _Absorber(functools.partial(self._record, name)):
            result = task()
            if self._failures.pop(name, None) is not None:
                log.info("the task %s runs again", name)
            return result
        return None

    def _record(self, name: str, error: Exception) -> bool:
        """Log and count a failure; False where the error is raised."""
        if isinstance(error, self._passes):
            return False
        text = f"{type(error).__name__}: {error}"
        if self._failures.get(name) != text:
            trace = None if isinstance(error, self._expected) else error
            log.error("the task %s failed, the others go on (%s)", name, text, exc_info=trace)
        self._failures[name] = text
        self._metrics.count("task_failures", 1, name)
        return True


class _Absorber:
    """Hand an error of the block to `record`, which returns whether the error is absorbed."""

    def __init__(self, record: Callable[[Exception], bool]) -> None:
        self._record = record

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        return isinstance(error, Exception) and self._record(error)


class _Attempts:
    """Absorb the errors of one task: `with attempts:` is an attempt, `wait_s` the pause after it."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self._name, self._metrics = name, metrics
        self._backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S, JITTER)
        self._began = 0.0
        self.wait_s = 0.0

    def __enter__(self) -> None:
        """Begin an attempt."""
        self._began = time.monotonic()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        """Log and count an error, which is not raised; a cancellation is no error."""
        if not isinstance(error, Exception):
            return False
        if time.monotonic() - self._began >= STABLE_S:
            self._backoff.reset()
        self.wait_s = self._backoff.next()
        self._metrics.count("task_failures", 1, self._name)
        log.error("the task %s failed, it starts again in %.0f s", self._name, self.wait_s, exc_info=error)
        return True


def start_thread(
    name: str, run: Callable[[], None], metrics: Metrics, wait_for_stop: Callable[[float], bool]
) -> threading.Thread:
    """Start a background thread that starts again after an error and ends when `run` returns.

    Args:
        name: of the thread, in the log and the metrics.
        run: does the work until it is to stop.
        metrics: counts the failures.
        wait_for_stop: waits for so many seconds; returns True where the thread is to end.

    Returns:
        The thread, which does not keep the process alive.
    """

    def keep_running() -> None:
        attempts = _Attempts(name, metrics)
        while True:
            with attempts:
                run()
                return
            if wait_for_stop(attempts.wait_s):
                return

    thread = threading.Thread(target=keep_running, name=name, daemon=True)
    thread.start()
    return thread


def start_task(name: str, run: Callable[[], Awaitable[None]], metrics: Metrics) -> asyncio.Task[None]:
    """Start a task of the event loop, as `start_thread` starts a thread; cancelling it ends it.

    Args:
        name: of the task, in the log and the metrics.
        run: does the work.
        metrics: counts the failures.

    Returns:
        The task.
    """

    async def keep_running() -> None:
        attempts = _Attempts(name, metrics)
        while True:
            with attempts:
                await run()
                return
            await asyncio.sleep(attempts.wait_s)

    return asyncio.create_task(keep_running(), name=name)


def count_thread_crashes(metrics: Metrics) -> None:
    """Log and count every thread that ends by an error; by default Python prints it past the log."""

    def record(crash: threading.ExceptHookArgs) -> None:
        name = crash.thread.name if crash.thread is not None else "unknown"
        metrics.count("task_failures", 1, name)
        log.error("the thread %s ended by an error", name, exc_info=crash.exc_value)

    threading.excepthook = record
