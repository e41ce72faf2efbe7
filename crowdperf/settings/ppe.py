"""PPE: required items per zone and time, and the settings of the PPE model."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from crowdperf.settings.base import CameraId, ConfigError, Fps, Seconds, Settings, require_unique
from crowdperf.settings.schedule import Window

Item = Literal["hardhat", "vest", "mask"]
ITEMS: tuple[Item, ...] = ("hardhat", "vest", "mask")
PPE_CLASSES = ("person", "hardhat", "no_hardhat", "vest", "no_vest", "mask", "no_mask")
"""Classes of the PPE model; `PpeColumns.items` holds their index. Each item has one class for worn, one for missing."""
PPE_WIDTH = 1280
"""Analysis width of a camera with a PPE rule, unless the camera or the site sets a larger one."""


class PpeRule(Settings, frozen=True, kw_only=True):
    """People in `zone` (anywhere in the picture if unset) must wear the `required` items."""

    id: CameraId
    name: str = ""
    zone: CameraId | None = None
    required: Annotated[list[Item], Meta(min_length=1)]
    min_dwell_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    """Shorter visits are no violation."""
    schedule: list[Window] = field(default_factory=list)
    """The rule is active within these windows; always if empty."""
    exempt_zones: list[CameraId] = field(default_factory=list)
    """Zones in which the rule does not apply, such as an office inside the yard."""
    cooldown_s: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    """A repeated violation of the rule by the same track within this time is not reported again."""


class Ppe(Settings, frozen=True, kw_only=True):
    """Settings of the PPE model; only cameras with a rule use it."""

    fps: Fps = 1.0
    """Frames analysed per second and camera."""
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.25
    """Weaker detections are not published."""
    evidence_s: Seconds = 30.0
    """Analysed frames are kept in memory this long for evidence."""
    blur: Literal["none", "face", "upper_body"] = "none"
    """Part of every person that is blurred in evidence pictures."""
    least_height_px: Annotated[float, Meta(ge=16, le=2000)] = 64.0
    """Minimum height of a person in the analysed picture; smaller ones are not judged."""


def validate_ppe_rules(where: str, rules: list[PpeRule], zones: set[str]) -> None:
    """Check the PPE rules of one camera.

    Args:
        where: Path of the camera in the configuration, for the message.
        rules: The rules to check.
        zones: Ids of the camera's zones.

    Raises:
        ConfigError: A rule id repeats, an item is named twice, or a zone does not exist.
    """
    require_unique(f"{where}.ppe", [rule.id for rule in rules])
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
