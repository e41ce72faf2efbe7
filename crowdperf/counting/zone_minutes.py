"""The minutes of a zone: maximum and mean occupancy, entries and exits, dwell times. Pure: no I/O and no clock."""

from __future__ import annotations

from collections.abc import Iterable

from crowdperf.counting.samples import FrameMoment
from crowdperf.counting.zones import MinuteTally, ZoneCounter
from crowdperf.messaging.schema import ZoneChanged, ZoneMinute

MINUTE_S = 60
MAX_STEP_S = 5.0
"""A longer pause between two frames is not counted as observed."""


def add_frame(
    camera: str, counter: ZoneCounter, moment: FrameMoment, changes: Iterable[ZoneChanged]
) -> list[ZoneMinute]:
    """Add one frame, after the counter has processed it.

    The first frame of a minute closes the previous one, so a camera that stops closes its minute when it resumes.

    Args:
        camera: camera id.
        counter: counter of the zone.
        moment: time and number of the frame.
        changes: changes of occupancy in this frame.

    Returns:
        The previous minute, where it is over and the zone was occupied in it.
    """
    state = counter.state
    occupancy = counter.occupancy
    done: list[ZoneMinute] = []
    minute = int(moment.ts // MINUTE_S)
    if minute != state.tally.minute:
        # Tracks inside at the previous frame were inside at the start of this minute too.
        before = state.tally
        carried = occupancy - sum(1 if change.change == "in" else -1 for change in changes)
        if before.maximum or before.entries or before.exits:
            done.append(_build_event(camera, counter, before, carried, moment))
        state.tally = MinuteTally(minute=minute, maximum=carried)
    tally = state.tally
    if state.clock_s is not None and moment.clock_s - state.clock_s <= MAX_STEP_S:
        tally.observed_s += moment.clock_s - state.clock_s
        tally.person_s += occupancy * (moment.clock_s - state.clock_s)
    state.clock_s = moment.clock_s
    tally.maximum = max(tally.maximum, occupancy)
    for change in changes:
        tally.maximum = max(tally.maximum, change.occupancy)
        if change.change == "in":
            tally.entries += 1
        else:
            tally.exits += 1
            tally.dwells.append(round(change.dwell_s, 1))
    return done


def _build_event(
    camera: str, counter: ZoneCounter, tally: MinuteTally, occupancy: int, moment: FrameMoment
) -> ZoneMinute:
    queue = counter.zone.kind == "queue"
    return ZoneMinute(
        id=f"{camera}:{counter.zone.id}:minute:{tally.minute}",
        camera=camera,
        ts=float(tally.minute * MINUTE_S),
        zone=counter.zone.id,
        occupancy=occupancy,
        maximum=tally.maximum,
        mean=round(tally.person_s / tally.observed_s, 3) if tally.observed_s else float(occupancy),
        observed_s=round(tally.observed_s, 1),
        entries=tally.entries,
        exits=tally.exits,
        dwells=",".join(f"{dwell:g}" for dwell in tally.dwells),
        longest_wait_s=counter.get_queue(moment.clock_s).longest_s if queue else 0.0,
    )
