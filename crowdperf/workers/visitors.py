"""worker-visitors: changes of visits by time and cameras. Users change visits on the web.

The worker knows a visit from its events, which contain no names. It requests a change by version. A faster user wins,
and the visit's next event brings the worker up to date.
"""

from __future__ import annotations

import time
import zoneinfo
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import AreaChanged, Event, LineCrossed, VisitorChanged
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.worker_config import VisitorsConfig
from crowdperf.storage.steady_clock import RuleClock, read_clock_lead
from crowdperf.visitors import visit as lifecycle
from crowdperf.visitors import visit_store
from crowdperf.visitors.camera_reconciliation import Reconciliation
from crowdperf.visitors.visit import LIVE_STATES, ON_SITE_STATES, VisitState, build_notice
from crowdperf.visitors.visit_store import VisitUpdate
from crowdperf.workers.sharded_consumer import ShardedConsumer, run_worker
from crowdperf.workers.worker_logic import WorkerEvent, WorkerLogic, decode_state

WORKER = "visitors"
SITE_PARTITION = ""
"""All visits are one partition, because areas and entrances concern all of them."""
VERSION = 1
EXPIRY_INTERVAL_S = 600.0


class OpenVisit(Struct, kw_only=True):
    """A visit as known from its events."""

    visit: str
    person: str
    version: int
    state: VisitState
    expected_from: float
    expected_until: float
    area: str
    since: float
    """Unix seconds when it entered its state."""
    asked: int = 0
    """The version for which a change was requested, so that it is not requested twice."""
    reminded: bool = False


class SiteVisitState(Struct, kw_only=True):
    """The stored state."""

    version: int = VERSION
    visits: dict[str, OpenVisit] = {}
    cameras: Reconciliation = msgspec.field(default_factory=Reconciliation)
    expired_at: float = 0.0


class ExpireVisits(Struct, frozen=True):
    """Removes names of visits that began before a time, and old entries of the watch-list."""

    before: float
    watch_list_before: float
    """0 keeps the watch-list."""


