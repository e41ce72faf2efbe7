"""Track the people and vehicles of one camera. Pure: time is a parameter, and nothing is read or written.

Two-stage association after Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box (2022).
Confident detections are matched with predicted tracks first. Weak ones then keep tracks alive that would otherwise
break in an occlusion. Everything is an array over all tracks; there are no track objects.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from crowdperf.settings.base import CLASSES
from crowdperf.settings.engine import Tracking
from crowdperf.tracking import association, kalman
from crowdperf.tracking.association import Indices

VERSION = 2
CONFIRM_HITS = 3
CONFIRM_S = 0.25
MIN_SCORE_SUM = 1.8
"""A track is confirmed by three detections, over this time, with this sum of scores: weak ones need more detections."""
TENTATIVE_S = 0.35
"""Time that an unconfirmed track survives without a detection."""
TENTATIVE_FRAMES = 2.5
WEAK_FRAMES = 2.5
LOST_FRAMES = 5
"""The same times in frames, where these are longer: a low frame rate must not end tracks."""
INTERVAL_WEIGHT = 0.1
MAX_INTERVAL_S = 2.0
"""Longest pause that counts for the exponential mean of the time between frames."""
WEAK_S = 0.6
"""Age up to which a weak detection continues a track, so that it does not revive an old one."""
BUFFER_RATIO = 0.3
BUFFER_S = 0.2
MAX_BUFFER_RATIO = 1.0
"""Growth of boxes, share of their size per side, for small or fast objects; larger for frame times above BUFFER_S."""
MIN_CONFIDENT_SIMILARITY = 0.15
MIN_WEAK_SIMILARITY = 0.5
MIN_BUFFERED_SIMILARITY = 0.2
"""Smallest similarity of a pair by stage: confident, weak, and confident by buffered boxes."""
DUPLICATE_IOU = 0.5
"""IoU from which a new detection is a tracked object under another class."""
CLASS_MISMATCH_PENALTY = 0.3
"""Reduction of the similarity of a person and a vehicle: they are matched only without a better pair."""
LOST_DAMPING = 0.5
"""Velocity left after a second without a detection: extrapolation is soon worse than standing still."""

Floats = NDArray[np.float64]


class Tracks(NamedTuple):
    """Tracks that were seen in one frame, and ids of ended ones."""

    ids: NDArray[np.uint32]
    """Track ids, shape (n,); the tracker never uses an id again."""
    boxes: NDArray[np.float32]
    """Filtered boxes, shape (n, 4), x1 y1 x2 y2 normalised to the source picture."""
    classes: NDArray[np.uint8]
    """Majority class of each track, index into `settings.base.CLASSES`, votes weighted by score."""
    confirmed: NDArray[np.bool_]
    ended: NDArray[np.uint32]
    """Ids of the tracks that this update evicted."""
    detections: NDArray[np.intp]
    """Index of each track's detection, shape (n,)."""


class _TrackerState(Struct, array_like=True):
    """Serialised tracker; arrays are raw little-endian bytes, so that nothing is rounded."""

    version: int
    time_s: float | None
    next_id: int
    ids: bytes
    hits: bytes
    seen: bytes
    votes: bytes
    filters: bytes
    interval_s: float


