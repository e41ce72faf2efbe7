"""What cameras count against what the list of visitors says, per area; and crossings without a check-in. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from crowdperf.events.schema import AreaChanged, AreaMismatch, LineCrossed, TailgatingSuspected
from crowdperf.settings.area import Area, Door
from crowdperf.settings.visitors import Visitors

CREDIT_S = 600.0
"""A check-in lets one crossing of an entrance pass within this time."""

MOST_CREDITS = 1000


class AreaState(Struct):
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

    areas: dict[str, AreaState] = {}
    credits: list[float] = []
    """Check-ins that no crossing has used yet."""
    used: list[float] = []
    """Crossings that used one."""
    without: list[tuple[float, str]] = []
    """Crossings without a check-in, with their events' ids."""

    def counted(self, event: AreaChanged) -> None:
        """The cameras' number."""
        self.areas.setdefault(event.area, AreaState()).counted = event.occupancy

    def keep(self, areas: Sequence[Area]) -> None:
        """Forget areas and doors that the configuration no longer has."""
        doors = {area.id: {f"{door.camera}/{door.line}" for door in area.doors} for area in areas}
        self.areas = {name: own for name, own in self.areas.items() if name in doors}
        for name, own in self.areas.items():
            own.doors = {door: n for door, n in own.doors.items() if door in doors[name]}

    def checked_in(self, ts: float) -> None:
        """Somebody may pass an entrance now."""
        # A site without entrances never uses them.
        self.credits = [*(old for old in self.credits if ts - old <= CREDIT_S), ts][-MOST_CREDITS:]

    def crossed(self, event: LineCrossed, areas: Sequence[Area], rules: Visitors) -> Iterator[TailgatingSuspected]:
        """A crossing: the doors' surplus, and the entrances' check."""
        if event.klass != "person":
            return
        for area in areas:
            for door in area.doors:
                if _is(door, event):
                    own = self.areas.setdefault(area.id, AreaState())
                    name = f"{door.camera}/{door.line}"
                    own.doors[name] = own.doors.get(name, 0) + (1 if event.direction == door.enters else -1)
        if any(_is(door, event) and event.direction == door.enters for door in rules.entrances):
            yield from self._entered(event, rules)

    def _entered(self, event: LineCrossed, rules: Visitors) -> Iterator[TailgatingSuspected]:
        now, window = event.ts, rules.tailgating_window_s
        self.credits = [ts for ts in self.credits if now - ts <= CREDIT_S]
        self.used = [ts for ts in self.used if now - ts <= window]
        self.without = [row for row in self.without if now - row[0] <= window]
        if self.credits:
            self.credits.pop(0)
            self.used.append(now)
            return
        self.without.append((now, event.id))
        if len(self.without) < rules.tailgating_people:
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

    def compare(self, expected: dict[str, int], rules: Visitors, now: float) -> Iterator[AreaMismatch]:
        """What differs for long enough, and what agrees again; `expected` per area that is to be compared."""
        for area, people in expected.items():
            own = self.areas.get(area)
            if own is None or own.counted is None:
                continue
            difference = own.counted - people
            if abs(difference) < rules.mismatch_people:
                if own.opened:
                    yield self._mismatch(area, own, people, now, "closed")
                own.since, own.opened, own.doors = 0.0, "", {}
                continue
            own.since = own.since or now
            if not own.opened and now - own.since >= rules.mismatch_s:
                own.opened = f"mismatch:{area}:{own.since!r}"
                yield self._mismatch(area, own, people, now, "opened")

    def _mismatch(self, area: str, own: AreaState, people: int, now: float, state: str) -> AreaMismatch:
        assert own.counted is not None
        sign = 1 if own.counted >= people else -1
        likely = max(own.doors, key=lambda door: (sign * own.doors[door], door), default="")
        return AreaMismatch(
            id=f"{own.opened}:{state}",
            camera="",
            ts=now,
            area=area,
            state="opened" if state == "opened" else "closed",
            counted=own.counted,
            expected=people,
            since=own.since,
            door=likely,
        )


def _is(door: Door, event: LineCrossed) -> bool:
    return (door.camera, door.line) == (event.camera, event.line)
