"""Visitors: what they accept, how long they may stay, and when people are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, field

from crowdperf.settings.areas import Area, Door
from crowdperf.settings.base import ConfigError, Seconds, Settings
from crowdperf.settings.camera import Camera
from crowdperf.settings.schedule import ClockTime


class Visitors(Settings, frozen=True, kw_only=True):
    """The reception. Areas are those of `areas`."""

    briefing: Annotated[str, Meta(max_length=4000)] = ""
    """The safety briefing that everybody acknowledges per visit; empty: none is asked for."""
    nda_version: Annotated[str, Meta(max_length=64)] = ""
    """Version of the document that is to be accepted; empty: none."""
    overstay_grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 900.0
    """On site longer than expected by this: overstayed."""
    no_show_after_s: Seconds = 7200.0
    """Not there so long after the beginning of the expected time: no-show."""
    reminder_before_s: Annotated[float, Meta(ge=0, le=86_400)] = 900.0
    """The host is reminded this long before the end of the expected time; 0: never."""
    night_check_out: ClockTime = "23:30"
    """Who is still on the list then is checked out, and flagged: nobody knows when they left."""
    staff_baseline: dict[str, Annotated[int, Meta(ge=0, le=100_000)]] = field(default_factory=dict)
    """Area -> people who are there without being visitors."""
    mismatch_people: Annotated[int, Meta(ge=1, le=100_000)] = 2
    """Cameras and list differ by this many …"""
    mismatch_s: Seconds = 300.0
    """… for this long: it is said."""
    entrances: list[Door] = field(default_factory=list)
    """Doors that visitors pass after their check-in; more crossings than check-ins hint at tailgating."""
    tailgating_window_s: Seconds = 60.0
    tailgating_people: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Crossings over the check-ins of a window from which on it is said."""
    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    """Names are removed so long after a visit; the visit itself stays for the figures."""
    watch_list_days: Annotated[int, Meta(ge=0, le=3650)] = 0
    """Entries leave the watch-list so long after they were added; 0: when somebody removes them."""
    demo: bool = False
    """Put made-up visitors in where there has never been any: the demo site."""


def validate_visitors(source: str, visitors: Visitors, areas: Sequence[Area], cameras: Sequence[Camera]) -> None:
    """Raise ConfigError for an area or a door that does not exist."""
    known = {area.id for area in areas}
    for name in visitors.staff_baseline:
        if name not in known:
            raise ConfigError(
                f"{source}: $.visitors.staff_baseline: there is no area {name!r}. "
                f"Remedy: use one of: {', '.join(sorted(known)) or 'none'}."
            )
    lines = {(camera.id, line.id) for camera in cameras for line in camera.lines}
    for door in visitors.entrances:
        if (door.camera, door.line) not in lines:
            raise ConfigError(
                f"{source}: $.visitors.entrances: camera {door.camera!r} has no line {door.line!r}. "
                "Remedy: correct the name, or add the line first."
            )