class VisitorLogic(WorkerLogic):
    """The visitor rules, all in one partition."""

    event_types: tuple[type[Event], ...] = (VisitorChanged, AreaChanged, LineCrossed)

    def __init__(self, config: VisitorsConfig) -> None:
        self._rules = config.visitors
        self._areas = config.areas
        self._timezone = zoneinfo.ZoneInfo(config.timezone)
        doors = [*config.visitors.entrances, *(door for area in config.areas for door in area.doors)]
        self._doors = {(door.camera, door.line) for door in doors}
        self._site = SiteVisitState()

    def partition_keys(self, event: WorkerEvent) -> tuple[str, ...]:
        return (SITE_PARTITION,)

    def handle(self, event: WorkerEvent, partition: str = "") -> Iterator[Struct]:
        """Process one event; yield VisitorNotice and TailgatingSuspected."""
        site = self._site
        if isinstance(event, AreaChanged):
            site.cameras.set_counted(event)
        elif isinstance(event, LineCrossed):
            if (event.camera, event.line) in self._doors:
                yield from site.cameras.record_crossing(event, self._areas, self._rules)
        elif isinstance(event, VisitorChanged):
            yield from self._apply_change(event)

    def _apply_change(self, event: VisitorChanged) -> Iterator[Struct]:
        before = self._site.visits.get(event.visit)
        if before is not None and before.version >= event.version:
            return
        if event.state not in LIVE_STATES:
            self._site.visits.pop(event.visit, None)
            return
        moved = before is None or before.state != event.state
        later = before is None or before.expected_until != event.expected_until
        self._site.visits[event.visit] = OpenVisit(
            visit=event.visit,
            person=event.person,
            version=event.version,
            state=msgspec.convert(event.state, VisitState),
            expected_from=event.expected_from,
            expected_until=event.expected_until,
            area=event.area,
            since=event.ts if before is None or moved else before.since,
            reminded=not later and before is not None and before.reminded,
        )
        if event.state == "checked_in" and moved:
            self._site.cameras.add_check_in(event.ts)
        if event.state in ("arrived", "checked_in") and event.previous not in ("arrived", "checked_in"):
            yield build_notice(event.visit, "arrived", event.ts, event.version)

    def advance_time(self, partition: str, now: float) -> Iterable[Struct]:
        """Run what is due: no-shows, reminders, overstays, night check-out, comparison with cameras, expiry."""
        effects: list[Struct] = []
        for visit in list(self._site.visits.values()):
            if visit.asked < visit.version:
                effects += self._check_visit(visit, now)
        effects += self._site.cameras.compare(self._count_expected(), self._rules, now)
        if now - self._site.expired_at >= EXPIRY_INTERVAL_S:
            self._site.expired_at = now
            listed = self._rules.watch_list_days
            effects.append(
                ExpireVisits(now - self._rules.retention_days * 86_400, now - listed * 86_400 if listed else 0.0)
            )
        return effects

    def _check_visit(self, visit: OpenVisit, now: float) -> Iterator[Struct]:
        rules = self._rules
        if visit.state == "invited" and now >= visit.expected_from + rules.no_show_after_s:
            yield self._build_update(visit, "no_show", now, {}, "no_show")
        elif visit.state in ("arrived", *ON_SITE_STATES) and visit.since < self._get_last_check_out(now):
            # Includes people who arrived and were not let in: their visit would never end otherwise.
            yield self._build_update(visit, "checked_out", now, {"checked_out_at": now, "auto_checked_out": True}, None)
        elif visit.state in ("checked_in", "on_site") and now >= visit.expected_until + rules.overstay_grace_s:
            yield self._build_update(visit, "overstayed", now, {}, "overstayed")
        elif (
            visit.state in ("checked_in", "on_site")
            and rules.reminder_before_s
            and not visit.reminded
            and now >= visit.expected_until - rules.reminder_before_s
        ):
            visit.reminded = True
            yield build_notice(visit.visit, "sign_out_reminder", now, visit.version)

    def _get_last_check_out(self, now: float) -> float:
        """Return when the night check-out was last due, Unix seconds."""
        local = datetime.fromtimestamp(now, self._timezone)
        hour, minute = (int(part) for part in self._rules.night_check_out.split(":"))
        due = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return (due if due <= local else due - timedelta(days=1)).timestamp()

    def _build_update(
        self, visit: OpenVisit, state: VisitState, now: float, fields: dict[str, Any], notice: Any
    ) -> VisitUpdate:
        visit.asked = visit.version
        version = visit.version + 1
        changed = VisitorChanged(
            id=f"visit:{visit.visit}:{version}",
            camera="",
            ts=now,
            visit=visit.visit,
            person=visit.person,
            state=state,
            previous=visit.state,
            version=version,
            expected_from=visit.expected_from,
            expected_until=visit.expected_until,
            area=visit.area,
            auto=1 if fields.get("auto_checked_out") else 0,
        )
        events: list[Event] = [changed]
        if notice:
            events.append(build_notice(visit.visit, notice, now, version))
        return VisitUpdate(
            visit=visit.visit,
            expected_version=visit.version,
            fields={"state": state, "version": version, **fields},
            expected_from=visit.expected_from,
            is_live=state in LIVE_STATES,
            events=events,
        )

    def _count_expected(self) -> dict[str, int]:
        """Return area -> checked-in visitors and staff, for areas with a baseline."""
        people = dict(self._rules.staff_baseline)
        for visit in self._site.visits.values():
            if visit.state in ON_SITE_STATES and visit.area in people:
                people[visit.area] += 1
        return people

    def dump_state(self, partition: str) -> bytes:
        return msgspec.msgpack.encode(self._site)

    def restore(self, partition: str, state: bytes) -> None:
        self._site = decode_state(state, SiteVisitState, VERSION)
        self._site.cameras.forget_removed(self._areas)

    def rebuild(self, partition: str, documents: Sequence[Struct]) -> None:
        """Begin with the visits that are not over, and without a comparison with the cameras."""
        self._site = SiteVisitState(
            visits={
                visit.id: OpenVisit(
                    visit=visit.id,
                    person=visit.person,
                    version=visit.version,
                    state=visit.state,
                    expected_from=visit.expected_from,
                    expected_until=visit.expected_until,
                    area=visit.area,
                    since=visit.checked_in_at or visit.arrived_at or visit.created_at,
                )
                for visit in documents
                if isinstance(visit, lifecycle.Visit)
            }
        )

    def clear(self) -> None:
        self._site = SiteVisitState()


def main(config: VisitorsConfig, runtime: ProcessRuntime) -> None:
    """Run until a stop is requested."""
    client = connect(config.redis_url)
    prefix = config.key_prefix
    now = RuleClock(client, prefix).now

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, VisitUpdate):
            visit_store.stage_update(pipe, effect, prefix=prefix)
        elif isinstance(effect, ExpireVisits):
            # A name that is removed cannot be restored, so a clock that jumps ahead is not believed at once.
            keys, lead = visit_store.VisitKeys(prefix), read_clock_lead(client, now(), prefix)
            keys.stage_expiry(pipe, effect.before - lead)
            if effect.watch_list_before:
                keys.stage_forget(pipe, effect.watch_list_before - lead)

    def load() -> list[lifecycle.Visit]:
        return visit_store.load_live(client, prefix)

    waiting = [config.visitors.demo and config.instance == 0]

    def seed_once(_consumer: ShardedConsumer) -> None:
        if waiting[0]:
            seed_demo_visits(client, time.time(), prefix)
            waiting[0] = False

    logic = VisitorLogic(config)
    run_worker(WORKER, logic, config, runtime, client, stage, after_step=seed_once, load_documents=load, now=now)


def seed_demo_visits(client: Any, now: float, prefix: str = "") -> int:
    """Store the visitors of the demo site, provided that there has never been a visit.

    Args:
        client: Redis client.
        now: Unix seconds.
        prefix: prefix of every key.

    Returns:
        Number of stored visits.
    """
    if client.exists(visit_store.VisitKeys(prefix).index):
        return 0
    rows = lifecycle.build_demo_visits(now)
    with client.pipeline(transaction=True) as pipe:
        for person, visit in rows:
            visit_store.stage_new(pipe, visit, person, lifecycle.build_event(None, visit, now, "demo"), [], prefix)
        pipe.execute()
    return len(rows)
