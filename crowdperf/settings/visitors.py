"""Visitors: what they accept, how long they may stay, and when hosts are notified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, field

from crowdperf.settings.areas import Door
from crowdperf.settings.base import ConfigError, Seconds, Settings
from crowdperf.settings.camera import Camera
from crowdperf.settings.schedule import ClockTime


class Visitors(Settings, frozen=True, kw_only=True):
    """Settings of the reception. Area names refer to `areas`."""

    briefing: Annotated[str, Meta(max_length=4000)] = ""
    """The safety briefing that each visitor acknowledges per visit; empty: no briefing."""
    nda_version: Annotated[str, Meta(max_length=64)] = ""
    """Version of the NDA that visitors accept; empty: no NDA."""
    overstay_grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 900.0
    """A visitor on site this long after the expected end counts as overstayed."""
    no_show_after_s: Seconds = 7200.0
    """A visitor absent this long after the expected start counts as a no-show."""
    reminder_before_s: Annotated[float, Meta(ge=0, le=86_400)] = 900.0
    """The host is reminded this long before the expected end; 0: never."""
    night_check_out: ClockTime = "23:30"
    """Visitors still on the list at this time are checked out and flagged, since their departure time is unknown."""
    staff_baseline: dict[str, Annotated[int, Meta(ge=0, le=100_000)]] = field(default_factory=dict)
    """Area -> people present who are not visitors."""
    mismatch_people: Annotated[int, Meta(ge=1, le=100_000)] = 2
    """A mismatch is reported when cameras and list differ by this many people …"""
    mismatch_s: Seconds = 300.0
    """… for this long."""
    entrances: list[Door] = field(default_factory=list)
    """Doors that visitors pass after check-in; more crossings than check-ins suggest tailgating."""
    tailgating_window_s: Seconds = 60.0
    tailgating_people: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Crossings in excess of the check-ins of a window that are reported as tailgating."""
    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    """Names are removed this long after a visit; the visit itself stays for statistics."""
    watch_list_days: Annotated[int, Meta(ge=0, le=3650)] = 0
    """Watch-list entries expire after this many days; 0: they are removed by hand only."""
    demo: bool = False
    """Create sample visitors on a site that has never had any (the demo site)."""


def validate_entrances(entrances: Sequence[Door], cameras: Sequence[Camera]) -> None:
    """Raise ConfigError for a door whose camera or line does not exist."""
    lines = {(camera.id, line.id) for camera in cameras for line in camera.lines}
    for door in entrances:
        if (door.camera, door.line) not in lines:
            raise ConfigError(
                f"$.visitors.entrances: camera {door.camera!r} has no line {door.line!r}. "
                "Remedy: correct the name, or add the line first."
            )