class PersonTracker:
    """Tracks of one camera: people and vehicles."""

    def __init__(self, settings: Tracking) -> None:
        self._high = settings.high_confidence
        self._lost_s = settings.lost_s
        self._time: float | None = None
        self.interval_s = 0.0
        """Recent mean time between frames, seconds; 0 before the second frame."""
        self._next_id = 1
        self._ids: NDArray[np.uint32] = np.zeros(0, np.uint32)
        self._hits: NDArray[np.int64] = np.zeros(0, np.int64)
        self._seen: Floats = np.zeros(0, np.float64)
        self._votes: Floats = np.zeros((0, len(CLASSES)), np.float64)
        self._filters = kalman.empty()

    def __len__(self) -> int:
        return len(self._ids)

    def update(
        self,
        captured_at_s: float,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.uint8],
        aspect: float = 16 / 9,
    ) -> Tracks:
        """Update the tracks with one frame's detections.

        Args:
            captured_at_s: time of the frame, seconds; it must grow from call to call.
            boxes: x1 y1 x2 y2 normalised, shape (n, 4).
            scores: shape (n,).
            classes: indices into `settings.base.CLASSES`, shape (n,).
            aspect: width of the source divided by its height.

        Returns:
            The tracks that were seen in this frame.
        """
        measured = _to_measurements(boxes, aspect)
        self._learn_interval(captured_at_s)
        ended = self._evict(captured_at_s)
        self._predict(captured_at_s)
        track_of = self._match(captured_at_s, measured, scores, classes)
        matched = (track_of >= 0).nonzero()[0]
        rows = track_of[matched]
        if len(rows):
            kalman.correct(self._filters, rows, measured[matched])
            self._votes[rows, classes[matched]] += scores[matched]
            self._hits[rows] += 1
            self._seen[rows] = captured_at_s
        seen_in = np.full(len(self._ids), -1, np.intp)
        seen_in[rows] = matched
        new = self._find_new_tracks(measured, scores, track_of)
        if len(new):
            self._append(captured_at_s, measured[new], scores[new], classes[new])
        return self._build_tracks(captured_at_s, aspect, ended, np.concatenate([seen_in, new]))

    def _learn_interval(self, now: float) -> None:
        if self._time is not None:
            passed_s = min(now - self._time, MAX_INTERVAL_S)
            weight = INTERVAL_WEIGHT if self.interval_s else 1.0
            self.interval_s += weight * (passed_s - self.interval_s)

    def _find_confirmed(self) -> NDArray[np.bool_]:
        """Find the tracks that are more than a few chance detections, as a mask."""
        min_hits = max(CONFIRM_HITS, int(CONFIRM_S / self.interval_s) + 1 if self.interval_s else 0)
        confirmed: NDArray[np.bool_] = (self._hits >= min_hits) & (self._votes.sum(axis=1) >= MIN_SCORE_SUM)
        return confirmed

    def _predict(self, now: float) -> None:
        if self._time is not None and len(self._ids):
            dt = max(now - self._time, 0.0)
            kalman.predict(self._filters, dt)
            lost = self._seen < self._time
            if lost.any():
                self._filters[kalman.VELOCITY, lost] *= LOST_DAMPING**dt
        self._time = now

    def _match(
        self, now: float, measured: Floats, scores: NDArray[np.float32], classes: NDArray[np.uint8]
    ) -> NDArray[np.intp]:
        """Find the track row of each detection, -1 for none."""
        track_of = np.full(len(measured), -1, np.intp)
        if not len(self._ids) or not len(measured):
            return track_of
        similarity = self._similarity(measured, classes, 0.0)
        confirmed = self._find_confirmed()
        strong = scores >= self._high
        weight = 0.5 + 0.5 * scores
        free = np.ones(len(self._ids), np.bool_)

        def stage(rows: NDArray[np.bool_], columns: NDArray[np.bool_], matrix: Floats, minimum: float) -> None:
            tracks, detections = association.assign(matrix, rows.nonzero()[0], columns.nonzero()[0], minimum)
            track_of[detections] = tracks
            free[tracks] = False

        stage(confirmed, strong, similarity * weight, MIN_CONFIDENT_SIMILARITY)
        recent = self._seen >= now - max(WEAK_S, WEAK_FRAMES * self.interval_s)
        stage(confirmed & free & recent, ~strong, similarity, MIN_WEAK_SIMILARITY)
        stage(~confirmed, strong & (track_of < 0), similarity * weight, MIN_CONFIDENT_SIMILARITY)
        left = strong & (track_of < 0)
        if left.any() and free.any():
            grown = min(MAX_BUFFER_RATIO, BUFFER_RATIO * max(1.0, self.interval_s / BUFFER_S))
            stage(free, left, self._similarity(measured, classes, grown) * weight, MIN_BUFFERED_SIMILARITY)
        return track_of

    def _similarity(self, measured: Floats, classes: NDArray[np.uint8], buffer: float) -> Floats:
        """Compute the overlap of every track and detection, less a penalty for a person and a vehicle."""
        overlap = association.buffered_iou(self._filters[kalman.VALUE], measured, buffer)
        if classes.any():
            person = self._votes.argmax(axis=1) == 0
            overlap -= CLASS_MISMATCH_PENALTY * (person[:, None] != (classes == 0)[None])
        return overlap

    def _find_new_tracks(self, measured: Floats, scores: NDArray[np.float32], track_of: Indices) -> Indices:
        """Find confident detections without a track that do not repeat a better or a tracked one."""
        free = ((track_of < 0) & (scores >= self._high)).nonzero()[0]
        if not len(free):
            return free
        tracked = (track_of >= 0).nonzero()[0]
        if len(tracked):
            free = free[association.buffered_iou(measured[free], measured[tracked], 0.0).max(axis=1) < DUPLICATE_IOU]
        if len(free) > 1:
            free = free[np.argsort(-scores[free], kind="stable")]
            covered = association.buffered_iou(measured[free], measured[free], 0.0) >= DUPLICATE_IOU
            free = free[~np.tril(covered, -1).any(axis=1)]
        return free

    def _append(self, now: float, measured: Floats, scores: NDArray[np.float32], classes: NDArray[np.uint8]) -> None:
        count = len(measured)
        ids = np.arange(self._next_id, self._next_id + count).astype(np.uint32)
        self._next_id += count
        votes = np.zeros((count, len(CLASSES)))
        votes[np.arange(count), classes] = scores
        self._ids = np.concatenate([self._ids, ids])
        self._hits = np.concatenate([self._hits, np.ones(count, np.int64)])
        self._seen = np.concatenate([self._seen, np.full(count, now)])
        self._votes = np.concatenate([self._votes, votes])
        self._filters = np.concatenate([self._filters, kalman.start(measured)], axis=1)

    def _evict(self, now: float) -> NDArray[np.uint32]:
        """Drop the tracks that were not seen for too long, and return their ids."""
        if not len(self._ids):
            return self._ids
        patience = np.where(
            self._find_confirmed(),
            max(self._lost_s, LOST_FRAMES * self.interval_s),
            max(TENTATIVE_S, TENTATIVE_FRAMES * self.interval_s),
        )
        gone = now - self._seen > patience
        if not gone.any():
            return self._ids[:0]
        ended, keep = self._ids[gone], ~gone
        self._ids, self._hits, self._seen = self._ids[keep], self._hits[keep], self._seen[keep]
        self._votes, self._filters = self._votes[keep], self._filters[:, keep]
        return ended

    def _build_tracks(self, now: float, aspect: float, ended: NDArray[np.uint32], seen_in: Indices) -> Tracks:
        rows = (self._seen == now).nonzero()[0]
        value = self._filters[kalman.VALUE, rows]
        half = value[:, 2:] / 2
        boxes = np.concatenate([value[:, :2] - half, value[:, :2] + half], axis=1)
        boxes[:, ::2] /= aspect
        return Tracks(
            self._ids[rows],
            np.clip(boxes, 0.0, 1.0).astype(np.float32),
            self._votes[rows].argmax(axis=1).astype(np.uint8),
            self._find_confirmed()[rows],
            ended,
            seen_in[rows],
        )

    def dump_state(self) -> bytes:
        """Serialise everything that decides the future; a restored tracker continues bit for bit."""
        return msgspec.msgpack.encode(
            _TrackerState(
                VERSION,
                self._time,
                self._next_id,
                self._ids.tobytes(),
                self._hits.tobytes(),
                self._seen.tobytes(),
                self._votes.tobytes(),
                self._filters.tobytes(),
                self.interval_s,
            )
        )

    def restore(self, state: bytes) -> None:
        """Continue from a result of `dump_state`.

        Raises:
            ValueError: the state is damaged or of another version.
        """
        read = msgspec.msgpack.decode(state, type=_TrackerState)
        if read.version != VERSION:
            raise ValueError(f"tracker state of version {read.version}; this is version {VERSION}")
        ids = np.frombuffer(read.ids, np.uint32).copy()
        count = len(ids)
        self._filters = np.frombuffer(read.filters, np.float64).reshape(5, count, 4).copy()
        self._votes = np.frombuffer(read.votes, np.float64).reshape(count, len(CLASSES)).copy()
        self._hits = np.frombuffer(read.hits, np.int64).reshape(count).copy()
        self._seen = np.frombuffer(read.seen, np.float64).reshape(count).copy()
        self._ids, self._time, self._next_id = ids, read.time_s, read.next_id
        self.interval_s = read.interval_s


def _to_measurements(boxes: NDArray[np.float32], aspect: float) -> Floats:
    """Convert normalised corners to centre and size in picture heights."""
    corners = boxes.astype(np.float64)
    corners[:, ::2] *= aspect
    measured = np.empty_like(corners)
    measured[:, :2] = (corners[:, :2] + corners[:, 2:]) / 2
    measured[:, 2:] = np.maximum(corners[:, 2:] - corners[:, :2], kalman.MIN_SIZE)
    return measured
