"""Settings of inference and tracking, and the model selection that inference reloads.

A restart of inference costs every camera some seconds. Another model needs none: inference loads it beside the old one
and swaps the two between batches.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from crowdperf.settings.base import Seconds, Settings

Analysis = Literal["auto", "whole", "regions"]


class Models(Settings, frozen=True, kw_only=True):
    """Names in models/manifest.json, or paths of Ultralytics weights, by role."""

    person: str = "crowdperf-person-vehicle-n"
    ppe: str = "crowdperf-ppe-n"


class Labels(Settings, frozen=True, kw_only=True):
    """Class names of custom weights -> the built-in class names, by role; equal names need no entry."""

    person: dict[str, str] = field(default_factory=dict)
    ppe: dict[str, str] = field(default_factory=dict)


class Inference(Settings, frozen=True, kw_only=True):
    """Settings of inference. `precision: auto` takes int8 where a measurement has shown that it pays."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    precision: Literal["auto", "full", "int8"] = "auto"
    analysis: Analysis = "auto"
    """Look at whole pictures, or at what has changed since the model looked there last. `auto` does that on a
    processor; a graphics card gains nothing from it."""
    models: Models = field(default_factory=Models)
    labels: Labels = field(default_factory=Labels)
    downloads: bool = False
    """Let Ultralytics download published weights such as `yolo11n.pt`."""
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Weaker detections are not published. The tracker's second stage uses the weak ones above it."""
    iou: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    staleness_s: Seconds = 0.5
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    """0 uses every core that affinity and the CPU quota of the control group allow; more are never used."""


class Tracking(Settings, frozen=True, kw_only=True):
    """Settings of the tracking shards."""

    shards: Annotated[int, Meta(ge=1, le=64)] = 1
    high_confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.3
    lost_s: Seconds = 1.5
    """A track is kept this long without a detection."""
    gap_s: Seconds = 1.0
    """A longer pause between a camera's analysed frames is recorded as a gap."""


INFERENCE_DEFAULTS = Inference()


class ModelSelection(Settings, frozen=True, kw_only=True):
    """The settings of `inference` that apply without a restart."""

    models: Models
    labels: Labels
    precision: Literal["auto", "full", "int8"]


def get_selection(settings: Inference) -> ModelSelection:
    """Return the model selection of the settings."""
    return ModelSelection(models=settings.models, labels=settings.labels, precision=settings.precision)


def apply_selection(settings: Inference, selection: ModelSelection) -> Inference:
    """Return `settings` with the model selection replaced."""
    return msgspec.structs.replace(
        settings, models=selection.models, labels=selection.labels, precision=selection.precision
    )


def without_selection(settings: Inference) -> Inference:
    """Return `settings` with the default selection: the part that needs a restart."""
    return apply_selection(settings, get_selection(INFERENCE_DEFAULTS))
