"""All lines and zones of one camera, with one serialised state."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from crowdperf.counting.frame import Moment, Sample
from crowdperf.counting.lines import LineCounter, LineState
from crowdperf.counting.zones import ZoneCounter, ZoneTrack
from crowdperf.events.schema import LineCrossed, ZoneChanged
from crowdperf.settings.camera import Line, Zone


class CountingState(Struct, array_like=True):
    """The counters in serialised form, by the digest of the line or zone they belong to."""

    lines: dict[str, LineState] = {}
    zones: dict[str, dict[int, ZoneTrack]] = {}


class CameraCounter:
    """The counters of one camera."""

    def __init__(self, camera: str, lines: tuple[Line, ...], zones: tuple[Zone, ...], lost_s: float) -> None:
        self.lines = [LineCounter(camera, line, lost_s) for line in lines]
        self.zones = [ZoneCounter(camera, zone) for zone in zones]

    def set_aspect(self, aspect: float) -> None:
        """The source's width divided by its height; paths before and after a change are not comparable."""
        for line in self.lines:
            line.set_aspect(aspect)
        for zone in self.zones:
            zone.set_aspect(aspect)

    def update(self, moment: Moment, samples: list[Sample], ended: list[int]) -> list[LineCrossed | ZoneChanged]:
        """Take one frame."""
        events: list[LineCrossed | ZoneChanged] = []
        for line in self.lines:
            events += line.update(moment, samples, ended)
        for zone in self.zones:
            events += zone.update(moment, samples, ended)
        return events

    def break_paths(self) -> None:
        """Count no crossing that began before this moment."""
        for line in self.lines:
            line.break_paths()

    def occupancy(self) -> dict[str, int]:
        """Zone id -> tracks inside."""
        return {counter.zone.id: counter.occupancy for counter in self.zones}

    def state(self) -> CountingState:
        """What decides the future."""
        return CountingState(
            {_digest(counter.line): counter.state for counter in self.lines},
            {_digest(counter.zone): counter.tracks for counter in self.zones},
        )

    def restore(self, state: CountingState) -> None:
        """Continue from a state; a line or zone that was changed since then begins anew."""
        for line in self.lines:
            line.state = state.lines.get(_digest(line.line), LineState({}, []))
        for zone in self.zones:
            zone.tracks = state.zones.get(_digest(zone.zone), {})


def _digest(shape: Line | Zone) -> str:
    """Names a line or zone together with every setting of it."""
    return hashlib.sha256(msgspec.json.encode(shape)).hexdigest()[:16]
