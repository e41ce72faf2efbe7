"""Roll call: who is on site when everybody has to leave, and who was found safe. Several devices mark at once.

Each person is a field of one Redis hash, so that two devices which mark different people never meet, and two which mark
the same one agree on who came last. Every mark is an event, which all devices hear at once.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.events import wire
from crowdperf.events.schema import AuditEntry, RollCallChanged
from crowdperf.events.streams import AUDIT, EVENTS, key
from crowdperf.visitors.model import ON_SITE, Person, Visit

KEPT_S = 365 * 86_400
MARK = """
local raw = redis.call('HGET', KEYS[1], ARGV[1])
if not raw or redis.call('HGET', KEYS[1], 'ended') then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], '*', unpack(cjson.decode(ARGV[3])))
return 1
"""


class Mark(Struct, frozen=True, kw_only=True):
    """One person of a roll call."""

    visit: str
    name: str
    company: str
    host: str
    area: str
    seen_at: float
    """When the area was last confirmed."""
    state: Literal["missing", "safe"] = "missing"
    by: str = ""
    at: float = 0.0


class RollCall(Struct, frozen=True, kw_only=True):
    """One evacuation, or drill."""

    id: str
    drill: bool
    started_at: float
    started_by: str
    ended_at: float = 0.0
    ended_by: str = ""
    marks: list[Mark] = []


def begin(rows: Iterable[tuple[Visit, Person | None]]) -> list[Mark]:
    """Everybody who is on site, by area and name."""
    marks = [
        Mark(
            visit=visit.id,
            name=person.name if person else visit.id,
            company=person.company if person else "",
            host=visit.host,
            area=visit.area,
            seen_at=visit.seen_at,
        )
        for visit, person in rows
        if visit.state in ON_SITE
    ]
    return sorted(marks, key=lambda mark: (mark.area, mark.name))


def report_csv(call: RollCall, clock: Callable[[float], str]) -> str:
    """The report as CSV. A cell that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["area", "name", "company", "host", "last confirmed", "state", "by", "at"])
    for mark in call.marks:
        cells = [
            mark.area,
            mark.name,
            mark.company,
            mark.host,
            clock(mark.seen_at),
            mark.state,
            mark.by,
            clock(mark.at),
        ]
        rows.writerow([f"'{cell}" if cell[:1] in "=+-@\t\r" and cell else cell for cell in cells])
    return out.getvalue()


def report_html(call: RollCall, site: str, clock: Callable[[float], str]) -> str:
    """The report as a page to print."""
    safe = sum(mark.state == "safe" for mark in call.marks)
    kind = "Drill" if call.drill else "Evacuation"
    lines = [
        f"<tr class='{mark.state}'>"
        + "".join(
            f"<td>{html.escape(cell)}</td>"
            for cell in (
                mark.area,
                mark.name,
                mark.company,
                mark.host,
                clock(mark.seen_at),
                mark.state,
                mark.by,
                clock(mark.at),
            )
        )
        + "</tr>"
        for mark in call.marks
    ]
    head = "".join(
        f"<th>{name}</th>" for name in ("Area", "Name", "Company", "Host", "Last confirmed", "State", "Marked by", "At")
    )
    title = f"{kind} · {html.escape(site)}"
    ended = f"ended {clock(call.ended_at)} by {html.escape(call.ended_by)}" if call.ended_at else "not ended yet"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        "<link rel='stylesheet' href='/style/print.css'>"
        f"<h1>{title}</h1><p>Started {clock(call.started_at)} by {html.escape(call.started_by)}, {ended}.</p>"
        f"<p>{safe} of {len(call.marks)} people safe, {len(call.marks) - safe} missing.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></html>"
    )


class RollCalls:
    """Roll calls in Redis, for the web process.

    Args:
        client: a redis.asyncio client.
        prefix: the configured key prefix.
    """

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def _key(self, call: str) -> str:
        return f"{self._prefix}crowdperf:visitors:roll-call:{call}"

    @property
    def _index(self) -> str:
        return f"{self._prefix}crowdperf:visitors:roll-calls"

    async def start(self, call: RollCall, entry: AuditEntry) -> None:
        """Store a new one."""
        head = msgspec.json.encode(msgspec.structs.replace(call, marks=[]))
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(
                self._key(call.id),
                mapping={"head": head, **{f"m:{m.visit}": msgspec.json.encode(m) for m in call.marks}},
            )
            pipe.expire(self._key(call.id), KEPT_S)
            pipe.zadd(self._index, {call.id: call.started_at})
            pipe.zremrangebyscore(self._index, "-inf", call.started_at - KEPT_S)
            self._say(pipe, _changed(call, "started", call.started_at, call.started_by))
            pipe.xadd(key(AUDIT, prefix=self._prefix), wire.encode(AUDIT, entry))
            await pipe.execute()

    def _say(self, pipe: Any, event: RollCallChanged) -> None:
        pipe.xadd(key(EVENTS, prefix=self._prefix), wire.encode(EVENTS, event))

    async def load(self, call: str) -> RollCall | None:
        """One roll call with everybody's mark."""
        rows = await self._client.hgetall(self._key(call))
        if b"head" not in rows:
            return None
        head = msgspec.json.decode(rows[b"head"], type=RollCall)
        if b"ended" in rows:
            at, by = msgspec.json.decode(rows[b"ended"], type=tuple[float, str])
            head = msgspec.structs.replace(head, ended_at=at, ended_by=by)
        marks = [msgspec.json.decode(raw, type=Mark) for name, raw in rows.items() if name.startswith(b"m:")]
        return msgspec.structs.replace(head, marks=sorted(marks, key=lambda mark: (mark.area, mark.name)))

    async def newest(self, limit: int = 50) -> list[str]:
        """Ids, newest first."""
        return [raw.decode() for raw in await self._client.zrevrange(self._index, 0, limit - 1)]

    async def mark(self, call: RollCall, mark: Mark) -> bool:
        """Store one mark; False when the roll call has ended, or knows no such person."""
        event = _changed(call, mark.state, mark.at, mark.by, mark.visit)
        said = [str(part) for pair in wire.encode(EVENTS, event).items() for part in pair]
        keys = (self._key(call.id), key(EVENTS, prefix=self._prefix))
        arguments = (f"m:{mark.visit}", msgspec.json.encode(mark), msgspec.json.encode(said))
        return bool(await self._client.eval(MARK, 2, *keys, *arguments))

    async def end(self, call: RollCall, by: str, now: float, entry: AuditEntry) -> bool:
        """End it; False where it has ended already."""
        if not await self._client.hsetnx(self._key(call.id), "ended", msgspec.json.encode((now, by))):
            return False
        async with self._client.pipeline(transaction=True) as pipe:
            self._say(pipe, _changed(call, "ended", now, by))
            pipe.xadd(key(AUDIT, prefix=self._prefix), wire.encode(AUDIT, entry))
            await pipe.execute()
        return True


def _changed(
    call: RollCall, state: Literal["started", "safe", "missing", "ended"], now: float, by: str, visit: str = ""
) -> RollCallChanged:
    return RollCallChanged(
        id=f"roll-call:{call.id}:{visit}:{state}:{now!r}",
        camera="",
        ts=now,
        roll_call=call.id,
        state=state,
        visit=visit,
        drill=1 if call.drill else 0,
        by=by,
    )
