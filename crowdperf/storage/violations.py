"""PPE violations as people judge them, and compliance per zone and hour."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

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
return 'done'
"""


class Violation(Struct, frozen=True, kw_only=True):
    """What the worker knows of a violation; written whole whenever it changes."""

    id: str
    rule: str
    camera: str
    zone: str
    track: int
    items: list[str]
    """What is missing."""
    first_seen: float
    last_seen: float
    """Unix seconds."""
    frames: int
    """Observations of the person so far."""
    votes: str
    """Per item the newest votes, positive for missing."""
    ongoing: bool
    cause: str
    """Why it ended: complied, left (the zone) or gone (not seen any more)."""


class ViolationView(Struct, frozen=True, kw_only=True):
    """A violation and what a person said of it."""

    violation: Violation
    review: Review
    by: str = ""
    at: float = 0.0
    note: str = ""


class ViolationUpdate(Struct, frozen=True):
    """The worker's change; `new` opens its review."""

    violation: Violation
    new: bool


class Compliance(Struct, frozen=True, kw_only=True):
    """One person who was long enough in a rule's zone, and one item."""

    camera: str
    zone: str
    item: Item
    outcome: Outcome
    hour: int
    """Hours since 1970, UTC."""


class ComplianceRow(Struct, frozen=True, kw_only=True):
    """One zone's hour."""

    hour: float
    """Its beginning, Unix seconds."""
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
    key="crowdperf:ppe:violation:",
    index="crowdperf:ppe:violations",
    kept_s=RETENTION_S,
)
violation_key, index_key, load, load_newest = DOCUMENTS.key, DOCUMENTS.index, DOCUMENTS.load, DOCUMENTS.load_newest


def review_counts_key(prefix: str = "") -> str:
    """`<camera>/<rule>/<review>` -> violations."""
    return f"{prefix}crowdperf:ppe:judged"


def hour_key(hour: int, prefix: str = "") -> str:
    """`<camera>/<zone>/<item>/<outcome>` -> people, of one hour."""
    return f"{prefix}crowdperf:ppe:hour:{hour}"


def stage(pipe: Any, change: ViolationUpdate, prefix: str = "") -> None:
    """Store the worker's change inside its transaction."""
    pipe.hsetnx(DOCUMENTS.stage(pipe, change.violation, prefix), "review", "open")


def stage_compliance(pipe: Any, row: Compliance, prefix: str = "") -> None:
    """Count one person inside a transaction."""
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
    prefix: str,
) -> str:
    """A person's judgement; `done`, `missing`, or the judgement that it has already."""
    keys = (violation_key(row.id, prefix), review_counts_key(prefix))
    reply = await client.eval(JUDGE_SCRIPT, 2, *keys, review, by, repr(now), note, f"{row.camera}/{row.rule}/")
    return str(reply.decode())


async def read_compliance(client: Any, start: float, end: float, prefix: str = "") -> list[ComplianceRow]:
    """The hours that begin in [start, end), Unix seconds."""
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
    """`<camera>/<rule>` -> judgement -> violations: how often the rule was right, as people saw it."""
    found: dict[str, dict[str, int]] = {}
    for name, number in (await client.hgetall(review_counts_key(prefix))).items():
        rule, _, review = name.decode().rpartition("/")
        found.setdefault(rule, {})[review] = int(number)
    return found
