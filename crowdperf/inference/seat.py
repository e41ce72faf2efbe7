"""One role's model at work, and the one that is being prepared beside it, to take over between two batches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from crowdperf.inference.detector import Detector
from crowdperf.inference.registry import ModelError

RETRY_S = 5.0

log = logging.getLogger(__name__)


class ModelSlot:
    """Holds a detector, or none yet.

    Preparing (reading, compiling, warming) takes seconds and happens on a thread, so that no frame waits for it; a
    model that cannot be had is reported, tried again, and meanwhile the old one goes on.

    Args:
        role: for the log.
        detector: one that is ready already.
    """

    def __init__(self, role: str, detector: Detector | None = None) -> None:
        self.role = role
        self.detector = detector
        self.error = ""
        """Why the model that is wanted cannot be had; empty where it can."""
        self._worker = ThreadPoolExecutor(1, f"prepare-{role}")
        self._prepare: Callable[[], Detector] | None = None
        self._future: Future[Detector] | None = None
        self._retry_at = float("-inf")

    @property
    def has_model(self) -> bool:
        """Whether a model is here, or on its way."""
        return self.detector is not None or self._prepare is not None

    def request_load(self, prepare: Callable[[], Detector]) -> None:
        """Have the model that `prepare` returns take the seat as soon as it can. `prepare` runs on a thread.

        `prepare` raises ModelError for a model that cannot be had. The last wish counts.
        """
        self._prepare = prepare
        self._future = self._worker.submit(prepare)

    def poll(self, now: float) -> bool:
        """Call between two batches: whether another model has just taken the seat. `now`: monotonic seconds."""
        if self._prepare is None:
            return False
        if self._future is None:
            if now >= self._retry_at:
                self._future = self._worker.submit(self._prepare)
            return False
        if not self._future.done():
            return False
        done, self._future = self._future, None
        try:
            self.detector = done.result()
        except (ModelError, RuntimeError) as error:
            # RuntimeError: a device that runs out of memory beside the model at work, which goes on.
            if str(error) != self.error:
                log.error("role %s: %s", self.role, error)
                self.error = str(error)
            self._retry_at = now + RETRY_S
            return False
        self.error, self._prepare = "", None
        log.info("role %s: model %s (%s)", self.role, self.detector.model, self.detector.description)
        return True

    def close(self) -> None:
        """Begin nothing any more."""
        self._worker.shutdown(wait=False, cancel_futures=True)
