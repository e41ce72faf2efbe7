"""How messages look in Redis: packed Structs as one msgpack field `d`, events as readable maps.

How a message becomes a dead letter: as it was, with the reason and where it came from.
"""

from __future__ import annotations

from typing import Any

import msgspec

from crowdperf.messaging.streams import Stream

Fields = dict[Any, Any]
"""As redis-py takes and types it: str or bytes to str, bytes or number."""


class PoisonError(Exception):
    """A stream entry that cannot be decoded; the message says why."""


def encode(stream: Stream, message: msgspec.Struct) -> Fields:
    """The fields of the entry for `message`."""
    if stream.encoding == "packed":
        return {"d": msgspec.msgpack.encode(message)}
    return {name: _to_field(value) for name, value in msgspec.to_builtins(message).items()}


def decode(stream: Stream, fields: dict[bytes, bytes]) -> Any:
    """The message of an entry.

    Raises:
        PoisonError: fields are missing or have no such type.
    """
    try:
        if stream.encoding == "packed":
            return msgspec.msgpack.decode(fields[b"d"], type=stream.message_type)
        text = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(text, type=stream.message_type, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise PoisonError(f"{stream.name}: {error}") from None


def _to_field(value: object) -> str | float | int:
    """A field's value as people read it; floats keep every digit."""
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else str(value)


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
