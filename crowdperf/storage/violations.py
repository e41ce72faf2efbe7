"""PPE violations with their reviews, and compliance per zone and hour."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from msgspec import Struct

from crowdperf.messaging.streams import AUDIT, stream_key
from crowdperf.settings.ppe import Item
from crowdperf.storage.documents import DocumentStore

Review = Literal["open", "acknowledged", "dismissed"]
Outcome = Literal["worn", "missing", "unsure"]
RETENTION_S = 365 * 86_400
HOUR_S = 3600

JUDGE_SCRIPT = """
local review = redis.call('HGET', KEYS[1], 'review')
if not review then return 'missing' end
if review == ARGV[1] then return review end
if review ~= 'open' then redis.call('HINCRBY', KEYS[2], ARGV[5] .. review, -1) end
redis.call('HINCRBY', KEYS[2], ARGV[5] .. ARGV[1], 1)
redis.call('HSET', KEYS[1], 'review', ARGV[1], 'by', ARGV[2], 'at', ARGV[3], 'note', ARGV[4])
redis.call('XADD', KEYS[3], '*', unpack(cjson.decode(ARGV[6])))
return 'done'
"""
CLEAR_NOTE_SCRIPT = "if redis.call('HEXISTS', KEYS[1], 'note') == 1 then redis.call('HSET', KEYS[1], 'note', '') end"
NOTES_PER_READ = 500


class Violation(Struct, frozen=True, kw_only=True):
    """The worker's record of a violation, rewritten whole on every change."""

    id: str
    rule: str
    camera: str
    zone: str
    track: int
    items: list[str]
    """Missing items."""
    first_seen: float
    last_seen: float
    """Unix seconds."""
    frames: int
    """Number of observations of the person."""
    votes: str
    """The newest votes per item, positive for missing."""
    ongoing: bool
    cause: str
    """Why it ended: complied, left (the zone) or gone (no longer seen)."""


class ViolationView(Struct, frozen=True, kw_only=True):
    """A violation with its review."""

    violation: Violation
    review: Review
    by: str = ""
    at: float = 0.0
    note: str = ""


class ViolationUpdate(Struct, frozen=True):
    """A change by the worker; `new` opens the review."""

    violation: Violation
    new: bool


class Compliance(Struct, frozen=True, kw_only=True):
    """The outcome for one person and one item, after enough time in a rule's zone."""

    camera: str
    zone: str
    item: Item
    outcome: Outcome
    hour: int
    """Hours since 1970, UTC."""


class ComplianceRow(Struct, frozen=True, kw_only=True):
    """Compliance of one zone, item and hour."""

    hour: float
    """Start of the hour, Unix seconds."""
    camera: str
    zone: str
    item: str
    worn: int = 0
    missing: int = 0
    unsure: int = 0


DOCUMENTS = DocumentStore(
    name="violation",
    doc=Violation,
    view=ViolationView,
    at=lambda violation: violation.first_seen,
    key_head="crowdperf:ppe:violation:",
    index_key="crowdperf:ppe:violations",
    kept_s=RETENTION_S,
)
violation_key, index_key, load, load_newest = DOCUMENTS.key, DOCUMENTS.index, DOCUMENTS.load, DOCUMENTS.load_newest


def review_counts_key(prefix: str = "") -> str:
    """Return the key of a hash: `<camera>/<rule>/<review>` -> number of violations."""
    return f"{prefix}crowdperf:ppe:judged"


def hour_key(hour: int, prefix: str = "") -> str:
    """Return the key of a hash of one hour: `<camera>/<zone>/<item>/<outcome>` -> number of people."""
    return f"{prefix}crowdperf:ppe:hour:{hour}"


def stage(pipe: Any, change: ViolationUpdate, prefix: str = "") -> None:
    """Write the worker's change in its transaction.

    Args:
        pipe: Redis pipeline of the transaction.
        change: the violation, new or changed.
        prefix: prefix of every key.
    """
    pipe.hsetnx(DOCUMENTS.stage(pipe, change.violation, prefix), "review", "open")


