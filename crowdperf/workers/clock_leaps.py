"""Go on after a clock that was ahead for a while: two hours by a wrong time zone, or ten years by an empty battery.

Rules go by the accepted clock (`storage.steady_clock`), so this concerns a wrong clock that was accepted. Rules that
wait for a time of the future would stand still until then. What was done meanwhile is not undone.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import msgspec

from crowdperf.storage.steady_clock import EARLIEST_CLOCK_S
from crowdperf.workers.worker_logic import WorkerEvent, WorkerLogic

MAX_AHEAD_S = 600.0
"""A time that is farther ahead of the clock was taken while the clock was wrong."""
LATE_S = 60.0
"""A state that is brought back ends this long ago: events on their way are not too late for it."""
MAX_PLANNED_S = {"expected_from": math.inf, "expected_until": math.inf, "tell_at": 8 * 86_400.0}
"""Fields that may lie ahead of the clock, and how far."""

log = logging.getLogger(__name__)


def is_ahead(ts: float, now: float, limit_s: float = MAX_AHEAD_S) -> bool:
    """Check whether a time was taken while the clock was ahead of the present one.

    Args:
        ts: the time, Unix seconds.
        now: the present, Unix seconds.
        limit_s: how far it may lie ahead.

    Returns:
        False too where the time is infinite, or where the present clock is not set.
    """
    return now >= EARLIEST_CLOCK_S and now + limit_s < ts < math.inf


def correct_event(event: WorkerEvent, now: float) -> WorkerEvent:
    """Return the event, as of now where its time lies ahead of the clock."""
    return msgspec.structs.replace(event, ts=now) if is_ahead(event.ts, now) else event


def correct_state(state: bytes, now: float) -> bytes:
    """Return the state, with times that lie ahead of the clock moved to the present."""
    has_changed = False

    def correct(value: Any, name: str = "") -> Any:
        nonlocal has_changed
        if isinstance(value, float) and is_ahead(value, now, MAX_PLANNED_S.get(name, MAX_AHEAD_S)):
            has_changed = True
            return now - LATE_S
        if isinstance(value, dict):
            return {key: correct(entry, key) for key, entry in value.items()}
        return [correct(entry) for entry in value] if isinstance(value, list) else value

    corrected = correct(msgspec.msgpack.decode(state))
    return msgspec.msgpack.encode(corrected) if has_changed else state


def bring_back(logic: WorkerLogic, partition: str, now: float) -> bool:
    """Correct the state of a partition whose times lie ahead of the clock.

    Args:
        logic: the rules of the worker.
        partition: a camera's id, or another partition key.
        now: the present, Unix seconds.

    Returns:
        Whether it had to be corrected.
    """
    state = logic.dump_state(partition)
    corrected = correct_state(state, now)
    if corrected is state:
        return False
    logic.restore(partition, corrected)
    log.warning("%s %r: its state was ahead of the clock and was brought back", type(logic).__name__, partition)
    return True
