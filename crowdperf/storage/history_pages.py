"""The whole history of crossings, a page at a time, for those who copy it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from crowdperf.storage.crossings import LOGS, CrossingRecord, decode_member

HISTORY_PAGE_MEMBERS = 2000


def iter_history_pages(client: Any, prefix: str = "") -> Iterator[list[CrossingRecord]]:
    """Every crossing at least once, in bounded memory; oldest first within each log.

    What is added meanwhile may or may not be among them.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    for name in LOGS:
        low, skip = "-inf", 0
        while True:
            rows = client.zrangebyscore(
                prefix + name, low, "+inf", start=skip, num=HISTORY_PAGE_MEMBERS, withscores=True
            )
            page = [crossing for raw, _ in rows if (crossing := _decode_or_none(raw)) is not None]
            if page:
                yield page
            if len(rows) < HISTORY_PAGE_MEMBERS:
                break
            # Behind the members of the last moment that were read: a growing offset would walk from the beginning.
            last = repr(float(rows[-1][1]))
            read = sum(1 for _, score in rows if repr(float(score)) == last)
            low, skip = last, read + (skip if low == last else 0)


def _decode_or_none(raw: bytes) -> CrossingRecord | None:
    try:
        return decode_member(raw)
    except msgspec.DecodeError:
        return None
