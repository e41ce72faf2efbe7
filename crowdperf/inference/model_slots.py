"""Hold the models of the inference process and replace them between two batches.

A new model is loaded and warmed on a thread while the old one keeps working.
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
    """Holds one detector, or none yet; `role` is its name in the log.

    Loading takes seconds (read, compile, warm up) and runs on a thread. A model that fails to load is reported and
    tried again every `RETRY_S`. The old model keeps working meanwhile.
    """

    def __init__(self, role: str, detector: Detector | None = None) -> None:
        self.role = role
        self.detector = detector
        self.error = ""
        """Why the requested model failed to load; empty if it did not."""
        self._worker = ThreadPoolExecutor(1, f"prepare-{role}")
        self._load: Callable[[], Detector] | None = None
        self._future: Future[Detector] | None = None
        self._retry_at = float("-inf")

    @property
    def has_model(self) -> bool:
        """True if a model is loaded or requested."""
        return self.detector is not None or self._load is not None

    def request_load(self, load: Callable[[], Detector]) -> None:
        """Load a model on a thread and use it as soon as it is ready; a later request replaces this one.

        `load` raises ModelError if the model cannot be loaded.
        """
        self._load = load
        self._future = self._worker.submit(load)

    def poll(self, now: float) -> bool:
        """Take over a model that is ready, between two batches; True if there was one. `now`: monotonic s."""
        if self._load is None:
            return False
        if self._future is None:
            if now >= self._retry_at:
                self._future = self._worker.submit(self._load)
            return False
        if not self._future.done():
            return False
        future, self._future = self._future, None
        try:
            self.detector = future.result()
        except (ModelError, RuntimeError) as error:
            # RuntimeError: the device has no memory for a second model beside the working one.
            if str(error) != self.error:
                log.error("role %s: %s", self.role, error)
                self.error = str(error)
            self._retry_at = now + RETRY_S
            return False
        self.error, self._load = "", None
        log.info("role %s: model %s (%s)", self.role, self.detector.model, self.detector.description)
        return True

    def close(self) -> None:
        """Stop loading models."""
        self._worker.shutdown(wait=False, cancel_futures=True)


class ModelSet:
    """The person model and the PPE model.

    Args:
        settings: the `inference` block.
        ppe_confidence: minimum score of the PPE model's detections.
        cache: a folder for files that may be deleted at any time.
        sizes: width and height of the pictures that the person model warms up for.
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
        """Load the PPE model unless it is loaded or requested."""
        if not self.ppe_slot.has_model:
            self.ppe_slot.request_load(self._make_loader("ppe", get_warmup_specs("ppe")))

    def apply_selection(self, selection: ModelSelection, specs: Sequence[RingSpec]) -> None:
        """Load the models that a new selection changes; a person model warms up for the open rings' `specs`."""
        before, self._settings = self._settings, apply_selection(self._settings, selection)
        if _get_model_key(before, "person") != _get_model_key(self._settings, "person"):
            log.info("loading another person model: %s", selection.models.person)
            self.person_slot.request_load(self._make_loader("person", [*self._person_specs, *dict.fromkeys(specs)]))
        if _get_model_key(before, "ppe") != _get_model_key(self._settings, "ppe") and self.ppe_slot.has_model:
            log.info("loading another PPE model: %s", selection.models.ppe)
            self.ppe_slot.request_load(self._make_loader("ppe", get_warmup_specs("ppe")))

    def close(self) -> None:
        """Stop loading models."""
        self.person_slot.close()
        self.ppe_slot.close()

    def _make_loader(self, role: Role, specs: Sequence[RingSpec]) -> Callable[[], Detector]:
        settings, confidence = self._settings, self._ppe_confidence if role == "ppe" else 0.0
        return lambda: load_detector(settings, self._cache, role=role, confidence=confidence, specs=specs)


def _get_model_key(settings: Inference, role: Role) -> tuple[object, ...]:
    """Return the settings that decide which model a role uses."""
    precision = settings.precision if role == "person" else ""
    return getattr(settings.models, role), getattr(settings.labels, role), precision
