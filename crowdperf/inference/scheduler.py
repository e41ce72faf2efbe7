"""Which frames are analysed, and when: pure, time is a parameter (seconds on the monotonic clock).

A frame that arrives is due or not (`frame_skip`, `target_fps`), waits in its camera's short queue, and is taken with
the frames of other cameras that are due at that moment. Nothing ever waits for a camera. What is lost is counted by
cause:

- `skipped`, `paced`: not due; intended.
- `lapped`: due, but overwritten in the ring before it could be looked at.
- `overload`: more than `queue_max` waited, and the oldest for too long; only the newest stays.
- `stale`: it waited longer than the staleness budget.
- `gone`: it waited when its ring was replaced or taken away.

More than `queue_max` frames alone are no overload: a camera that pauses around its key frame sends half a second's at
once, and a machine that is busy elsewhere for a moment catches up. Their pictures wait in the ring, so the queue may
grow as long as the ring still holds the oldest and it is fresh.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from crowdperf.frames.ring import RingSpec

REFILL_FACTOR = 1.01
"""Pacing admits this share of target_fps, so that a camera at exactly that rate by its own clock loses nothing."""
MAX_BURST_S = 0.5
"""Cameras pause up to this long around their key frames and then send what piled up."""
MIN_BURST_FRAMES = 3.0
"""Frames that slow cameras may send at once: each of two neighbours may be late or early by nearly a period."""


BatchGeometry = tuple[int, int, str, int]
"""Width, height and pixel format of the ring, and width for the model: frames alike may share a batch."""
MAX_GEOMETRIES = 256


class TokenBucket:
    """A token bucket: admits `fps` frames a second on average, and what a pause of `BURST_S` piles up at once."""

    def __init__(self, fps: float) -> None:
        self._rate = fps * REFILL_FACTOR
        self._burst = max(MIN_BURST_FRAMES, fps * MAX_BURST_S)
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


class ScheduledFrame(NamedTuple):
    """A frame to be analysed now."""

    camera: str
    sequence: int
    arrived: float


INITIAL_COST_S_PER_PIXEL = 1e-8
"""Assumed cost of a pixel before the first frame of a geometry has been measured: 2.3 ms for 640x360."""
SLOW_FRAME_SHARE = 0.5
"""A frame that costs more than this share of the staleness budget makes the other cameras' frames stale."""
SLOW_CAMERA_REST_FACTOR = 9.0
"""So its camera rests this many times as long, while there are others whose frames cost less: a tenth of the time is
blocked at most. Where all frames take long, resting would help nobody."""
CAMERA_IDLE_S = 2.0
"""A camera that has sent no frame for so long waits for none."""
COST_WEIGHT = 0.2
"""Of the newest batch in the moving average of a geometry's cost."""


class _CameraQueue:
    """One camera's queue and books."""

    def __init__(self, spec: RingSpec) -> None:
        self.geometry = (spec.width, spec.height, spec.pix_fmt, spec.model_width)
        self.frame_step = spec.frame_skip + 1
        self.max_safe_lag = spec.slots - 2
        """From the newest sequence to the oldest whose picture is safe while the next one is written."""
        self.bucket = TokenBucket(spec.target_fps)
        self.pending: deque[tuple[int, float]] = deque()
        self.virtual_time_s = 0.0
        """Virtual time: what its frames have cost, never less than the schedule's own when it was last served."""
        self.rests_until = float("-inf")
        self.last_arrived = float("-inf")
        """When its newest frame came."""


