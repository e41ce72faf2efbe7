"""worker-ppe: from observations of single frames to violations of PPE rules and compliance figures.

A violation is one event when it opens and one when it closes, however many frames it lasts. It closes when the person
complies, leaves the zone, or is no longer seen.

A single frame proves little: a helmet is hidden, blurred, or mistaken for hair. Each frame votes with the model's score
and the person's height, or abstains. The newest votes decide, once there are enough and nearly all agree.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import Event, EvidenceRequest, PpeObserved, PpeViolation
from crowdperf.messaging.streams import EVIDENCE_REQUESTS, OBSERVATIONS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.ppe import Item, PpeRule
from crowdperf.settings.schedule import Schedule
from crowdperf.settings.worker_config import PpeConfig
from crowdperf.storage import violations
from crowdperf.storage.violations import Compliance, Violation, ViolationUpdate, ViolationView
from crowdperf.workers.sharded_consumer import run_worker
from crowdperf.workers.worker_logic import WorkerEvent, WorkerLogic, decode_state

WORKER = "ppe"
VERSION = 1
TRACK_TIMEOUT_S = 10.0
"""A person without an observation for so long has left."""
MAX_WATCHED_TRACKS = 2000
"""Per camera; the least recently seen are dropped first."""
Cause = Literal["complied", "left", "gone"]
Verdict = Literal["missing", "worn", "unsure"]
MAX_VOTES = 8
"""Number of newest votes that decide, so that a person who puts the helmet on complies soon."""
MIN_VOTES = 3
MIN_TOTAL_WEIGHT = 1.0
"""Sum of the weights: three clear frames of a tall person, or more of a small one."""
MIN_AGREEMENT = 0.7
"""Minimum share of the weight for a verdict."""
MIN_VOTE_SCORE = 0.35
"""A frame abstains where neither the item nor its absence has this score."""
FULL_HEIGHT_PX = 160.0
"""Smaller people vote with less than full weight."""


class BestObservation(Struct, array_like=True):
    """The clearest observation of a missing item."""

    weight: float
    ts: float
    epoch: int
    sequence: int
    detection: int
    box: tuple[float, float, float, float]


class WatchedTrack(Struct, kw_only=True):
    """One track under one rule."""

    rule: str
    track: int
    since: float
    """Unix seconds when the rule began to apply to the track."""
    last: float
    votes: dict[str, list[float]] = {}
    """Item -> its newest votes, positive for missing."""
    seen: int = 0
    best: BestObservation | None = None
    violation: str = ""
    """Id of the violation, kept after its end for the cooldown."""
    ongoing: bool = False
    first_seen: float = 0.0
    missing: list[str] = []
    closed_at: float = 0.0
    times: int = 0
    """Number of openings and closings, part of their event ids."""
    away: bool = False
    """True after the person has left the zone with a violation. Kept until the cooldown ends, because the track may
    return."""


class CameraPpeState(Struct, kw_only=True):
    """The stored state of one camera."""

    version: int = VERSION
    watched: list[WatchedTrack] = []


class PpeLogic(WorkerLogic):
    """The PPE rules of all cameras."""

    event_types: tuple[type[Event], ...] = (PpeObserved,)

    def __init__(self, config: PpeConfig) -> None:
        self._rules = {camera.camera_id: camera.rules for camera in config.cameras}
        self._timezone = zoneinfo.ZoneInfo(config.timezone)
        self._min_height_px = config.least_height_px
        self._cameras: dict[str, CameraPpeState] = {}

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterator[Struct]:
        """Process one observation; yield PpeViolation, ViolationUpdate, EvidenceRequest and Compliance."""
        assert isinstance(event, PpeObserved)
        camera_state = self._cameras.setdefault(event.camera, CameraPpeState())
        inside = set(event.zones.split(","))
        for rule in self._rules.get(event.camera, ()):
            watch = next((row for row in camera_state.watched if (row.rule, row.track) == (rule.id, event.track)), None)
            holds = (
                (rule.zone is None or rule.zone in inside)
                and not inside & set(rule.exempt_zones)
                and Schedule(rule.schedule, self._timezone).is_active(event.ts)
            )
            if holds:
                yield from self._update_track(camera_state, rule, watch, event)
            elif watch is not None and not watch.away:
                yield from _end_watch(camera_state, rule, watch, event.camera, event.ts, "left")

    def advance_time(self, camera: str, now: float) -> Iterable[Struct]:
        """End the watches of people who are no longer seen."""
        camera_state = self._cameras.get(camera, CameraPpeState())
        effects: list[Struct] = []
        rules = {rule.id: rule for rule in self._rules.get(camera, ())}
        for watch in list(camera_state.watched):
            rule = rules.get(watch.rule)
            if watch.away:
                if rule is None or now - watch.closed_at >= rule.cooldown_s:
                    effects += _remove_track(camera_state, rule, watch, camera)
            elif now - watch.last > TRACK_TIMEOUT_S:
                effects += _end_watch(camera_state, rule, watch, camera, watch.last, "gone")
        return effects

    def _update_track(
        self, camera_state: CameraPpeState, rule: PpeRule, watch: WatchedTrack | None, event: PpeObserved
    ) -> Iterator[Struct]:
        if watch is None:
            watch = WatchedTrack(rule=rule.id, track=event.track, since=event.ts, last=event.ts)
            camera_state.watched.append(watch)
            camera_state.watched = sorted(camera_state.watched, key=lambda row: row.last)[-MAX_WATCHED_TRACKS:]
        if watch.away:
            # Back in the zone: start again without the old votes.
            watch.away, watch.since, watch.votes = False, event.ts, {}
        watch.last = event.ts
        watch.seen += 1
        for item in rule.required:
            value = compute_vote(
                getattr(event, item), getattr(event, f"no_{item}"), event.height_px, self._min_height_px
            )
            if value is None:
                continue
            watch.votes[item] = [*watch.votes.get(item, []), round(value, 3)][-MAX_VOTES:]
            if value > 0 and (watch.best is None or value > watch.best.weight):
                box = (event.x1, event.y1, event.x2, event.y2)
                watch.best = BestObservation(value, event.ts, event.epoch, event.sequence, event.detection, box)
        verdicts: dict[Item, Verdict] = {item: decide_verdict(watch.votes.get(item, [])) for item in rule.required}
        missing = [item for item in rule.required if verdicts[item] == "missing"]
        if watch.ongoing:
            if all(verdicts.get(item, "worn") == "worn" for item in watch.missing):  # type: ignore[call-overload]
                yield from _emit_change(watch, rule, event.camera, event.ts, "complied")
        elif missing and event.ts - watch.since >= rule.min_dwell_s:
            yield from _open(rule, watch, event, missing)

    def dump_state(self, camera: str) -> bytes:
        return msgspec.msgpack.encode(self._cameras.setdefault(camera, CameraPpeState()))

    def restore(self, camera: str, state: bytes) -> None:
        self._cameras[camera] = decode_state(state, CameraPpeState, VERSION)

    def rebuild(self, camera: str, documents: Sequence[Struct]) -> None:
        """Begin with the camera's violations that have not ended."""
        rows = [row.violation for row in documents if isinstance(row, ViolationView) and row.violation.camera == camera]
        self._cameras[camera] = CameraPpeState(
            watched=[
                WatchedTrack(
                    rule=row.rule,
                    track=row.track,
                    since=row.first_seen,
                    last=row.last_seen,
                    seen=row.frames,
                    violation=row.id,
                    ongoing=True,
                    first_seen=row.first_seen,
                    missing=list(row.items),
                    # Larger than any number of changes before, so that no id comes twice.
                    times=int(row.last_seen),
                )
                for row in rows
            ]
        )

    def is_configured(self, camera: str) -> bool:
        return camera in self._rules

    def forget(self, camera: str, now: float) -> Iterable[Struct]:
        """Drop the camera's state. `advance_time` has closed the violations of removed rules."""
        self._cameras.pop(camera, None)
        return ()

    def clear(self) -> None:
        self._cameras.clear()


