"""How messages look in Redis: packed Structs as one msgpack field `d`, events as readable maps."""

from __future__ import annotations

from typing import Any

import msgspec

from crowdperf.events.streams import Stream

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
