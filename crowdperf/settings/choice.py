"""Which models work: what inference takes over without a restart (`handover`).

A restart of inference is a gap of seconds on every camera, and another model needs none: it is loaded beside the old
one and takes over between two batches, where inference looks whether there is another choice.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from crowdperf.settings.base import Settings
from crowdperf.settings.engine import Inference, Labels, Models

INFERENCE_DEFAULTS = Inference()


class ModelSelection(Settings, frozen=True, kw_only=True):
    """The settings of `inference` that are taken over at run time."""

    models: Models
    labels: Labels
    precision: Literal["auto", "full", "int8"]


def get_selection(settings: Inference) -> ModelSelection:
    """What the configuration chooses."""
    return ModelSelection(models=settings.models, labels=settings.labels, precision=settings.precision)


def apply_selection(settings: Inference, selection: ModelSelection) -> Inference:
    """`settings` with another choice."""
    return msgspec.structs.replace(
        settings, models=selection.models, labels=selection.labels, precision=selection.precision
    )


def without_selection(settings: Inference) -> Inference:
    """`settings` with the default choice: what is left is what a process has to restart for."""
    return apply_selection(settings, get_selection(INFERENCE_DEFAULTS))
