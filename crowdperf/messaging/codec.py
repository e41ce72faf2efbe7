"""Encode messages as Redis stream entries, and decode them.

Packed Structs travel as one msgpack field `d`, events as readable maps. A dead letter is an entry as it was, with the
reason and its origin added.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from crowdperf.messaging.streams import Stream

Fields = dict[Any, Any]
"""Fields as redis-py accepts them: str or bytes to str, bytes or number."""


MAX_TIME_S = 32_503_680_000.0
"""The year 3000 in Unix seconds. Later times are rejected in messages and in queries."""
FLOAT_COLUMNS = ("boxes", "scores")
"""Packed columns of float32."""


class PoisonError(Exception):
    """A stream entry cannot be decoded; the message gives the reason."""


def encode(stream: Stream, message: msgspec.Struct) -> Fields:
    """Encode `message` as the fields of an entry."""
    if stream.encoding == "packed":
        return {"d": msgspec.msgpack.encode(message)}
    return {name: _to_field(value) for name, value in msgspec.to_builtins(message).items()}


def decode(stream: Stream, fields: dict[bytes, bytes]) -> Any:
    """Decode the message of an entry.

    Raises:
        PoisonError: fields are missing or have another type, or the message has a number that is not finite or a time
            before 1970 or after 2999. No reader could compute with it.
    """
    try:
        if stream.encoding == "packed":
            message = msgspec.msgpack.decode(fields[b"d"], type=stream.message_type)
        else:
            text = {name.decode(): value.decode() for name, value in fields.items()}
            message = msgspec.convert(text, type=stream.message_type, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise PoisonError(f"{stream.name}: {error}") from None
    _check_numbers(stream, message)
    return message


def _check_numbers(stream: Stream, message: msgspec.Struct) -> None:
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise PoisonError(f"{stream.name}: {name} {value!r} is not a finite number")
        if isinstance(value, bytes) and name in FLOAT_COLUMNS and not _is_finite(value):
            raise PoisonError(f"{stream.name}: {name} has a number that is not finite")
        if (name == "ts" and not 0 <= value < MAX_TIME_S) or (
            name == "captured_at_ns" and not 0 <= value < MAX_TIME_S * 1e9
        ):
            raise PoisonError(f"{stream.name}: {name} {value!r} is not a valid time")
        if isinstance(value, msgspec.Struct):
            _check_numbers(stream, value)


def _is_finite(column: bytes) -> bool:
    """Check a column of float32; one of another length is left to its reader."""
    return len(column) % 4 != 0 or bool(np.isfinite(np.frombuffer(column, "<f4")).all())


def decode_or_none(stream: Stream, fields: dict[bytes, bytes]) -> Any:
    """Decode the message of an entry; None for a malformed one, which its consumer reports."""
    try:
        return decode(stream, fields)
    except PoisonError:
        return None


def _to_field(value: object) -> str | float | int:
    """Convert a field's value to readable text; floats keep every digit."""
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else str(value)


MAX_DEAD_LETTERS = 10_000
"""Dead letters kept per consumer; the oldest are removed."""


def dead_key(stream: str, consumer: str, prefix: str = "") -> str:
    """Build the key of a consumer's dead letters.

    Args:
        stream: name of the stream.
        consumer: name of the consumer group.
        prefix: the configured prefix of every key.

    Returns:
        The Redis key.
    """
    return f"{prefix}crowdperf:dead:{stream}:{consumer}"


def stage_dead_letter(
    pipe: Any, destination: str, fields: dict[bytes, bytes], entry_id: bytes, stream: str, reason: str
) -> None:
    """Add a dead letter inside the transaction that acknowledges its entry.

    Args:
        pipe: the transaction.
        destination: key of the dead letters, from `dead_key`.
        fields: the entry's fields.
        entry_id: the entry's stream id.
        stream: key of the stream that it was read from.
        reason: why it cannot be handled.
    """
    pipe.xadd(
        destination,
        {**fields, b"_why": reason, b"_id": entry_id, b"_from": stream},
        maxlen=MAX_DEAD_LETTERS,
        approximate=True,
    )


def is_addressed_to(fields: dict[bytes, bytes], group: str) -> bool:
    """Check whether an entry is for this group; only a redriven dead letter is for one group alone."""
    return fields.get(b"_for", group.encode()) == group.encode()
