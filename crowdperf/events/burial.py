"""How a message becomes a dead letter: as it was, with the reason and where it came from."""

from __future__ import annotations

from typing import Any

BOUND = 10_000
"""Dead letters kept per consumer; the oldest go."""


def dead_key(stream: str, consumer: str, prefix: str = "") -> str:
    """Where the dead letters of a consumer are kept."""
    return f"{prefix}crowdperf:dead:{stream}:{consumer}"


def stage_burial(pipe: Any, dead: str, fields: dict[bytes, bytes], entry_id: bytes, stream: str, why: str) -> None:
    """Add a message to the dead letters `dead` inside the transaction that acknowledges it."""
    pipe.xadd(dead, {**fields, b"_why": why, b"_id": entry_id, b"_from": stream}, maxlen=BOUND, approximate=True)


def meant_for(fields: dict[bytes, bytes], group: str) -> bool:
    """Whether a stream's entry is for this consumer: every entry is, but a dead letter that another one drove again."""
    return fields.get(b"_for", group.encode()) == group.encode()
