"""Alerts and the answers of users: one hash per alert, indexed by the time it was raised.

The notify worker writes the document and opens or closes the alert. Users acknowledge and close it on the web. Lua
scripts make each change atomic, so neither side overwrites the other.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AlertChanged
from crowdperf.messaging.streams import AUDIT, EVENTS, stream_key
from crowdperf.settings.alerts import Severity
from crowdperf.storage.documents import DocumentStore

AlertState = Literal["open", "acknowledged", "closed"]
RETENTION_S = 90 * 86_400

ANSWER_SCRIPT = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state == ARGV[1] or state == 'closed' then return state end
redis.call('HSET', KEYS[1], 'state', ARGV[1], ARGV[1] .. '_by', ARGV[2], ARGV[1] .. '_at', ARGV[3])
redis.call('XADD', KEYS[2], '*', unpack(cjson.decode(ARGV[4])))
redis.call('XADD', KEYS[3], '*', unpack(cjson.decode(ARGV[5])))
return 'done'
"""


class AlertDoc(Struct, frozen=True, kw_only=True):
    """The content of an alert. The worker rewrites it whole on every change."""

    id: str
    rule: str
    severity: Severity
    camera: str
    subject: str
    title: str
    detail: str
    event: str
    """Id of the event that raised the alert."""
    raised_at: float
    """Unix seconds."""
    last_at: float
    count: int
    """How often the same thing happened while the alert was open."""
    escalated: int = 0
    """The newest escalation step; 0 for none."""


class AlertView(Struct, frozen=True, kw_only=True):
    """An alert with its state and the users who answered."""

    alert: AlertDoc
    state: AlertState
    acknowledged_by: str = ""
    acknowledged_at: float = 0.0
    closed_by: str = ""
    closed_at: float = 0.0


class AlertUpdate(Struct, frozen=True):
    """A change by the worker: the document and, where `state` is given, the new state."""

    alert: AlertDoc
    state: AlertState | None = None
    at: float = 0.0


DOCUMENTS = DocumentStore(
    name="alert",
    doc=AlertDoc,
    view=AlertView,
    at=lambda alert: alert.raised_at,
    key_head="crowdperf:alert:",
    index_key="crowdperf:alerts",
    kept_s=RETENTION_S,
)
alert_key, index_key, load, load_newest = DOCUMENTS.key, DOCUMENTS.index, DOCUMENTS.load, DOCUMENTS.load_newest


def stage(pipe: Any, change: AlertUpdate, prefix: str = "") -> None:
    """Write the worker's change in its transaction.

    Args:
        pipe: Redis pipeline of the transaction.
        change: document and new state.
        prefix: prefix of every key.
    """
    name = DOCUMENTS.stage(pipe, change.alert, prefix)
    if change.state == "closed":
        pipe.hset(name, mapping={"state": "closed", "closed_by": "", "closed_at": change.at})
    elif change.state is not None:
        pipe.hset(name, "state", change.state)


async def answer_alert(
    client: Any,
    view: AlertView,
    state: Literal["acknowledged", "closed"],
    by: str,
    now: float,
    audit_entry: bytes,
    prefix: str = "",
) -> str:
    """Store a user's answer with its event and its audit entry in one step.

    Args:
        client: redis.asyncio client.
        view: the alert as it was read.
        state: the state that the user asks for.
        by: name of the user.
        now: Unix seconds.
        audit_entry: fields of the audit entry, a JSON list.
        prefix: prefix of every key.

    Returns:
        `done`, `missing`, or the present state where it forbids the change.
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
    fields = msgspec.json.encode([str(part) for pair in codec.encode(EVENTS, event).items() for part in pair])
    keys = (alert_key(alert.id, prefix), stream_key(EVENTS, prefix=prefix), stream_key(AUDIT, prefix=prefix))
    reply = await client.eval(ANSWER_SCRIPT, 3, *keys, state, by, repr(now), fields, audit_entry)
    return str(reply.decode())
