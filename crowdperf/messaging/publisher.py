"""Append typed messages to a Redis stream."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
import redis

from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import AnyClient
from crowdperf.messaging.streams import Stream, stream_key

T = TypeVar("T", bound=msgspec.Struct)


class Publisher(Generic[T]):
    """Append messages of one stream; Redis assigns the ids (`*`).

    Args:
        client: a redis-py client.
        stream: row of the stream table.
        prefix: the configured prefix of every key.
    """

    def __init__(self, client: redis.Redis, stream: Stream, prefix: str = "") -> None:
        self._client: AnyClient = client
        self._stream = stream
        self._prefix = prefix

    def publish(self, message: T, camera: str = "") -> None:
        """Append one message now.

        Raises:
            redis.ConnectionError, redis.TimeoutError: it may or may not be stored.
        """
        self.stage(self._client, message, camera)

    def stage(self, pipe: Any, message: T, camera: str = "") -> None:
        """Append one message inside a pipeline or transaction.

        Args:
            pipe: the pipeline or transaction.
            message: what is appended.
            camera: id of the camera, for a stream per camera.
        """
        pipe.xadd(
            stream_key(self._stream, camera, self._prefix),
            codec.encode(self._stream, message),
            maxlen=self._stream.max_entries,
            approximate=True,
        )
