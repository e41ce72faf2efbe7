"""What every block of the configuration is made of: the base Struct, the named types, the error."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

CAMERA_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
ClassName = Literal["person", "bicycle", "car", "motorcycle", "bus", "truck"]
CLASSES: tuple[ClassName, ...] = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
"""The system's classes, in the order of their packed index (`FrameDetections.classes`)."""
VEHICLES = CLASSES[1:]
DENSITY_GRID = (32, 18)
"""Columns and rows of the density grid over the picture."""
CameraId = Annotated[str, Meta(pattern=f"^{CAMERA_ID.pattern}$", description="[a-z0-9][a-z0-9_-]{0,31}")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Fps = Annotated[float, Meta(gt=0, le=240)]
Unit = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Coordinates = Annotated[list[Unit], Meta(min_length=2, max_length=2)]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place, the value and the remedy."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every block of the file: frozen, and an unknown key is an error that names its path."""
