"""Detect gaps in one camera's frames, during which crossings may be missed. Pure and deterministic."""

from __future__ import annotations

from msgspec import Struct

from crowdperf.counting.camera_counter import CameraCounter
from crowdperf.counting.samples import FrameMoment
from crowdperf.messaging.schema import CameraGap, Event
from crowdperf.tracking.tracker import CONFIRM_HITS, CONFIRM_S

MIN_GAP_FRAMES = 3.5
"""A pause of fewer frames is no gap, however low the frame rate is."""
FILTER_LAG_S = 0.1
"""A filtered box follows a person who begins to walk by up to this much later."""
MAX_UNDECIDED_S = 3.0
"""Time after a pause for which a person who stays on a line keeps the gap open."""


class OpenGap(Struct, array_like=True):
    """A pause that is over, while crossings may still be missed because of it."""

    id: str
    start: float
    """Begin of the gap, Unix seconds."""
    cause: str
    settled_s: float
    """Clock before which it does not end, since new tracks are not confirmed yet."""
    latest_s: float
    """Clock at which it ends, even with a person on a line."""


class GapDetector:
    """Gaps of one camera; an event is sent when a gap is over.

    Args:
        camera: id of the camera.
        gap_s: shortest pause that is a gap, seconds.
        target_fps: analysed frames per second.
    """

    def __init__(self, camera: str, gap_s: float, target_fps: float) -> None:
        self._camera = camera
        self._gap_s = gap_s
        self._settle_s = max(CONFIRM_HITS / target_fps, CONFIRM_S + 1 / target_fps)
        self.open_gap: OpenGap | None = None
        self.state_lost = False
        """The state before the next frame is lost."""

    def find_cause(self, elapsed_s: float, frame_s: float, epoch_changed: bool, reshaped: bool) -> str:
        """Decide whether a gap begins with the next frame.

        Args:
            elapsed_s: seconds since the frame before, 0 for the first one.
            frame_s: usual time between two frames, seconds.
            epoch_changed: whether the ring was created again.
            reshaped: whether the picture's shape changed, so that paths before and after are not comparable.

        Returns:
            The cause; empty for no gap.
        """
        if self.state_lost:
            return "state lost"
        if elapsed_s > max(self._gap_s, MIN_GAP_FRAMES * frame_s):
            return "epoch changed" if epoch_changed else "frames missing"
        return "picture changed" if reshaped else ""

    def begin(
        self, cause: str, before: FrameMoment, now: FrameMoment, frame_s: float, counter: CameraCounter
    ) -> list[Event]:
        """Begin a gap and break all paths; a gap that is still open ends before it.

        The gap begins with the last frame before the pause, or with the first crossing that is given up.

        Args:
            cause: result of `find_cause`.
            before: the last frame before the pause.
            now: the first frame after it.
            frame_s: usual time between two frames, seconds.
            counter: the camera's counter.

        Returns:
            The event of the gap before, and the crossings that the pause settles.
        """
        events = self.finish(before.ts)
        settled_s = now.clock_s + self._settle_s
        settled, since_s = counter.break_paths(now, settled_s)
        start = before.ts
        if self.state_lost:
            # Crossings that were under way are unknown.
            self.state_lost = False
            start -= MAX_UNDECIDED_S
        elif since_s <= before.clock_s:
            # A crossing has the time of the first frame beyond the line: it was up to a frame's time earlier.
            start -= before.clock_s - since_s + frame_s + FILTER_LAG_S
        gap_id = f"{self._camera}:gap:{now.epoch}:{now.sequence}"
        self.open_gap = OpenGap(gap_id, start, cause, settled_s, now.clock_s + MAX_UNDECIDED_S)
        return events + settled

    def end_if_settled(self, now: FrameMoment, counter: CameraCounter) -> list[Event]:
        """End the open gap, and return its event, when no crossing can be missed because of it any more."""
        gap = self.open_gap
        if gap is None or now.clock_s < gap.settled_s:
            return []
        if now.clock_s < gap.latest_s and counter.has_undecided():
            return []
        counter.settle_undecided()
        return self.finish(now.ts)

    def finish(self, end: float) -> list[Event]:
        """End the open gap at `end` (Unix seconds), and return its event, if any."""
        gap, self.open_gap = self.open_gap, None
        if gap is None:
            return []
        return [CameraGap(id=gap.id, camera=self._camera, ts=end, start=min(gap.start, end), end=end, cause=gap.cause)]
