"""How a message becomes a dead letter: as it was, with the reason and where it came from."""

from __future__ import annotations

from typing import Any

MAX_DEAD_LETTERS = 10_000
"""Dead letters kept per consumer; the oldest go."""


def dead_key(stream: str, consumer: str, prefix: str = "") -> str:
    """Where the dead letters of a consumer are kept."""
    return f"{prefix}crowdperf:dead:{stream}:{consumer}"


def stage_dead_letter(
    pipe: Any, destination: str, fields: dict[bytes, bytes], entry_id: bytes, stream: str, reason: str
) -> None:
    """Add a message to the dead letters `dead` inside the transaction that acknowledges it."""
    pipe.xadd(
        destination,
        {**fields, b"_why": reason, b"_id": entry_id, b"_from": stream},
        maxlen=MAX_DEAD_LETTERS,
        approximate=True,
    )


def is_addressed_to(fields: dict[bytes, bytes], group: str) -> bool:
    """Whether a stream's entry is for this consumer: every entry is, but a dead letter that another one drove again."""
    return fields.get(b"_for", group.encode()) == group.encode()