def _open(rule: PpeRule, watch: WatchedTrack, event: PpeObserved, missing: list[Item]) -> Iterator[Struct]:
    again = bool(watch.violation) and event.ts - watch.closed_at < rule.cooldown_s
    if not again:
        watch.violation = f"{event.id}:{rule.id}"
        watch.first_seen = event.ts
    watch.missing = sorted({*(watch.missing if again else []), *missing})
    best = watch.best
    if best is not None and not again:
        yield EvidenceRequest(
            id=watch.violation,
            camera=event.camera,
            ts=event.ts,
            epoch=best.epoch,
            sequence=best.sequence,
            detection=best.detection,
            **dict(zip(("x1", "y1", "x2", "y2"), best.box)),
        )
    yield from _emit_change(watch, rule, event.camera, event.ts)


def _end_watch(
    camera_state: CameraPpeState, rule: PpeRule | None, watch: WatchedTrack, camera: str, now: float, cause: Cause
) -> Iterator[Struct]:
    """Close the violation of a person to whom the rule no longer applies."""
    if watch.ongoing:
        yield from _emit_change(watch, rule, camera, now, cause)
    if watch.violation and rule is not None and cause == "left":
        watch.away = True
        return
    yield from _remove_track(camera_state, rule, watch, camera)


def _remove_track(
    camera_state: CameraPpeState, rule: PpeRule | None, watch: WatchedTrack, camera: str
) -> Iterator[Struct]:
    """Remove a watch and count its person in the compliance figures of the hour."""
    camera_state.watched.remove(watch)
    if rule is None or (watch.last - watch.since < rule.min_dwell_s and not watch.violation):
        return
    for item in rule.required:
        outcome = "missing" if item in watch.missing else decide_verdict(watch.votes.get(item, []))
        hour = int(watch.last // 3600)
        yield Compliance(camera=camera, zone=rule.zone or "", item=item, outcome=outcome, hour=hour)


def _emit_change(
    watch: WatchedTrack, rule: PpeRule | None, camera: str, now: float, cause: Cause | None = None
) -> Iterator[Struct]:
    """Open a violation, or close it for a cause."""
    watch.ongoing = cause is None
    if cause is not None:
        watch.closed_at = now
    watch.times += 1
    state: Literal["opened", "closed"] = "opened" if watch.ongoing else "closed"
    votes = ";".join(
        f"{item}:{','.join(f'{value:+.2f}' for value in values)}" for item, values in sorted(watch.votes.items())
    )
    violation = Violation(
        id=watch.violation,
        rule=watch.rule,
        camera=camera,
        zone=(rule.zone if rule else None) or "",
        track=watch.track,
        items=list(watch.missing),
        first_seen=watch.first_seen,
        last_seen=now,
        frames=watch.seen,
        votes=votes,
        ongoing=watch.ongoing,
        cause=cause or "",
    )
    # A violation that continues within the cooldown keeps its review.
    yield ViolationUpdate(violation=violation, new=watch.ongoing and watch.times == 1)
    yield PpeViolation(
        id=f"{watch.violation}:{state}:{watch.times}",
        camera=camera,
        ts=now,
        violation=watch.violation,
        rule=watch.rule,
        state=state,
        items=",".join(watch.missing),
        zone=violation.zone,
        track=watch.track,
        first_seen=watch.first_seen,
        last_seen=now,
        votes=votes,
        cause=violation.cause,
    )


def compute_vote(worn_score: float, missing_score: float, height_px: float, min_height_px: float) -> float | None:
    """Compute the vote of one frame.

    Args:
        worn_score: best score of the item on the person, 0 where it was not found.
        missing_score: the same for its absence.
        height_px: height of the person in the analysed picture, pixels.
        min_height_px: smaller people are not judged.

    Returns:
        Positive for missing, negative for worn, None for an abstention.
    """
    if height_px < min_height_px or max(worn_score, missing_score) < MIN_VOTE_SCORE:
        return None
    return (missing_score - worn_score) * min(1.0, height_px / FULL_HEIGHT_PX)


def decide_verdict(votes: list[float]) -> Verdict:
    """Decide by the newest votes of an item."""
    recent = votes[-MAX_VOTES:]
    total = sum(abs(value) for value in recent)
    if len(recent) < MIN_VOTES or total < MIN_TOTAL_WEIGHT:
        return "unsure"
    missing = sum(value for value in recent if value > 0)
    if missing >= MIN_AGREEMENT * total:
        return "missing"
    return "worn" if missing <= (1 - MIN_AGREEMENT) * total else "unsure"


def main(config: PpeConfig, runtime: ProcessRuntime) -> None:
    """Run until a stop is requested."""
    client = connect(config.redis_url)
    prefix = config.key_prefix
    requests: Publisher[EvidenceRequest] = Publisher(client, EVIDENCE_REQUESTS, prefix)

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, ViolationUpdate):
            violations.stage(pipe, effect, prefix)
        elif isinstance(effect, Compliance):
            violations.stage_compliance(pipe, effect, prefix)
        elif isinstance(effect, EvidenceRequest):
            requests.stage(pipe, effect)

    def load() -> Iterator[ViolationView]:
        return (view for view in violations.DOCUMENTS.iter_views(client, prefix) if view.violation.ongoing)

    logic = PpeLogic(config)
    run_worker(WORKER, logic, config, runtime, client, stage, input_stream=OBSERVATIONS, load_documents=load)
