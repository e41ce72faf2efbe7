"""Comparison of camera counts with the visitor list per area, and detection of tailgating. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from crowdperf.messaging.schema import AreaChanged, AreaMismatch, LineCrossed, TailgatingSuspected
from crowdperf.settings.areas import Area, Door
from crowdperf.settings.visitors import Visitors

MAX_CREDIT_AGE_S = 600.0
"""A check-in covers one crossing of an entrance within this time."""

MAX_CREDITS = 1000


class AreaReconciliation(Struct):
    """The comparison for one area."""

    counted: int | None = None
    """Occupancy by the cameras; None before their first event."""
    doors: dict[str, int] = {}
    """`<camera>/<line>` -> entries minus exits since the last agreement."""
    since: float = 0.0
    """Unix seconds since when both differ; 0 while they agree."""
    opened: str = ""
    """Id of the event that opened the mismatch."""


class Reconciliation(Struct):
    """The comparison for all areas, and the check-ins at the entrances."""

    areas: dict[str, AreaReconciliation] = {}
    credits: list[float] = []
    """Check-ins that are not yet covered by a crossing."""
    used: list[float] = []
    """Crossings that were covered by a check-in."""
    without: list[tuple[float, str]] = []
    """Time and event id of crossings without a check-in."""

    def set_counted(self, event: AreaChanged) -> None:
        """Store the occupancy by the cameras."""
        self.areas.setdefault(event.area, AreaReconciliation()).counted = event.occupancy

    def forget_removed(self, areas: Sequence[Area]) -> None:
        """Forget areas and doors that the configuration no longer has."""
        doors = {area.id: {f"{door.camera}/{door.line}" for door in area.doors} for area in areas}
        self.areas = {name: area_state for name, area_state in self.areas.items() if name in doors}
        for name, area_state in self.areas.items():
            area_state.doors = {door: n for door, n in area_state.doors.items() if door in doors[name]}

    def add_check_in(self, ts: float) -> None:
        """Allow one crossing of an entrance."""
        # Capped: a site without entrances never uses them up.
        self.credits = [*(old for old in self.credits if ts - old <= MAX_CREDIT_AGE_S), ts][-MAX_CREDITS:]

    def record_crossing(
        self, event: LineCrossed, areas: Sequence[Area], settings: Visitors
    ) -> Iterator[TailgatingSuspected]:
        """Update the balance of the doors and check the entrances.

        Args:
            event: the crossing.
            areas: configured areas.
            settings: settings of the visitors.

        Yields:
            TailgatingSuspected after too many crossings without a check-in.
        """
        if event.class_name != "person":
            return
        for area in areas:
            for door in area.doors:
                if _is_same_door(door, event):
                    area_state = self.areas.setdefault(area.id, AreaReconciliation())
                    name = f"{door.camera}/{door.line}"
                    area_state.doors[name] = area_state.doors.get(name, 0) + (
                        1 if event.direction == door.enters else -1
                    )
        if any(_is_same_door(door, event) and event.direction == door.enters for door in settings.entrances):
            yield from self._check_entrance(event, settings)

    def _check_entrance(self, event: LineCrossed, settings: Visitors) -> Iterator[TailgatingSuspected]:
        now, window = event.ts, settings.tailgating_window_s
        self.credits = [ts for ts in self.credits if now - ts <= MAX_CREDIT_AGE_S]
        self.used = [ts for ts in self.used if now - ts <= window]
        self.without = [row for row in self.without if now - row[0] <= window]
        if self.credits:
            self.credits.pop(0)
            self.used.append(now)
            return
        self.without.append((now, event.id))
        if len(self.without) < settings.tailgating_people:
            return
        yield TailgatingSuspected(
            id=f"tailgating:{event.id}",
            camera=event.camera,
            ts=now,
            line=event.line,
            crossings=len(self.without) + len(self.used),
            check_ins=len(self.used),
            window_s=window,
            evidence=" ".join(name for _, name in self.without),
        )
        self.without = []

    def compare(self, expected: dict[str, int], settings: Visitors, now: float) -> Iterator[AreaMismatch]:
        """Compare the cameras with the list.

        Args:
            expected: area -> expected people, for each area to compare.
            settings: settings of the visitors.
            now: Unix seconds.

        Yields:
            An opened mismatch after `mismatch_s`, and a closed one at the next agreement.
        """
        for area, people in expected.items():
            area_state = self.areas.get(area)
            if area_state is None or area_state.counted is None:
                continue
            difference = area_state.counted - people
            if abs(difference) < settings.mismatch_people:
                if area_state.opened:
                    yield self._build_mismatch(area, area_state, people, now, "closed")
                area_state.since, area_state.opened, area_state.doors = 0.0, "", {}
                continue
            area_state.since = area_state.since or now
            if not area_state.opened and now - area_state.since >= settings.mismatch_s:
                area_state.opened = f"mismatch:{area}:{area_state.since!r}"
                yield self._build_mismatch(area, area_state, people, now, "opened")

    def _build_mismatch(
        self, area: str, area_state: AreaReconciliation, people: int, now: float, state: str
    ) -> AreaMismatch:
        assert area_state.counted is not None
        sign = 1 if area_state.counted >= people else -1
        likely = max(area_state.doors, key=lambda door: (sign * area_state.doors[door], door), default="")
        return AreaMismatch(
            id=f"{area_state.opened}:{state}",
            camera="",
            ts=now,
            area=area,
            state="opened" if state == "opened" else "closed",
            counted=area_state.counted,
            expected=people,
            since=area_state.since,
            door=likely,
        )


def _is_same_door(door: Door, event: LineCrossed) -> bool:
    return (door.camera, door.line) == (event.camera, event.line)
