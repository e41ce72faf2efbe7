"""Both models of the process, as the configuration chooses them: loaded, warmed, and exchanged while others work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import Detector, blank_spec, load_detector
from crowdperf.inference.ppe import CROP
from crowdperf.inference.registry import Role
from crowdperf.inference.seat import Seat
from crowdperf.settings.choice import Choice, chosen
from crowdperf.settings.engine import Inference

log = logging.getLogger(__name__)


class Staff:
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
        self._sizes = specs_of("person", sizes)
        self.people, self.ppe = Seat("person"), Seat("ppe")
        self.people.want(self._prepare("person", self._sizes))

    def ask_for_ppe(self) -> None:
        """A camera has a PPE rule: get the model, unless it is here or on its way."""
        if not self.ppe.wanted:
            self.ppe.want(self._prepare("ppe", specs_of("ppe")))

    def choose(self, choice: Choice, specs: Sequence[RingSpec]) -> None:
        """Take over another choice: a role whose model it does not change keeps it.

        Args:
            choice: what the configuration says now.
            specs: of the open rings, for which the new model is to be warm before it takes over.
        """
        before, self._settings = self._settings, chosen(self._settings, choice)
        if _of(before, "person") != _of(self._settings, "person"):
            log.info("another person model is prepared: %s", choice.models.person)
            self.people.want(self._prepare("person", [*self._sizes, *dict.fromkeys(specs)]))
        if _of(before, "ppe") != _of(self._settings, "ppe") and self.ppe.wanted:
            log.info("another PPE model is prepared: %s", choice.models.ppe)
            self.ppe.want(self._prepare("ppe", specs_of("ppe")))

    def close(self) -> None:
        """Prepare nothing any more."""
        self.people.close()
        self.ppe.close()

    def _prepare(self, role: Role, specs: Sequence[RingSpec]) -> Callable[[], Detector]:
        settings, confidence = self._settings, self._ppe_confidence if role == "ppe" else 0.0

        def prepared() -> Detector:
            return load_detector(settings, self._cache, role=role, confidence=confidence, specs=specs)

        return prepared


def specs_of(role: Role, sizes: Sequence[tuple[int, int]] = ()) -> list[RingSpec]:
    """The pictures that the model of a role is to be ready for at once; `sizes` are those of the site's rings."""
    return [CROP] if role == "ppe" else [blank_spec(width, height) for width, height in sizes]


def _of(settings: Inference, role: Role) -> tuple[object, ...]:
    """All that decides the model of one role."""
    precision = settings.precision if role == "person" else ""
    return getattr(settings.models, role), getattr(settings.labels, role), precision
