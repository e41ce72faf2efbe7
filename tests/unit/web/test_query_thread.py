"""Queries of the history do not hold up the web process, and few large ones run at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator

import pytest

from crowdperf.messaging.redis.client import AnyClient
from crowdperf.web.problems import ApiProblem
from crowdperf.web.serving.query_thread import MAX_HEAVY_QUERIES, QueryThread

URL = "redis://127.0.0.1:1/0"


def test_loop_runs_on_while_a_query_computes() -> None:
    computed = threading.Event()

    async def compute(_client: AnyClient) -> str:
        assert computed.wait(60), "the loop did not run on"
        return threading.current_thread().name

    async def main() -> str:
        queries = QueryThread(URL)
        queries.start()
        running = asyncio.create_task(queries.run(compute, is_heavy=False))
        await asyncio.sleep(0)
        computed.set()
        name = await running
        await queries.close()
        return name

    assert asyncio.run(main()) == "queries"


def test_one_heavy_query_too_many_is_refused_at_once() -> None:
    async def main() -> None:
        queries = QueryThread(URL)
        queries.start()
        done = asyncio.Event()

        async def wait(_client: AnyClient) -> None:
            while not done.is_set():
                await asyncio.sleep(0.01)

        running = [asyncio.create_task(queries.run(wait, is_heavy=True)) for _ in range(MAX_HEAVY_QUERIES)]
        await asyncio.sleep(0)
        with pytest.raises(ApiProblem) as refused:
            await queries.run(wait, is_heavy=True)
        assert refused.value.status == 429
        assert refused.value.headers == {"Retry-After": "5"}
        done.set()
        await asyncio.gather(*running)
        await queries.run(wait, is_heavy=True)
        await queries.close()

    asyncio.run(main())


def test_a_file_is_made_in_the_thread() -> None:
    ended = threading.Event()

    async def write(_client: AnyClient) -> AsyncGenerator[str, None]:
        try:
            for _ in range(3):
                yield threading.current_thread().name
        finally:
            ended.set()

    async def main() -> None:
        queries = QueryThread(URL)
        queries.start()
        assert [name async for name in queries.iterate(write, is_heavy=True)] == ["queries"] * 3
        ended.clear()
        files = [queries.iterate(write, is_heavy=True) for _ in range(MAX_HEAVY_QUERIES)]
        for file in files:
            await anext(file)
        with pytest.raises(ApiProblem, match="large files") as refused:
            await anext(queries.iterate(write, is_heavy=True))
        assert refused.value.status == 429
        assert await queries.run(lambda _client: asyncio.sleep(0, "counts"), is_heavy=True) == "counts"
        await files.pop().aclose()
        assert await asyncio.to_thread(ended.wait, 60)
        assert await anext(queries.iterate(write, is_heavy=True)) == "queries"
        await queries.close()

    asyncio.run(main())


def test_close_cancels_what_still_runs() -> None:
    async def main() -> None:
        queries = QueryThread(URL)
        queries.start()
        running = asyncio.create_task(queries.run(lambda _client: asyncio.sleep(3600), is_heavy=True))
        await asyncio.sleep(0)
        await queries.close()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
