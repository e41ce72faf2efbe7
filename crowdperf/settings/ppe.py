"""PPE: what people have to wear where and when, and how the second model looks at them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from crowdperf.settings.base import CameraId, ConfigError, Fps, Seconds, Settings
from crowdperf.settings.schedule import Window

Item = Literal["hardhat", "vest", "mask"]
ITEMS: tuple[Item, ...] = ("hardhat", "vest", "mask")
PPE_CLASSES = ("person", "hardhat", "no_hardhat", "vest", "no_vest", "mask", "no_mask")
"""Classes of the PPE model; `PpeColumns.items` holds their index. An item has a class for worn and one for missing."""
PPE_WIDTH = 1280
"""Width of the pictures of a camera with a rule, where neither it nor the site asks for more."""


class PpeRule(Settings, frozen=True, kw_only=True):
    """Who is in `zone` (anywhere in the picture without one) has to wear `required`."""

    id: CameraId
    name: str = ""
    zone: CameraId | None = None
    required: Annotated[list[Item], Meta(min_length=1)]
    min_dwell_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    """Shorter visits are no violation."""
    schedule: list[Window] = field(default_factory=list)
    """When the rule holds; always where the list is empty."""
    exempt_zones: list[CameraId] = field(default_factory=list)
    """Zones in which it does not hold, such as an office inside the yard."""
    cooldown_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """The same track violating the rule again within this time is the same violation."""


class Ppe(Settings, frozen=True, kw_only=True):
    """The PPE model's work; only cameras with a rule cost anything."""

    fps: Fps = 1.0
    """Frames per second and camera that are looked at."""
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Findings below this are not published."""
    evidence_s: Seconds = 30.0
    """How long the frames that were looked at are kept in memory for evidence."""
    blur: Literal["none", "face", "upper_body"] = "none"
    """What is made unrecognisable in pictures of evidence, of every person in them."""
    least_height_px: Annotated[float, Meta(ge=16, le=2000)] = 64.0
    """People who are smaller in the analysed picture are not judged."""


def validate_ppe_rules(where: str, rules: list[PpeRule], zones: set[str]) -> None:
    """Raise ConfigError for a repeated rule id, an item named twice, or a zone that the camera does not have."""
    ids = [rule.id for rule in rules]
    if len(ids) > len(set(ids)):
        raise ConfigError(f"{where}.ppe: an id of {ids} is used twice. Remedy: rename one.")
    for rule in rules:
        named = ([rule.zone] if rule.zone else []) + rule.exempt_zones
        for zone in named:
            if zone not in zones:
                known = ", ".join(sorted(zones)) or "none"
                raise ConfigError(
                    f"{where}.ppe: rule {rule.id!r} names the zone {zone!r}, which the camera does not have "
                    f"(it has: {known}). Remedy: draw that zone, or correct the name."
                )
        if len(set(rule.required)) < len(rule.required):
            raise ConfigError(f"{where}.ppe: rule {rule.id!r} requires an item twice. Remedy: name each once.")
