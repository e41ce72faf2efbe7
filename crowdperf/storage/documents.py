"""Documents in Redis: one hash each, indexed by a timestamp.

A worker rewrites the field `doc` (JSON) whole on every change. The other fields are the state and the answers of users.
Lua scripts change them atomically, so neither side overwrites the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

CHUNK_DOCUMENTS = 200
"""Documents per round trip."""


class HasId(Protocol):
    """Any document with an id."""

    @property
    def id(self) -> str:
        """Return the unique id."""


D = TypeVar("D", bound=HasId)
V = TypeVar("V", bound=Struct)
S = TypeVar("S", bound=Struct)


def decode_or_none(raw: bytes, kind: type[S]) -> S | None:
    """Decode JSON; return None for another form."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.DecodeError:
        return None


class DocumentStore(Struct, Generic[D, V], frozen=True, kw_only=True):
    """All documents of one kind."""

    name: str
    """Field of `view` that holds the document."""
    doc: type[D]
    """Struct that the worker writes."""
    view: type[V]
    """Struct of the document with its state and answers."""
    at: Callable[[D], float]
    """Returns the timestamp of a document, Unix seconds."""
    key_head: str
    """Head of the hash keys; the document id follows."""
    index_key: str
    """Key of the sorted set of ids, scored by timestamp."""
    kept_s: int
    """Retention in seconds, from the last change and from the timestamp."""

    def key(self, document: str, prefix: str = "") -> str:
        """Return the key of one document's hash."""
        return f"{prefix}{self.key_head}{document}"

    def index(self, prefix: str = "") -> str:
        """Return the key of the index."""
        return prefix + self.index_key

    def stage(self, pipe: Any, document: D, prefix: str = "") -> str:
        """Write a document in the worker's transaction.

        Args:
            pipe: Redis pipeline of the transaction.
            document: the document to write.
            prefix: prefix of every key.

        Returns:
            The key of the hash, for its other fields.
        """
        name, index, at = self.key(document.id, prefix), self.index(prefix), self.at(document)
        pipe.hset(name, "doc", msgspec.json.encode(document))
        pipe.expire(name, self.kept_s)
        pipe.zadd(index, {document.id: at})
        pipe.zremrangebyscore(index, "-inf", at - self.kept_s)
        return name

    def iter_views(self, client: Any, prefix: str = "") -> Iterator[V]:
        """Iterate over all documents, newest first; `client` is a blocking one."""
        for offset in itertools.count(0, CHUNK_DOCUMENTS):
            ids = client.zrevrange(self.index(prefix), offset, offset + CHUNK_DOCUMENTS - 1)
            pipe = client.pipeline(transaction=False)
            for name in ids:
                pipe.hgetall(self.key(name.decode(), prefix))
            yield from (view for fields in pipe.execute() if (view := self._decode(fields)) is not None)
            if len(ids) < CHUNK_DOCUMENTS:
                return

    async def load(self, client: Any, document: str, prefix: str = "") -> V | None:
        """Load one document.

        Args:
            client: redis.asyncio client.
            document: id of the document.
            prefix: prefix of every key.

        Returns:
            The view, or None where there is no such document.
        """
        return self._decode(await client.hgetall(self.key(document, prefix)))

    async def load_newest(
        self, client: Any, before: float, limit: int, admits: Callable[[V], bool] = lambda view: True, prefix: str = ""
    ) -> list[V]:
        """Load one page of documents, newest first.

        Args:
            client: redis.asyncio client.
            before: only documents older than this, Unix seconds.
            limit: page size. Documents of the same millisecond as the last one follow even beyond it: the next page
                could not start among them.
            admits: returns whether a view belongs to the result.
            prefix: prefix of every key.

        Returns:
            The views, newest first.
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
        """Compare two timestamps at the precision that users see: microseconds, cut to milliseconds."""
        first, second = (int(self.at(getattr(each, self.name)) * 1000 + 0.0005) for each in (view, other))
        return first == second

    def _reaches_past(self, found: list[V], limit: int) -> bool:
        """Return whether `found` is certain to hold a whole page."""
        return len(found) > limit and not self._is_same_millisecond(found[-1], found[limit - 1])

    def _decode(self, fields: dict[bytes, bytes]) -> V | None:
        """Decode a hash; return None for an empty or foreign one."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        try:
            document = msgspec.json.decode(text.pop("doc"), type=self.doc)
            return msgspec.convert({**text, self.name: document}, self.view, strict=False)
        except (KeyError, msgspec.MsgspecError):
            return None