class FrameScheduler:
    """The queues of all cameras.

    Args:
        queue_max: frames that may wait per camera, however long the machine is overloaded.
        staleness_s: age, from arrival, above which a frame is not analysed any more.
    """

    def __init__(self, queue_max: int, staleness_s: float) -> None:
        self._queue_max = queue_max
        self._staleness = staleness_s
        # In the order of service: who was served longest ago comes first.
        self._cameras: OrderedDict[str, _CameraQueue] = OrderedDict()
        self._dropped: dict[tuple[str, str], int] = {}
        self._costs: dict[BatchGeometry, float] = {}
        self._virtual_s = 0.0

    def add(self, camera: str, spec: RingSpec) -> None:
        """Begin (again) with a camera; its queue is empty and its pace fresh."""
        self._cameras[camera] = _CameraQueue(spec)

    def remove(self, camera: str) -> None:
        """Forget a camera and what waits of it."""
        own = self._cameras.pop(camera, None)
        if own is not None and own.pending:
            self.record_drop(camera, "gone", len(own.pending))

    def offer(self, camera: str, sequence: int, arrived: float, available: bool = True) -> None:
        """A frame has arrived; call in the order of sequences.

        Args:
            camera: one that was added.
            sequence: of the ring.
            arrived: seconds on the monotonic clock.
            present: False for a frame that has been overwritten already; `arrived` is then an estimate.
        """
        own = self._cameras[camera]
        own.last_arrived = arrived
        if sequence % own.frame_step:
            self.record_drop(camera, "skipped")
        elif not own.bucket.admit(arrived):
            self.record_drop(camera, "paced")
        elif not available:
            self.record_drop(camera, "lapped")
        else:
            own.pending.append((sequence, arrived))
            if sequence - own.pending[0][0] > own.max_safe_lag:
                self._drop_backlog(camera, own)

    def take(self, now: float, limit: int) -> list[ScheduledFrame]:
        """The frames to analyse now: at most `limit`, all of one geometry, at least one if any is fresh.

        The camera that has had the least time of the model goes first and decides the geometry (of several, the one
        that was served longest ago); every camera gives its oldest frame before any gives a second one. So time is
        shared evenly where there is too little of it: as many frames for cameras alike, and a camera whose frames
        cost fifty times as much waits, instead of the others (start-time fair queueing: Goyal, Vin and Cheng, 1996).
        A camera whose single frame takes so long that others' become stale rests after it, if there are others.
        """
        for name, camera in self._cameras.items():
            if camera.pending and now - camera.pending[0][1] > self._staleness:
                self._drop_backlog(name, camera)
            while camera.pending and now - camera.pending[0][1] > self._staleness:
                camera.pending.popleft()
                self.record_drop(name, "stale")
        waiting = [name for name, camera in self._cameras.items() if camera.pending]
        if len(self._cameras) > 1:
            waiting = [name for name in waiting if self._cameras[name].rests_until <= now]
        if not waiting:
            return []
        waiting.sort(key=lambda name: max(self._cameras[name].virtual_time_s, self._virtual_s))
        geometry = self._cameras[waiting[0]].geometry
        self._virtual_s = max(self._virtual_s, self._cameras[waiting[0]].virtual_time_s)
        waiting = [name for name in waiting if self._cameras[name].geometry == geometry]
        cost = self._estimate_cost(geometry)
        rest = (
            (1 + SLOW_CAMERA_REST_FACTOR) * cost
            if cost > SLOW_FRAME_SHARE * self._staleness and self._has_fast_camera(now)
            else 0.0
        )
        picked: list[ScheduledFrame] = []
        while waiting and len(picked) < limit:
            for name in waiting[: limit - len(picked)]:
                own = self._cameras[name]
                picked.append(ScheduledFrame(name, *own.pending.popleft()))
                own.virtual_time_s = max(own.virtual_time_s, self._virtual_s) + cost
                if rest:
                    own.rests_until = now + rest
                self._cameras.move_to_end(name)
            waiting = [name for name in waiting if self._cameras[name].pending]
        return picked

    def _estimate_cost(self, geometry: BatchGeometry) -> float:
        """Seconds of the model's time that a frame takes."""
        return self._costs.get(geometry, INITIAL_COST_S_PER_PIXEL * geometry[0] * geometry[1])

    def _has_fast_camera(self, now: float) -> bool:
        """Whether some camera that sends frames has such as do not make others wait."""
        return any(
            now - camera.last_arrived <= CAMERA_IDLE_S
            and self._estimate_cost(camera.geometry) <= SLOW_FRAME_SHARE * self._staleness
            for camera in self._cameras.values()
        )

    def _drop_backlog(self, name: str, camera: _CameraQueue) -> None:
        """Only the newest frame of a queue that is too long."""
        if len(camera.pending) > self._queue_max:
            self.record_drop(name, "overload", len(camera.pending) - 1)
            camera.pending = deque([camera.pending[-1]])

    def record_cost(self, camera: str, seconds: float) -> None:
        """A frame of this camera's geometry has cost that much of the model's time."""
        own = self._cameras.get(camera)
        if own is None:
            return
        if own.geometry not in self._costs and len(self._costs) >= MAX_GEOMETRIES:
            del self._costs[next(iter(self._costs))]
        before = self._costs.setdefault(own.geometry, seconds)
        self._costs[own.geometry] = before + COST_WEIGHT * (seconds - before)

    def record_drop(self, camera: str, cause: str, n: int = 1) -> None:
        """Count frames of a camera that are not analysed."""
        self._dropped[camera, cause] = self._dropped.get((camera, cause), 0) + n

    def drain_drops(self) -> dict[tuple[str, str], int]:
        """(camera, cause) -> frames since the last call."""
        drops, self._dropped = self._dropped, {}
        return drops
