"""Today's counts, kept up to date by the events themselves: pure, time is a parameter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from crowdperf.web.parameters import Span

REMEMBERED = 100_000
"""Event ids kept to tell a redelivered event from a new one."""
MOST_COUNTS = 100_000
"""Of different keys within a day: hundreds of cameras with several lines have a tenth of it."""


class Key(NamedTuple):
    """What one count is about."""

    camera: str
    line: str
    klass: str
    direction: str


class Tally:
    """The crossings of one day by camera, line, class and direction; an event that comes twice counts once."""

    def __init__(self, day: Span) -> None:
        self.day = day
        self.counts: dict[Key, int] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._changed: set[Key] = set()

    def load(self, rows: Iterable[tuple[str, float, Key]]) -> None:
        """Add the history: rows of event id, Unix seconds and key."""
        for event_id, ts, key in rows:
            self.add(event_id, ts, key)

    def add(self, event_id: str, ts: float, key: Key) -> bool:
        """Count one crossing; False when it is another day's, or was counted already."""
        if not self.day.start <= ts < self.day.end or event_id in self._seen:
            return False
        if key not in self.counts and len(self.counts) >= MOST_COUNTS:
            return False
        self._seen[event_id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        self.counts[key] = self.counts.get(key, 0) + 1
        self._changed.add(key)
        return True

    def changes(self) -> dict[Key, int]:
        """The counts that changed since the last call, as they are now."""
        changed = {key: self.counts[key] for key in self._changed}
        self._changed.clear()
        return changed
