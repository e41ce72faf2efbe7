"""Who has to wear what, where and when, and who does not. Pure: observations in, violations and figures out.

One violation is one event at its opening and one at its end, whatever the number of frames. It closes when the person
complies, leaves the zone, or is not seen any more.

From what single frames show of one item to a verdict about a person. Pure.

One frame proves little: a helmet is hidden, blurred, or taken for hair. Each frame votes with the model's score and the
person's size, or abstains; the newest votes decide, and only when they are enough and nearly of one mind.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.messaging.schema import Event, EvidenceRequest, PpeObserved, PpeViolation
from crowdperf.settings.ppe import Item, PpeRule
from crowdperf.settings.schedule import is_active
from crowdperf.settings.worker_config import PpeConfig
from crowdperf.storage.violations import Compliance, Violation, ViolationUpdate
from crowdperf.workers.worker_logic import WorkerEvent

VERSION = 1
TRACK_TIMEOUT_S = 10.0
"""Not observed for this long: the person has left."""
MAX_WATCHED_TRACKS = 2000
"""Per camera; the ones not seen for longest go first."""
Cause = Literal["complied", "left", "gone"]


class BestObservation(Struct, array_like=True):
    """The observation that shows a missing item best."""

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
    """When it came under the rule, Unix seconds."""
    last: float
    votes: dict[str, list[float]] = {}
    """Item -> its newest votes, positive for missing."""
    seen: int = 0
    best: BestObservation | None = None
    violation: str = ""
    """Id of the violation; kept after its end, for the cooldown."""
    ongoing: bool = False
    first_seen: float = 0.0
    missing: list[str] = []
    closed_at: float = 0.0
    times: int = 0
    """Openings and ends so far: part of their events' ids."""
    away: bool = False
    """Out of the zone after a violation: kept until the cooldown ends, since the track may come back."""


class CameraPpeState(Struct, kw_only=True):
    """What is stored per camera."""

    version: int = VERSION
    watched: list[WatchedTrack] = []


