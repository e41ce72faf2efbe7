"""The processes between pixels and events: inference and tracking.

Which models work: what inference takes over without a restart (`handover`).

A restart of inference is a gap of seconds on every camera, and another model needs none: it is loaded beside the old
one and takes over between two batches, where inference looks whether there is another choice.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from crowdperf.settings.base import Seconds, Settings


class Models(Settings, frozen=True, kw_only=True):
    """Names of entries in models/manifest.json, or paths of Ultralytics weights, by role."""

    person: str = "crowdperf-person-vehicle-n"
    ppe: str = "crowdperf-ppe-n"


class Labels(Settings, frozen=True, kw_only=True):
    """Class names of own weights -> crowdperf's classes, by role; equal names need no entry."""

    person: dict[str, str] = field(default_factory=dict)
    ppe: dict[str, str] = field(default_factory=dict)


class Inference(Settings, frozen=True, kw_only=True):
    """The one inference process. `precision` "auto" takes int8 where it was measured to pay, and logs it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    precision: Literal["auto", "full", "int8"] = "auto"
    models: Models = field(default_factory=Models)
    labels: Labels = field(default_factory=Labels)
    downloads: bool = False
    """Whether published weights (`yolo11n.pt`) may be fetched by Ultralytics."""
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Detections below this are not published; the tracker's second stage uses the weak ones."""
    iou: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    staleness_s: Seconds = 0.5
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    """0 takes every core."""


class Tracking(Settings, frozen=True, kw_only=True):
    """The tracking shards."""

    shards: Annotated[int, Meta(ge=1, le=64)] = 1
    high_confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    lost_s: Seconds = 1.5
    """How long a track is remembered without a detection."""
    gap_s: Seconds = 1.0
    """A pause of a camera's analysed frames longer than this is recorded as a gap."""


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
