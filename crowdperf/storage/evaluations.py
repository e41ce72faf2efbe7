"""The last audit of each line: how well it counts, by a clip whose true crossings are known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct


class Estimate(Struct, frozen=True):
    """A measured share, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class CountAccuracy(Struct, frozen=True, kw_only=True):
    """Counted against true crossings, matched one to one. An estimate is None where nothing was there to measure."""

    true: int
    counted: int
    matched: int
    precision: Estimate | None
    """Share of the counted crossings that are true."""
    recall: Estimate | None
    """Share of the true crossings that were counted."""
    count_error: Estimate | None
    """(counted - true) / true."""


class LineEvaluation(Struct, frozen=True, kw_only=True):
    """One line of one camera."""

    camera: str
    line: str
    at: float
    """Unix seconds of the audit."""
    clip: str
    clip_s: float
    model: str
    within_s: float
    """How far a counted crossing may be from the true one, seconds."""
    fingerprint: str
    """Of the line's settings (`settings.fingerprint`): with other ones the audit says nothing."""
    total: CountAccuracy
    directions: dict[str, CountAccuracy]


def evaluations_key(camera: str, prefix: str = "") -> str:
    """A hash: line id -> its last audit, as JSON."""
    return f"{prefix}crowdperf:audit:{camera}"


def stage_evaluations(pipe: Any, evaluations: Iterable[LineEvaluation], prefix: str = "") -> None:
    """Keep each audit in the place of its line's last one."""
    for audit in evaluations:
        pipe.hset(evaluations_key(audit.camera, prefix), audit.line, msgspec.json.encode(audit))


async def read_evaluations(client: Any, camera: str, prefix: str = "") -> dict[str, LineEvaluation]:
    """Line id -> its last audit; what is not one, or of another form, is passed over.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    rows = (await client.hgetall(evaluations_key(camera, prefix))).values()
    audits = [audit for audit in map(_decode_or_none, rows) if audit is not None]
    return {audit.line: audit for audit in audits}


def _decode_or_none(raw: bytes) -> LineEvaluation | None:
    try:
        return msgspec.json.decode(raw, type=LineEvaluation)
    except msgspec.DecodeError:
        return None
