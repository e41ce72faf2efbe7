"""Both models of the process, as the configuration chooses them: loaded, warmed, and exchanged while others work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import Detector, load_detector, make_warmup_spec
from crowdperf.inference.ppe import PPE_CROP_SPEC
from crowdperf.inference.registry import Role
from crowdperf.inference.seat import ModelSlot
from crowdperf.settings.choice import ModelSelection, apply_selection
from crowdperf.settings.engine import Inference

log = logging.getLogger(__name__)


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


def get_warmup_specs(role: Role, sizes: Sequence[tuple[int, int]] = ()) -> list[RingSpec]:
    """The pictures that the model of a role is to be ready for at once; `sizes` are those of the site's rings."""
    return [PPE_CROP_SPEC] if role == "ppe" else [make_warmup_spec(width, height) for width, height in sizes]


def _get_model_key(settings: Inference, role: Role) -> tuple[object, ...]:
    """All that decides the model of one role."""
    precision = settings.precision if role == "person" else ""
    return getattr(settings.models, role), getattr(settings.labels, role), precision