class PpeLogic:
    """The rules of all cameras."""

    event_types: tuple[type[Event], ...] = (PpeObserved,)

    def __init__(self, config: PpeConfig) -> None:
        self._rules = {camera.camera_id: camera.rules for camera in config.cameras}
        self._timezone = zoneinfo.ZoneInfo(config.timezone)
        self._min_height_px = config.least_height_px
        self._cameras: dict[str, CameraPpeState] = {}

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        """The camera."""
        return (event.camera,)

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterator[Struct]:
        """Take one observation; yields PpeViolation, ViolationSet, EvidenceRequest and Compliance."""
        assert isinstance(event, PpeObserved)
        own = self._cameras.setdefault(event.camera, CameraPpeState())
        inside = set(event.zones.split(","))
        for rule in self._rules.get(event.camera, ()):
            watch = next((row for row in own.watched if (row.rule, row.track) == (rule.id, event.track)), None)
            holds = (
                (rule.zone is None or rule.zone in inside)
                and not inside & set(rule.exempt_zones)
                and is_active(rule.schedule, event.ts, self._timezone)
            )
            if holds:
                yield from self._update_track(own, rule, watch, event)
            elif watch is not None and not watch.away:
                yield from self._end_watch(own, rule, watch, event.camera, event.ts, "left")

    def advance_time(self, camera: str, now: float) -> Iterable[Struct]:
        """People who are not seen any more."""
        own = self._cameras.get(camera)
        effects: list[Struct] = []
        rules = {rule.id: rule for rule in self._rules.get(camera, ())}
        for watch in list(own.watched) if own else []:
            rule = rules.get(watch.rule)
            if own is not None and watch.away:
                if rule is None or now - watch.closed_at >= rule.cooldown_s:
                    effects += self._remove_track(own, rule, watch, camera)
            elif own is not None and now - watch.last > TRACK_TIMEOUT_S:
                effects += self._end_watch(own, rule, watch, camera, watch.last, "gone")
        return effects

    def _update_track(
        self, camera_state: CameraPpeState, rule: PpeRule, watch: WatchedTrack | None, event: PpeObserved
    ) -> Iterator[Struct]:
        if watch is None:
            watch = WatchedTrack(rule=rule.id, track=event.track, since=event.ts, last=event.ts)
            camera_state.watched.append(watch)
            camera_state.watched = sorted(camera_state.watched, key=lambda row: row.last)[-MAX_WATCHED_TRACKS:]
        if watch.away:
            # Back in the zone: judged anew, by what is seen now.
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
        said: dict[Item, Verdict] = {item: decide_verdict(watch.votes.get(item, [])) for item in rule.required}
        missing = [item for item in rule.required if said[item] == "missing"]
        if watch.ongoing:
            if all(said.get(item, "worn") == "worn" for item in watch.missing):  # type: ignore[call-overload]
                yield from self._close(watch, rule.zone, event.camera, event.ts, "complied")
        elif missing and event.ts - watch.since >= rule.min_dwell_s:
            yield from self._open(rule, watch, event, missing)

    def _open(self, rule: PpeRule, watch: WatchedTrack, event: PpeObserved, missing: list[Item]) -> Iterator[Struct]:
        again = bool(watch.violation) and event.ts - watch.closed_at < rule.cooldown_s
        if not again:
            watch.violation = f"{event.id}:{rule.id}"
            watch.first_seen = event.ts
        watch.ongoing, watch.missing = True, sorted({*(watch.missing if again else []), *missing})
        best = watch.best
        if best is not None and not again:
            yield EvidenceRequest(
                id=watch.violation,
                camera=event.camera,
                ts=event.ts,
                epoch=best.epoch,
                sequence=best.sequence,
                detection=best.detection,
                x1=best.box[0],
                y1=best.box[1],
                x2=best.box[2],
                y2=best.box[3],
            )
        yield from self._emit_change(watch, rule.zone, event.camera, event.ts, "opened", "")

    def _close(self, watch: WatchedTrack, zone: str | None, camera: str, now: float, cause: Cause) -> Iterator[Struct]:
        watch.ongoing, watch.closed_at = False, now
        yield from self._emit_change(watch, zone, camera, now, "closed", cause)

    def _end_watch(
        self,
        camera_state: CameraPpeState,
        rule: PpeRule | None,
        watch: WatchedTrack,
        camera: str,
        now: float,
        cause: Cause,
    ) -> Iterator[Struct]:
        """The person is out of the rule's reach: the violation ends."""
        if watch.ongoing:
            yield from self._close(watch, rule.zone if rule else None, camera, now, cause)
        if watch.violation and rule is not None and cause == "left":
            watch.away = True
            return
        yield from self._remove_track(camera_state, rule, watch, camera)

    def _remove_track(
        self, camera_state: CameraPpeState, rule: PpeRule | None, watch: WatchedTrack, camera: str
    ) -> Iterator[Struct]:
        """The person counts in the hour's figures, once."""
        camera_state.watched.remove(watch)
        if rule is None or (watch.last - watch.since < rule.min_dwell_s and not watch.violation):
            return
        for item in rule.required:
            said = decide_verdict(watch.votes.get(item, []))
            outcome: Verdict = "missing" if item in watch.missing else said
            hour = int(watch.last // 3600)
            yield Compliance(camera=camera, zone=rule.zone or "", item=item, outcome=outcome, hour=hour)

    def _emit_change(
        self,
        watch: WatchedTrack,
        zone: str | None,
        camera: str,
        now: float,
        state: Literal["opened", "closed"],
        cause: str,
    ) -> Iterator[Struct]:
        watch.times += 1
        history = ";".join(
            f"{item}:{','.join(f'{value:+.2f}' for value in votes)}" for item, votes in sorted(watch.votes.items())
        )
        yield ViolationUpdate(
            violation=Violation(
                id=watch.violation,
                rule=watch.rule,
                camera=camera,
                zone=zone or "",
                track=watch.track,
                items=list(watch.missing),
                first_seen=watch.first_seen,
                last_seen=now,
                frames=watch.seen,
                votes=history,
                ongoing=state == "opened",
                cause=cause,
            ),
            # A violation that goes on within the cooldown keeps whatever a person has said of it.
            new=state == "opened" and watch.times == 1,
        )
        yield PpeViolation(
            id=f"{watch.violation}:{state}:{watch.times}",
            camera=camera,
            ts=now,
            violation=watch.violation,
            rule=watch.rule,
            state=state,
            items=",".join(watch.missing),
            zone=zone or "",
            track=watch.track,
            first_seen=watch.first_seen,
            last_seen=now,
            votes=history,
            cause=cause,
        )

    def dump_state(self, camera: str) -> bytes:
        """The camera's state."""
        return msgspec.msgpack.encode(self._cameras.setdefault(camera, CameraPpeState()))

    def restore(self, camera: str, state: bytes) -> None:
        """Continue there.

        Raises:
            ValueError: another version.
        """
        raw: Any = msgspec.msgpack.decode(state)
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            raise ValueError(f"PPE state of another version than {VERSION}")
        self._cameras[camera] = msgspec.convert(raw, CameraPpeState)

    def is_configured(self, camera: str) -> bool:
        """Whether the camera has a rule."""
        return camera in self._rules

    def forget(self, camera: str, now: float) -> Iterable[Struct]:
        """Its people; a violation of a rule that is gone has been closed by `due`."""
        self._cameras.pop(camera, None)
        return ()

    def clear(self) -> None:
        """Forget every camera."""
        self._cameras.clear()


Verdict = Literal["missing", "worn", "unsure"]

MAX_VOTES = 8
"""Votes that decide: the newest ones, so that somebody who puts the helmet on is soon believed."""
MIN_VOTES = 3
MIN_TOTAL_WEIGHT = 1.0
"""Sum of the votes' weights: three clear frames of a tall person, or more of a small one."""
MIN_AGREEMENT = 0.7
"""Share of the weight that a verdict needs."""
MIN_VOTE_SCORE = 0.35
"""A frame in which neither the item nor its absence was found better than this abstains."""
FULL_HEIGHT_PX = 160.0
"""A person of this height votes with full weight, a smaller one with less."""


def compute_vote(worn_score: float, missing_score: float, height_px: float, min_height_px: float) -> float | None:
    """One frame's vote: positive for missing, negative for worn, None where it abstains.

    Args:
        worn: best score of the item on the person, 0 where it was not found.
        missing: the same for its absence.
        height_px: the person's height in the picture that was looked at, pixels.
        least_height_px: smaller people cannot be judged.
    """
    if height_px < min_height_px or max(worn_score, missing_score) < MIN_VOTE_SCORE:
        return None
    return (missing_score - worn_score) * min(1.0, height_px / FULL_HEIGHT_PX)


def decide_verdict(votes: list[float]) -> Verdict:
    """What the newest votes of an item say."""
    recent = votes[-MAX_VOTES:]
    total = sum(abs(value) for value in recent)
    if len(recent) < MIN_VOTES or total < MIN_TOTAL_WEIGHT:
        return "unsure"
    missing = sum(value for value in recent if value > 0)
    if missing >= MIN_AGREEMENT * total:
        return "missing"
    return "worn" if missing <= (1 - MIN_AGREEMENT) * total else "unsure"
