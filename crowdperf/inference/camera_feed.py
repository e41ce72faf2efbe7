"""Hold all that inference knows about one camera: its ring, its queue, its turns and its counts."""

from __future__ import annotations

from collections import Counter, deque

from crowdperf.frames.ring import FrameReader
from crowdperf.inference.regions.planner import LookPlanner

REFILL_FACTOR = 1.01
"""Pacing admits this share of target_fps: a camera at exactly that rate by its own clock loses nothing."""
MAX_BURST_S = 0.5
"""Cameras pause up to this long around their key frames and then send the frames of the pause at once."""
MIN_BURST_FRAMES = 3.0
"""Frames that slow cameras may send at once: two neighbours may each be off by nearly a period."""
CAMERA_IDLE_S = 2.0
"""A camera without frames for this long takes no part in the sharing of the models."""

BatchGeometry = tuple[int, int, str, int]
"""Width, height and pixel format of the ring, and the model's width: equal ones may share a batch."""


class TokenBucket:
    """Admits `fps` frames a second on average, and the frames of a pause of `MAX_BURST_S` at once."""

    def __init__(self, fps: float) -> None:
        self._rate = fps * REFILL_FACTOR
        self._burst = max(MIN_BURST_FRAMES, fps * MAX_BURST_S)
        self._tokens = self._burst
        self._at = float("-inf")

    def admit(self, at: float) -> bool:
        """Admit a frame that arrived at `at` seconds if it is due; a clock that goes back stands still."""
        if at > self._at:
            self._tokens = min(self._burst, self._tokens + (at - self._at) * self._rate)
            self._at = at
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class CameraFeed:
    """One camera's ring and its state in every part of inference. Times are monotonic seconds.

    `RingSet.scan` creates and ends feeds. A replaced ring gets a new feed.

    Args:
        camera: its id.
        reader: of its ring.
        last_sequence: the newest frame that is not new any more.
        last_arrived: when that frame arrived, or an estimate.
    """

    def __init__(self, camera: str, reader: FrameReader, last_sequence: int = 0, last_arrived: float = 0.0) -> None:
        self.camera, self.reader, self.spec = camera, reader, reader.spec
        # Discovery
        self.last_sequence, self.last_arrived = last_sequence, last_arrived
        # Scheduling
        spec = self.spec
        self.geometry: BatchGeometry = (spec.width, spec.height, spec.pix_fmt, spec.model_width)
        self.frame_step = spec.frame_skip + 1
        self.max_safe_lag = spec.slots - 2
        """Maximum lag behind the newest frame at which a picture is safe while the next one is written."""
        self.bucket = TokenBucket(spec.target_fps)
        self.pending: deque[tuple[int, float]] = deque()
        """Frames that wait for the model: sequence and arrival."""
        self.virtual_time_s = 0.0
        """Cost of its frames so far, raised to the scheduler's virtual time whenever it is served."""
        self.served_number = 0
        """The scheduler's count of served frames when this camera was last served."""
        self.rests_until = float("-inf")
        self.offered_at = float("-inf")
        """Arrival of the newest frame that was offered to the scheduler."""
        # Regions
        self.planner: LookPlanner | None = None
        """Chooses what is looked at in its pictures; None before the first frame and for whole pictures."""
        # PPE cadence
        self.ppe_served_at: float | None = None
        """Arrival of the frame that the PPE model analysed last; None before the first frame."""
        self.ppe_frame_at = float("-inf")
        """When it last had a frame for the PPE model."""
        # Counts
        self.analysed = 0
        """Frames published since the last report."""
        self.drops: Counter[str] = Counter()
        """Cause -> frames dropped since they were last counted."""
        self.error = ""
        """Why the model cannot run at this geometry; empty if it can."""

    @property
    def is_busy(self) -> bool:
        """True while a frame is computed that the next one depends on."""
        return self.planner is not None and self.planner.in_flight

    def estimate_cost(self, now: float) -> float:
        """Return what its next frame costs, by the cost of a whole picture; `now`: monotonic seconds."""
        return 1.0 if self.planner is None else self.planner.estimate_cost(now)

    def forget_looks(self) -> None:
        """Look at the next picture as a whole: what was seen last is not known for certain."""
        if self.planner is not None:
            self.planner.restart()

    def record_drop(self, cause: str, n: int = 1) -> None:
        """Count `n` frames that are not analysed."""
        if n:
            self.drops[cause] += n

    def clear_pending(self) -> int:
        """Empty the queue and return how many frames waited."""
        count = len(self.pending)
        self.pending.clear()
        return count

    def get_ppe_wait(self, now: float) -> float:
        """Return the time since the PPE model's last look, in periods of this camera's PPE rate."""
        return 0.0 if self.ppe_served_at is None else (now - self.ppe_served_at) * self.spec.ppe_fps

    def continue_from(self, previous: CameraFeed) -> None:
        """Take over the counts, the error and the PPE turn of the same camera's replaced ring."""
        self.error = previous.error
        self.analysed, self.drops = previous.analysed, previous.drops
        self.ppe_served_at, self.ppe_frame_at = previous.ppe_served_at, previous.ppe_frame_at
