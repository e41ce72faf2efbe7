"""Keep the tasks of one process apart: the failure of one is logged and counted, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from crowdperf.runtime.metrics import Metrics

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
        try:
            result = task()
        except self._passes:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if self._failures.get(name) != text:
                trace = None if isinstance(error, self._expected) else error
                log.error("the task %s failed, the others go on (%s)", name, text, exc_info=trace)
            self._failures[name] = text
            self._metrics.count("task_failures", 1, name)
            return None
        if self._failures.pop(name, None) is not None:
            log.info("the task %s runs again", name)
        return result
