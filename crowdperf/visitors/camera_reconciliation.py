"""What cameras count against what the list of visitors says, per area; and crossings without a check-in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from crowdperf.messaging.schema import AreaChanged, AreaMismatch, LineCrossed, TailgatingSuspected
from crowdperf.settings.areas import Area, Door
from crowdperf.settings.visitors import Visitors

MAX_CREDIT_AGE_S = 600.0
"""A check-in lets one crossing of an entrance pass within this time."""

MAX_CREDITS = 1000


class AreaReconciliation(Struct):
    """One area."""

    counted: int | None = None
    """By the cameras; None until they have said anything."""
    doors: dict[str, int] = {}
    """`<camera>/<line>` -> entries less exits since both sides last agreed."""
    since: float = 0.0
    """Since when they differ, 0 where they agree."""
    opened: str = ""
    """Id of the event that said so."""


class Reconciliation(Struct):
    """All areas, and the entrances."""

    areas: dict[str, AreaReconciliation] = {}
    credits: list[float] = []
    """Check-ins that no crossing has used yet."""
    used: list[float] = []
    """Crossings that used one."""
    without: list[tuple[float, str]] = []
    """Crossings without a check-in, with their events' ids."""

    def set_counted(self, event: AreaChanged) -> None:
        """The cameras' number."""
        self.areas.setdefault(event.area, AreaReconciliation()).counted = event.occupancy

    def forget_removed(self, areas: Sequence[Area]) -> None:
        """Forget areas and doors that the configuration no longer has."""
        doors = {area.id: {f"{door.camera}/{door.line}" for door in area.doors} for area in areas}
        self.areas = {name: own for name, own in self.areas.items() if name in doors}
        for name, own in self.areas.items():
            own.doors = {door: n for door, n in own.doors.items() if door in doors[name]}

    def add_check_in(self, ts: float) -> None:
        """Somebody may pass an entrance now."""
        # A site without entrances never uses them.
        self.credits = [*(old for old in self.credits if ts - old <= MAX_CREDIT_AGE_S), ts][-MAX_CREDITS:]

    def record_crossing(
        self, event: LineCrossed, areas: Sequence[Area], settings: Visitors
    ) -> Iterator[TailgatingSuspected]:
        """A crossing: the doors' surplus, and the entrances' check."""
        if event.class_name != "person":
            return
        for area in areas:
            for door in area.doors:
                if _is_same_door(door, event):
                    own = self.areas.setdefault(area.id, AreaReconciliation())
                    name = f"{door.camera}/{door.line}"
                    own.doors[name] = own.doors.get(name, 0) + (1 if event.direction == door.enters else -1)
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
        """What differs for long enough, and what agrees again; `expected` per area that is to be compared."""
        for area, people in expected.items():
            own = self.areas.get(area)
            if own is None or own.counted is None:
                continue
            difference = own.counted - people
            if abs(difference) < settings.mismatch_people:
                if own.opened:
                    yield self._build_mismatch(area, own, people, now, "closed")
                own.since, own.opened, own.doors = 0.0, "", {}
                continue
            own.since = own.since or now
            if not own.opened and now - own.since >= settings.mismatch_s:
                own.opened = f"mismatch:{area}:{own.since!r}"
                yield self._build_mismatch(area, own, people, now, "opened")

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
