"""A thread with its own event loop and Redis client, for queries whose sums would hold up the web process.

The process's own loop serves pages, live pictures and the watchdog meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any, TypeVar

from crowdperf.messaging.redis.client import AnyClient, connect_async
from crowdperf.web.problems import ApiProblem

MAX_HEAVY_QUERIES = 2
RETRY_AFTER_S = 5

Result = TypeVar("Result")


class QueryThread:
    """Run queries of the history outside the process's event loop.

    Args:
        redis_url: Address of Redis.
    """

    def __init__(self, redis_url: str) -> None:
        self._client: AnyClient = connect_async(redis_url)
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._heavy_counts: Counter[str] = Counter()
        """Requests that run, by their work."""

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="queries", daemon=True)
        self._thread.start()

    async def run(self, query: Callable[[AnyClient], Coroutine[Any, Any, Result]], is_heavy: bool) -> Result:
        """Run one query in the thread; `is_heavy` counts it among those of which few may run.

        Raises:
            ApiProblem: 429, as many heavy queries run as may.
        """
        with self._hold("requests for counts", "a shorter range or a longer bucket", is_heavy):
            return await self._run(query(self._client))

    async def iterate(
        self, query: Callable[[AnyClient], AsyncIterator[Result]], is_heavy: bool
    ) -> AsyncGenerator[Result, None]:
        """Iterate over a query's results, each computed in the thread when the one before it was taken.

        Heavy ones have a limit of their own: slow clients of files keep no others from the counts.

        Raises:
            ApiProblem: 429, before the first result, as many heavy ones run as may.
        """
        with self._hold("files", "a shorter range", is_heavy):
            # What is not iterated to its end is closed by the thread's loop.
            results = query(self._client)

            async def take_next() -> list[Result]:
                async for result in results:
                    return [result]
                return []

            while taken := await self._run(take_next()):
                yield taken[0]

    async def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    @contextlib.contextmanager
    def _hold(self, what: str, remedy: str, is_heavy: bool) -> Iterator[None]:
        """Count a heavy request among those of its kind, or raise ApiProblem (429) where there are enough."""
        if is_heavy and self._heavy_counts[what] >= MAX_HEAVY_QUERIES:
            raise ApiProblem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{MAX_HEAVY_QUERIES} large {what} are being computed already. Remedy: try again in "
                f"{RETRY_AFTER_S} seconds, or ask for {remedy}.",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._heavy_counts[what] += is_heavy
        try:
            yield
        finally:
            self._heavy_counts[what] -= is_heavy

    async def close(self) -> None:
        """End the thread and its connections; queries that still run are cancelled."""
        if self._thread is not None:
            await asyncio.to_thread(self._stop, self._thread)
            self._loop.close()

    def _stop(self, thread: threading.Thread) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel_queries(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()

    async def _cancel_queries(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
