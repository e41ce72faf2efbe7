"""Areas of the site: occupancy over several doors and zones."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from crowdperf.settings.base import CameraId, ClassName, ConfigError, Settings, require_unique
from crowdperf.settings.camera import Camera


class Door(Settings, frozen=True, kw_only=True):
    """A camera's line over which people enter and leave an area."""

    camera: CameraId
    line: CameraId
    enters: Literal["in", "out"] = "in"
    """Direction of the line that leads into the area."""


class AreaZone(Settings, frozen=True, kw_only=True):
    """A camera's zone that shows part of an area; zones of one area must not overlap."""

    camera: CameraId
    zone: CameraId


class Area(Settings, frozen=True, kw_only=True):
    """A hall, a floor or a square. Occupancy = people in minus people out over its doors since the reset."""

    id: CameraId
    name: str = ""
    doors: list[Door] = field(default_factory=list)
    zones: list[AreaZone] = field(default_factory=list)
    classes: list[ClassName] = field(default_factory=lambda: ["person"])
    limit: Annotated[int, Meta(ge=1)] | None = None
    limit_clear: Annotated[int, Meta(ge=0)] | None = None
    limit_s: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    reset_at: Annotated[str, Meta(pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$")] = "04:00"
    """Time of day, in the site's time zone, when the area is empty; "" never resets."""
    crossing_error: Annotated[float, Meta(ge=0, le=1)] = 0.03
    """Share of crossings that are missed or counted twice (see `crowdperf audit`). It gives the uncertainty."""

    def __post_init__(self) -> None:
        """Check that the area has doors or zones and that its limits fit together, else raise ValueError."""
        if not self.doors and not self.zones:
            raise ValueError(f"area {self.id!r} has neither doors nor zones. Remedy: name a line or a zone")
        if self.limit_clear is not None and (self.limit is None or self.limit_clear > self.limit):
            raise ValueError(f"area {self.id!r}: limit_clear is above limit. Remedy: set a limit not below it")

    def list_cameras(self) -> frozenset[str]:
        """List the ids of the cameras that make up the area."""
        return frozenset({door.camera for door in self.doors} | {zone.camera for zone in self.zones})


def validate_areas(areas: list[Area], cameras: list[Camera]) -> None:
    """Raise ConfigError unless every door and zone exists and is named once per area."""
    lines = {(camera.id, line.id) for camera in cameras for line in camera.lines}
    zones = {(camera.id, zone.id) for camera in cameras for zone in camera.zones}
    require_unique("$.areas", [area.id for area in areas])
    for index, area in enumerate(areas):
        area_lines, area_zones = [(d.camera, d.line) for d in area.doors], [(z.camera, z.zone) for z in area.zones]
        for kind, names, known in (("line", area_lines, lines), ("zone", area_zones, zones)):
            for name in names:
                where = f"$.areas[{index}]: area {area.id!r}"
                if name not in known:
                    raise ConfigError(
                        f"{where} names {kind} {name[1]!r} of camera {name[0]!r}, which does not exist. "
                        f"Remedy: correct the name, or add the {kind} first."
                    )
                if names.count(name) > 1:
                    raise ConfigError(f"{where} names {kind} {name[1]!r} twice. Remedy: remove one of them.")
