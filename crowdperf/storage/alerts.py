"""Alerts as people see and answer them: one hash per alert, listed by the time they were raised.

The notify worker writes what an alert says and opens and closes it; people acknowledge and close it through the web.
Both change the state by commands that Redis runs as a whole, so neither undoes the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.events import wire
from crowdperf.events.schema import AlertChanged
from crowdperf.events.streams import EVENTS, key
from crowdperf.settings.alerts import Severity

State = Literal["open", "acknowledged", "closed"]
KEPT_S = 90 * 86_400
CHUNK = 200
"""Alerts that are read at a time."""

ANSWER = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state == ARGV[1] or state == 'closed' then return state end
redis.call('HSET', KEYS[1], 'state', ARGV[1], ARGV[1] .. '_by', ARGV[2], ARGV[1] .. '_at', ARGV[3])
local fields = {}
for at = 4, #ARGV do fields[#fields + 1] = ARGV[at] end
redis.call('XADD', KEYS[2], '*', unpack(fields))
return 'done'
"""


class AlertDoc(Struct, frozen=True, kw_only=True):
    """What an alert says. The worker writes it whole whenever it changes."""

    id: str
    rule: str
    severity: Severity
    camera: str
    subject: str
    title: str
    detail: str
    event: str
    """Id of the event that raised it."""
    raised_at: float
    """Unix seconds."""
    last_at: float
    count: int
    """How often the same thing has happened while it was open."""
    escalated: int = 0
    """The last step of the escalation that was taken; 0 for none."""


class AlertView(Struct, frozen=True, kw_only=True):
    """An alert with its state and who answered."""

    alert: AlertDoc
    state: State
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0
    closed_by: str = ""
    closed_at: float = 0.0


class AlertSet(Struct, frozen=True):
    """The worker's change of an alert: what it says and, where `state` is given, its state from now on."""

    alert: AlertDoc
    state: State | None = None
    at: float = 0.0


def alert_key(alert: str, prefix: str = "") -> str:
    """The hash of one alert."""
    return f"{prefix}crowdperf:alert:{alert}"


def index_key(prefix: str = "") -> str:
    """The ids of all alerts, by when they were raised."""
    return f"{prefix}crowdperf:alerts"


def stage(pipe: Any, change: AlertSet, prefix: str = "") -> None:
    """Store the worker's change inside its transaction."""
    alert = change.alert
    name = alert_key(alert.id, prefix)
    pipe.hset(name, "doc", msgspec.json.encode(alert))
    if change.state == "closed":
        pipe.hset(name, mapping={"state": "closed", "closed_by": "", "closed_at": change.at})
    elif change.state is not None:
        pipe.hset(name, "state", change.state)
    pipe.expire(name, KEPT_S)
    pipe.zadd(index_key(prefix), {alert.id: alert.raised_at})
    pipe.zremrangebyscore(index_key(prefix), "-inf", alert.raised_at - KEPT_S)


async def answer(
    client: Any, view: AlertView, state: Literal["acknowledged", "closed"], by: str, now: float, prefix: str = ""
) -> str:
    """A person's answer, and its event, at once.

    Args:
        client: a redis.asyncio client.
        view: the alert, as it was read.
        state: what the person wants it to be.
        by: the user's name.
        now: Unix seconds.

    Returns:
        `done`, `missing`, or the state that forbids it: it is there already, or closed.
    """
    alert = view.alert
    event = AlertChanged(
        id=f"{alert.id}:{state}:{now!r}",
        camera=alert.camera,
        ts=now,
        alert=alert.id,
        rule=alert.rule,
        state=state,
        by=by,
    )
    fields = [part for pair in wire.encode(EVENTS, event).items() for part in pair]
    keys = (alert_key(alert.id, prefix), key(EVENTS, prefix=prefix))
    reply = await client.eval(ANSWER, 2, *keys, state, by, repr(now), *fields)
    return str(reply.decode())


async def load(client: Any, alert: str, prefix: str = "") -> AlertView | None:
    """One alert, None where there is none of that id."""
    return view_of(await client.hgetall(alert_key(alert, prefix)))


async def newest(
    client: Any, before: float, limit: int, admits: Callable[[AlertView], bool] = lambda view: True, prefix: str = ""
) -> list[AlertView]:
    """The newest alerts raised before `before` (Unix seconds) that `admits` accepts, newest first.

    At most `limit`, and those of the same millisecond as the last one: one event may raise several, and a page that
    ended among them could not say where the next begins.
    """
    found: list[AlertView] = []
    offset = 0
    while not _reaches_past(found, limit):
        rows = await client.zrevrangebyscore(
            index_key(prefix), f"({before!r}", "-inf", start=offset, num=CHUNK, withscores=True
        )
        pipe = client.pipeline(transaction=False)
        for name, _ in rows:
            pipe.hgetall(alert_key(name.decode(), prefix))
        views = [view_of(fields) for fields in await pipe.execute()]
        found += [view for view in views if view is not None and admits(view)]
        offset += CHUNK
        if len(rows) < CHUNK:
            break
    return [view for place, view in enumerate(found) if place < limit or _moment(view) == _moment(found[limit - 1])]


def _moment(view: AlertView) -> int:
    """The millisecond in which it was raised, of the time rounded to microseconds as people get to see it."""
    return int(view.alert.raised_at * 1000 + 0.0005)


def _reaches_past(found: list[AlertView], limit: int) -> bool:
    """Whether a page of `limit` surely ends within `found`."""
    return len(found) > limit and _moment(found[-1]) != _moment(found[limit - 1])


def view_of(fields: dict[bytes, bytes]) -> AlertView | None:
    """The alert of a hash; None for an empty one, or one of another form."""
    text = {name.decode(): value.decode() for name, value in fields.items()}
    try:
        alert = msgspec.json.decode(text.pop("doc"), type=AlertDoc)
        return msgspec.convert({**text, "alert": alert}, AlertView, strict=False)
    except (KeyError, msgspec.MsgspecError):
        return None
