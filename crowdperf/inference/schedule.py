"""Which frames are analysed, and when: pure, time is a parameter (seconds on the monotonic clock).

A frame that arrives is due or not (`frame_skip`, `target_fps`), waits in its camera's short queue, and is taken with
the frames of other cameras that are due at that moment. Nothing ever waits for a camera. What is lost is counted by
cause:

- `skipped`, `paced`: not due; intended.
- `lapped`: due, but overwritten in the ring before it could be looked at.
- `overload`: more than `queue_max` waited, and the oldest for too long; only the newest stays.
- `stale`: it waited longer than the staleness budget.

More than `queue_max` frames alone are no overload: a camera that pauses around its key frame sends half a second's at
once, and a machine that is busy elsewhere for a moment catches up. Their pictures wait in the ring, so the queue may
grow as long as the ring still holds the oldest and it is fresh.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from crowdperf.frames.ring import RingSpec

REFILL = 1.01
"""Pacing admits this share of target_fps, so that a camera at exactly that rate by its own clock loses nothing."""
BURST_S = 0.5
"""Cameras pause up to this long around their key frames and then send what piled up."""
BURST_MIN = 3.0
"""Frames that slow cameras may send at once: each of two neighbours may be late or early by nearly a period."""


class Pace:
    """A token bucket: admits `fps` frames a second on average, and what a pause of `BURST_S` piles up at once."""

    def __init__(self, fps: float) -> None:
        self._rate = fps * REFILL
        self._burst = max(BURST_MIN, fps * BURST_S)
        self._tokens = self._burst
        self._at = float("-inf")

    def admit(self, at: float) -> bool:
        """Whether the frame that arrived at `at` is due; times that go back count as no time passed."""
        if at > self._at:
            self._tokens = min(self._burst, self._tokens + (at - self._at) * self._rate)
            self._at = at
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Picked(NamedTuple):
    """A frame to be analysed now."""

    camera: str
    sequence: int
    arrived: float


class _Camera:
    """One camera's queue and books."""

    def __init__(self, spec: RingSpec) -> None:
        self.geometry = (spec.width, spec.height, spec.pix_fmt, spec.model_width)
        self.every = spec.frame_skip + 1
        self.reach = spec.slots - 2
        """From the newest sequence to the oldest whose picture is safe while the next one is written."""
        self.pace = Pace(spec.target_fps)
        self.pending: deque[tuple[int, float]] = deque()


class Schedule:
    """The queues of all cameras.

    Args:
        queue_max: frames that may wait per camera, however long the machine is overloaded.
        staleness_s: age, from arrival, above which a frame is not analysed any more.
    """

    def __init__(self, queue_max: int, staleness_s: float) -> None:
        self._queue_max = queue_max
        self._staleness = staleness_s
        # In the order of service: who was served longest ago comes first.
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()
        self._dropped: dict[tuple[str, str], int] = {}

    def add(self, camera: str, spec: RingSpec) -> None:
        """Begin (again) with a camera; its queue is empty and its pace fresh."""
        self._cameras[camera] = _Camera(spec)

    def remove(self, camera: str) -> None:
        """Forget a camera and what waits of it."""
        self._cameras.pop(camera, None)

    def offer(self, camera: str, sequence: int, arrived: float, present: bool = True) -> None:
        """A frame has arrived; call in the order of sequences.

        Args:
            camera: one that was added.
            sequence: of the ring.
            arrived: seconds on the monotonic clock.
            present: False for a frame that has been overwritten already; `arrived` is then an estimate.
        """
        own = self._cameras[camera]
        if sequence % own.every:
            self.drop(camera, "skipped")
        elif not own.pace.admit(arrived):
            self.drop(camera, "paced")
        elif not present:
            self.drop(camera, "lapped")
        else:
            own.pending.append((sequence, arrived))
            if sequence - own.pending[0][0] > own.reach:
                self._shed(camera, own)

    def take(self, now: float, limit: int) -> list[Picked]:
        """The frames to analyse now: at most `limit`, all of one geometry, at least one if any is fresh.

        The camera that was served longest ago goes first and decides the geometry; every camera gives its oldest
        frame before any gives a second one.
        """
        for name, camera in self._cameras.items():
            if camera.pending and now - camera.pending[0][1] > self._staleness:
                self._shed(name, camera)
            while camera.pending and now - camera.pending[0][1] > self._staleness:
                camera.pending.popleft()
                self.drop(name, "stale")
        waiting = [name for name, camera in self._cameras.items() if camera.pending]
        if not waiting:
            return []
        geometry = self._cameras[waiting[0]].geometry
        waiting = [name for name in waiting if self._cameras[name].geometry == geometry]
        picked: list[Picked] = []
        while waiting and len(picked) < limit:
            for name in waiting[: limit - len(picked)]:
                picked.append(Picked(name, *self._cameras[name].pending.popleft()))
                self._cameras.move_to_end(name)
            waiting = [name for name in waiting if self._cameras[name].pending]
        return picked

    def _shed(self, name: str, camera: _Camera) -> None:
        """Only the newest frame of a queue that is too long."""
        if len(camera.pending) > self._queue_max:
            self.drop(name, "overload", len(camera.pending) - 1)
            camera.pending = deque([camera.pending[-1]])

    def drop(self, camera: str, cause: str, n: int = 1) -> None:
        """Count frames of a camera that are not analysed."""
        self._dropped[camera, cause] = self._dropped.get((camera, cause), 0) + n

    def drain_drops(self) -> dict[tuple[str, str], int]:
        """(camera, cause) -> frames since the last call."""
        drops, self._dropped = self._dropped, {}
        return drops
