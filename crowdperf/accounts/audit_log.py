"""The audit log: who changed what and when, a Redis stream that nothing in the system ever edits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AuditEntry
from crowdperf.messaging.streams import AUDIT, stream_key

MAX_PAGES = 20
ENTRIES_PER_PAGE = 500
"""Entries read at once; one request looks at 10,000 at most."""


def stage_entry(pipe: Any, entry: AuditEntry, prefix: str = "") -> None:
    """Add the entry inside a transaction, so that no change is without one."""
    pipe.xadd(stream_key(AUDIT, prefix=prefix), codec.encode(AUDIT, entry), maxlen=AUDIT.max_entries, approximate=True)


async def read_newest_entries(
    client: Any,
    before: str | None,
    max_entries: int,
    prefix: str = "",
    *,
    account_name: str = "",
    actions: Collection[str] = (),
) -> tuple[list[tuple[str, AuditEntry]], str | None]:
    """Entries with their stream ids, newest first, and the id to go on behind; None at the end.

    Args:
        before: only entries older than this stream id.
        who: only this account's.
        actions: only of these actions; empty admits all.
    """
    page: list[tuple[str, AuditEntry]] = []
    high = f"({before}" if before else "+"
    for _ in range(MAX_PAGES):
        rows = await client.xrevrange(stream_key(AUDIT, prefix=prefix), high, "-", count=ENTRIES_PER_PAGE)
        for raw_id, fields in rows:
            try:
                entry = codec.decode(AUDIT, fields)
            except codec.PoisonError:
                continue
            if (not account_name or entry.who == account_name) and (not actions or entry.action in actions):
                page.append((raw_id.decode(), entry))
                if len(page) == max_entries:
                    return page, raw_id.decode()
        if len(rows) < ENTRIES_PER_PAGE:
            return page, None
        high = f"({rows[-1][0].decode()}"
    return page, high[1:]
