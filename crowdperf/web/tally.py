"""Today's counts, kept up to date by the events themselves: pure, time is a parameter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from crowdperf.web.parameters import Span

MAX_EVENT_IDS = 100_000
"""Event ids kept to tell a redelivered event from a new one."""
MAX_COUNT_KEYS = 100_000
"""Of different keys within a day: hundreds of cameras with several lines have a tenth of it."""


class CountKey(NamedTuple):
    """What one count is about."""

    camera: str
    line: str
    class_name: str
    direction: str


class TodayCounts:
    """The crossings of one day by camera, line, class and direction; an event that comes twice counts once."""

    def __init__(self, day: Span) -> None:
        self.day = day
        self.counts: dict[CountKey, int] = {}
        self._event_ids: OrderedDict[str, None] = OrderedDict()
        self._changed_keys: set[CountKey] = set()

    def load(self, rows: Iterable[tuple[str, float, CountKey]]) -> None:
        """Add the history: rows of event id, Unix seconds and key."""
        for event_id, ts, key in rows:
            self.add(event_id, ts, key)

    def add(self, event_id: str, ts: float, key: CountKey) -> bool:
        """Count one crossing; False when it is another day's, or was counted already."""
        if not self.day.start <= ts < self.day.end or event_id in self._event_ids:
            return False
        if key not in self.counts and len(self.counts) >= MAX_COUNT_KEYS:
            return False
        self._event_ids[event_id] = None
        if len(self._event_ids) > MAX_EVENT_IDS:
            self._event_ids.popitem(last=False)
        self.counts[key] = self.counts.get(key, 0) + 1
        self._changed_keys.add(key)
        return True

    def take_changes(self) -> dict[CountKey, int]:
        """The counts that changed since the last call, as they are now."""
        changed = {key: self.counts[key] for key in self._changed_keys}
        self._changed_keys.clear()
        return changed
