"""Density of people and vehicles: seconds per cell of a grid over the picture, per minute.

Pure: no I/O and no clock. Each minute is handed over when it ends, so the state stays small.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from crowdperf.counting.samples import Sample
from crowdperf.settings.base import DENSITY_GRID

COLUMNS, ROWS = DENSITY_GRID
HOUR_S = 3600
MINUTE_S = 60
MAX_STEP_S = 5.0
"""A longer pause between two frames is not counted."""
MS_PER_S = 1000


class DensityMinute(Struct, frozen=True):
    """Whole seconds by cell (row * COLUMNS + column) in one minute."""

    hour: int
    """Start of the hour that contains the minute, Unix seconds."""
    cells: dict[int, int]


class DensityState(Struct, array_like=True):
    """The serialised state of the current minute."""

    minute: int = 0
    clock_s: float | None = None
    cells: dict[int, int] = {}
    """Milliseconds by cell. A rest below one second carries over to the next minute."""


class DensityGrid:
    """The density grid of one camera, fed with the feet of each confirmed track."""

    def __init__(self) -> None:
        self.state = DensityState(cells={})

    def add_frame(self, clock_s: float, ts: float, samples: Iterable[Sample], aspect: float) -> DensityMinute | None:
        """Add one frame.

        Args:
            clock_s: monotonic time of the frame in seconds.
            ts: Unix seconds of the frame.
            samples: one sample per track.
            aspect: the source's width divided by its height.

        Returns:
            The previous minute where this frame starts a new one; None for an empty one.
        """
        state, done = self.state, None
        minute = int(ts // MINUTE_S)
        if minute != state.minute:
            whole = {cell: spent // MS_PER_S for cell, spent in state.cells.items() if spent >= MS_PER_S}
            if whole:
                done = DensityMinute(state.minute * MINUTE_S // HOUR_S * HOUR_S, whole)
            state.cells = {cell: spent % MS_PER_S for cell, spent in state.cells.items() if spent % MS_PER_S}
            state.minute = minute
        step = 0 if state.clock_s is None else round((clock_s - state.clock_s) * MS_PER_S)
        state.clock_s = clock_s
        if 0 < step <= MAX_STEP_S * MS_PER_S:
            cells = state.cells
            for sample in samples:
                if sample.confirmed:
                    column = min(COLUMNS - 1, max(0, int(sample.x / aspect * COLUMNS)))
                    cell = min(ROWS - 1, max(0, int(sample.bottom * ROWS))) * COLUMNS + column
                    cells[cell] = cells.get(cell, 0) + step
        return done
