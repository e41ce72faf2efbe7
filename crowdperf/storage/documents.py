"""What a worker says and people answer: a hash for each, listed by a moment of theirs.

A worker writes what the document says whole (`doc`, JSON) whenever it changes; the fields beside it are its state and
people's answers, which Lua changes as a whole, so that neither undoes the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

CHUNK_DOCUMENTS = 200
"""Documents that are read at a time."""


class HasId(Protocol):
    """What has an id."""

    @property
    def id(self) -> str:
        """The only one of its kind."""


D = TypeVar("D", bound=HasId)
V = TypeVar("V", bound=Struct)


class DocumentStore(Generic[D, V]):
    """All documents of one kind.

    Args:
        name: the field of `view` that holds the document.
        doc: what the worker says.
        view: the document and what stands beside it.
        at: the document's moment, in Unix seconds.
        key: what the keys of the hashes begin with; the document's id follows.
        index: key of the ids of all, by their moment.
        kept_s: seconds from the last change, and from the moment, until it is gone.
    """

    def __init__(
        self, name: str, doc: type[D], view: type[V], at: Callable[[D], float], key: str, index: str, kept_s: int
    ) -> None:
        self._name = name
        self._doc = doc
        self._view = view
        self._at = at
        self._key = key
        self._index = index
        self._kept_s = kept_s

    def key(self, document: str, prefix: str = "") -> str:
        """The hash of one document."""
        return f"{prefix}{self._key}{document}"

    def index(self, prefix: str = "") -> str:
        """The ids of all, by their moment."""
        return prefix + self._index

    def stage(self, pipe: Any, document: D, prefix: str = "") -> str:
        """Store what the worker says inside its transaction; returns the hash's key, for what stands beside it."""
        name, index, at = self.key(document.id, prefix), self.index(prefix), self._at(document)
        pipe.hset(name, "doc", msgspec.json.encode(document))
        pipe.expire(name, self._kept_s)
        pipe.zadd(index, {document.id: at})
        pipe.zremrangebyscore(index, "-inf", at - self._kept_s)
        return name

    async def load(self, client: Any, document: str, prefix: str = "") -> V | None:
        """One of them, None where there is none of that id."""
        return self._decode(await client.hgetall(self.key(document, prefix)))

    async def load_newest(
        self, client: Any, before: float, limit: int, admits: Callable[[V], bool] = lambda view: True, prefix: str = ""
    ) -> list[V]:
        """The newest from before `before` (Unix seconds) that `admits` accepts, newest first.

        At most `limit`, and those of the same millisecond as the last one: one frame or event may cause several, and a
        page that ended among them could not say where the next begins.
        """
        found: list[V] = []
        offset = 0
        while not self._reaches_past(found, limit):
            ids = await client.zrevrangebyscore(
                self.index(prefix), f"({before!r}", "-inf", start=offset, num=CHUNK_DOCUMENTS
            )
            pipe = client.pipeline(transaction=False)
            for name in ids:
                pipe.hgetall(self.key(name.decode(), prefix))
            views = [self._decode(fields) for fields in await pipe.execute()]
            found += [view for view in views if view is not None and admits(view)]
            offset += CHUNK_DOCUMENTS
            if len(ids) < CHUNK_DOCUMENTS:
                break
        return [
            view
            for place, view in enumerate(found)
            if place < limit or self._is_same_millisecond(view, found[limit - 1])
        ]

    def _is_same_millisecond(self, view: V, other: V) -> bool:
        """Whether both are of one millisecond, of the times rounded to microseconds as people get to see them."""
        first, second = (int(self._at(getattr(each, self._name)) * 1000 + 0.0005) for each in (view, other))
        return first == second

    def _reaches_past(self, found: list[V], limit: int) -> bool:
        """Whether a page of `limit` surely ends within `found`."""
        return len(found) > limit and not self._is_same_millisecond(found[-1], found[limit - 1])

    def _decode(self, fields: dict[bytes, bytes]) -> V | None:
        """The document of a hash; None for an empty one, or one of another form."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        try:
            document = msgspec.json.decode(text.pop("doc"), type=self._doc)
            return msgspec.convert({**text, self._name: document}, self._view, strict=False)
        except (KeyError, msgspec.MsgspecError):
            return None
