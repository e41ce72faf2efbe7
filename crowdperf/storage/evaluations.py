"""The newest evaluation of each line: its accuracy on a clip with known crossings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.storage.documents import decode_or_none


class Estimate(Struct, frozen=True):
    """A measured share, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class CountAccuracy(Struct, frozen=True, kw_only=True):
    """Counted crossings matched one to one with true ones; None where there was nothing to measure."""

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
    """The evaluation of one line of one camera."""

    camera: str
    line: str
    at: float
    """Unix seconds of the evaluation."""
    clip: str
    clip_s: float
    model: str
    within_s: float
    """Maximum distance in seconds between a counted crossing and its true one."""
    fingerprint: str
    """Fingerprint of the line's settings (`settings.fingerprint`). Other settings make the evaluation stale."""
    total: CountAccuracy
    directions: dict[str, CountAccuracy]


def evaluations_key(camera: str, prefix: str = "") -> str:
    """Return the key of a hash: line id -> its newest evaluation as JSON."""
    return f"{prefix}crowdperf:audit:{camera}"


def stage_evaluations(pipe: Any, evaluations: Iterable[LineEvaluation], prefix: str = "") -> None:
    """Replace the stored evaluation of each line.

    Args:
        pipe: Redis pipeline of the transaction.
        evaluations: one per line.
        prefix: prefix of every key.
    """
    for row in evaluations:
        pipe.hset(evaluations_key(row.camera, prefix), row.line, msgspec.json.encode(row))


async def read_evaluations(client: Any, camera: str, prefix: str = "") -> dict[str, LineEvaluation]:
    """Read the evaluations of one camera. Entries of another form are skipped.

    Args:
        client: redis.asyncio client.
        camera: camera id.
        prefix: prefix of every key.

    Returns:
        Line id -> its newest evaluation.
    """
    rows = (await client.hgetall(evaluations_key(camera, prefix))).values()
    evaluations = [row for raw in rows if (row := decode_or_none(raw, LineEvaluation)) is not None]
    return {row.line: row for row in evaluations}
