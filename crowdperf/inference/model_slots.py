"""One role's model at work, and the one that is being prepared beside it, to take over between two batches.

Both models of the process, as the configuration chooses them: loaded, warmed, and exchanged while others work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import Detector
from crowdperf.models.loader import get_warmup_specs, load_detector
from crowdperf.models.registry import ModelError, Role
from crowdperf.settings.engine import Inference, ModelSelection, apply_selection

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


class ModelSet:
    """The two seats and what may sit on them.

    Args:
        settings: the `inference` block.
        ppe_confidence: of the PPE model.
        cache: a folder for files that may be deleted at any time.
        sizes: width and height of pictures to be ready for at once.
    """

    def __init__(
        self, settings: Inference, ppe_confidence: float, cache: Path, sizes: Sequence[tuple[int, int]]
    ) -> None:
        self._settings = settings
        self._ppe_confidence = ppe_confidence
        self._cache = cache
        self._person_specs = get_warmup_specs("person", sizes)
        self.person_slot, self.ppe_slot = ModelSlot("person"), ModelSlot("ppe")
        self.person_slot.request_load(self._make_loader("person", self._person_specs))

    def request_ppe(self) -> None:
        """A camera has a PPE rule: get the model, unless it is here or on its way."""
        if not self.ppe_slot.has_model:
            self.ppe_slot.request_load(self._make_loader("ppe", get_warmup_specs("ppe")))

    def apply_selection(self, selection: ModelSelection, specs: Sequence[RingSpec]) -> None:
        """Take over another choice: a role whose model it does not change keeps it.

        Args:
            choice: what the configuration says now.
            specs: of the open rings, for which the new model is to be warm before it takes over.
        """
        before, self._settings = self._settings, apply_selection(self._settings, selection)
        if _get_model_key(before, "person") != _get_model_key(self._settings, "person"):
            log.info("another person model is prepared: %s", selection.models.person)
            self.person_slot.request_load(self._make_loader("person", [*self._person_specs, *dict.fromkeys(specs)]))
        if _get_model_key(before, "ppe") != _get_model_key(self._settings, "ppe") and self.ppe_slot.has_model:
            log.info("another PPE model is prepared: %s", selection.models.ppe)
            self.ppe_slot.request_load(self._make_loader("ppe", get_warmup_specs("ppe")))

    def close(self) -> None:
        """Prepare nothing any more."""
        self.person_slot.close()
        self.ppe_slot.close()

    def _make_loader(self, role: Role, specs: Sequence[RingSpec]) -> Callable[[], Detector]:
        settings, confidence = self._settings, self._ppe_confidence if role == "ppe" else 0.0

        def prepared() -> Detector:
            return load_detector(settings, self._cache, role=role, confidence=confidence, specs=specs)

        return prepared


def _get_model_key(settings: Inference, role: Role) -> tuple[object, ...]:
    """All that decides the model of one role."""
    precision = settings.precision if role == "person" else ""
    return getattr(settings.models, role), getattr(settings.labels, role), precision