def stage_compliance(pipe: Any, row: Compliance, prefix: str = "") -> None:
    """Count one outcome in a transaction.

    Args:
        pipe: Redis pipeline of the transaction.
        row: the outcome.
        prefix: prefix of every key.
    """
    name = hour_key(row.hour, prefix)
    pipe.hincrby(name, f"{row.camera}/{row.zone}/{row.item}/{row.outcome}", 1)
    pipe.expire(name, RETENTION_S)


async def judge(
    client: Any,
    row: Violation,
    review: Literal["acknowledged", "dismissed"],
    by: str,
    note: str,
    now: float,
    audit_entry: bytes,
    prefix: str,
) -> str:
    """Store a user's review of a violation with its audit entry in one step.

    Args:
        client: redis.asyncio client.
        row: the violation.
        review: new review.
        by: name of the user.
        note: text of the user.
        now: Unix seconds.
        audit_entry: fields of the audit entry, a JSON list.
        prefix: prefix of every key.

    Returns:
        `done`, `missing`, or the review that the violation has already.
    """
    keys = (violation_key(row.id, prefix), review_counts_key(prefix), stream_key(AUDIT, prefix=prefix))
    rule = f"{row.camera}/{row.rule}/"
    reply = await client.eval(JUDGE_SCRIPT, 3, *keys, review, by, repr(now), note, rule, audit_entry)
    return str(reply.decode())


async def find_notes(client: Any, admits: Callable[[str], bool], prefix: str = "") -> dict[str, str]:
    """Find notes of reviews.

    Args:
        client: redis.asyncio client.
        admits: returns whether a note belongs to the result.
        prefix: prefix of every key.

    Returns:
        Violation id -> its note.
    """
    ids = [raw.decode() for raw in await client.zrange(index_key(prefix), 0, -1)]
    found: dict[str, str] = {}
    for at in range(0, len(ids), NOTES_PER_READ):
        pipe = client.pipeline(transaction=False)
        for name in ids[at : at + NOTES_PER_READ]:
            pipe.hget(violation_key(name, prefix), "note")
        for name, raw in zip(ids[at : at + NOTES_PER_READ], await pipe.execute()):
            if raw and admits(raw.decode()):
                found[name] = raw.decode()
    return found


async def clear_notes(client: Any, ids: Iterable[str], prefix: str = "") -> None:
    """Clear the notes of reviews.

    Args:
        client: redis.asyncio client.
        ids: ids of the violations.
        prefix: prefix of every key.
    """
    pipe = client.pipeline()
    for name in ids:
        pipe.eval(CLEAR_NOTE_SCRIPT, 1, violation_key(name, prefix))
    await pipe.execute()


async def read_compliance(client: Any, start: float, end: float, prefix: str = "") -> list[ComplianceRow]:
    """Read the hours that start in [start, end).

    Args:
        client: redis.asyncio client.
        start: Unix seconds, included.
        end: Unix seconds, excluded.
        prefix: prefix of every key.

    Returns:
        One row per hour, camera, zone and item, in this order.
    """
    hours = range(int(-(-start // HOUR_S)), int(-(-end // HOUR_S)))
    pipe = client.pipeline(transaction=False)
    for hour in hours:
        pipe.hgetall(hour_key(hour, prefix))
    rows: dict[tuple[int, str, str, str], dict[str, int]] = {}
    for hour, fields in zip(hours, await pipe.execute()):
        for name, number in fields.items():
            camera, zone, item, outcome = name.decode().split("/")
            rows.setdefault((hour, camera, zone, item), {})[outcome] = int(number)
    return [
        ComplianceRow(hour=hour * HOUR_S, camera=camera, zone=zone, item=item, **numbers)
        for (hour, camera, zone, item), numbers in sorted(rows.items())
    ]


async def read_review_counts(client: Any, prefix: str = "") -> dict[str, dict[str, int]]:
    """Return `<camera>/<rule>` -> review -> number of violations."""
    found: dict[str, dict[str, int]] = {}
    for name, number in (await client.hgetall(review_counts_key(prefix))).items():
        rule, _, review = name.decode().rpartition("/")
        found.setdefault(rule, {})[review] = int(number)
    return found
