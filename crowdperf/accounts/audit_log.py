"""The audit log: a Redis stream of who changed what and when. Its entries are never edited."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AuditEntry
from crowdperf.messaging.streams import AUDIT, stream_key

MAX_PAGES = 20
ENTRIES_PER_PAGE = 500
"""Entries per read; one request reads 10,000 at most."""
MAX_REFUSALS = 60
"""Refused requests a minute with an entry of their own. More would push other entries out of the stream."""


class RefusalCounter:
    """Limit the entries of refused requests in all, and count the requests that are left out.

    Attributes:
        left_out_count: Refused requests without an entry since `start_minute`.
    """

    def __init__(self) -> None:
        self._written_count = self.left_out_count = 0

    @property
    def is_full(self) -> bool:
        """Return whether this minute has as many entries as it may have."""
        return self._written_count >= MAX_REFUSALS

    def admit(self) -> bool:
        """Count a refused request; return whether it gets an entry."""
        if self.is_full:
            self.left_out_count += 1
            return False
        self._written_count += 1
        return True

    def start_minute(self) -> int:
        """Begin the next minute; return how many requests were left out before."""
        left_out, self._written_count, self.left_out_count = self.left_out_count, 0, 0
        return left_out


def stage_entry(pipe: Any, entry: AuditEntry, prefix: str = "") -> None:
    """Add the entry to a transaction, so that every change has one.

    Args:
        pipe: Redis pipeline of the change.
        entry: Entry to add.
        prefix: Key prefix of the site.
    """
    pipe.xadd(stream_key(AUDIT, prefix=prefix), codec.encode(AUDIT, entry), maxlen=AUDIT.max_entries, approximate=True)


def encode_entry(entry: AuditEntry) -> bytes:
    """Encode the fields of an entry as a JSON list, for a Lua script that adds it with its change."""
    return msgspec.json.encode([str(part) for pair in codec.encode(AUDIT, entry).items() for part in pair])


async def read_newest_entries(
    client: Any,
    before: str | None,
    max_entries: int,
    prefix: str = "",
    *,
    account_name: str = "",
    actions: Collection[str] = (),
) -> tuple[list[tuple[str, AuditEntry]], str | None]:
    """Read entries, newest first.

    Args:
        client: Redis client.
        before: Read entries older than this stream id only.
        max_entries: Length of a page.
        prefix: Key prefix of the site.
        account_name: Return this account's entries only.
        actions: Return entries of these actions only; empty admits all.

    Returns:
        (stream id, entry) rows, and the id to continue after; None at the end.
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
