"""Live pictures over connections of different speed: each client gets what its own takes, none waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable

import pytest
from websockets.asyncio.client import ClientConnection, connect

from crowdperf.web.live.rate_control import QUALITY_STEPS
from tests.integration.web.test_live import live_url, unpack
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import Served

PATIENCE_S = 120.0
SLOW_BYTES_S = 15_000.0
FULL, LOWEST = QUALITY_STEPS[0].quality, QUALITY_STEPS[-1].quality


class Client:
    """A browser's side of the live socket, behind a connection of `bytes_s` (None: unlimited)."""

    def __init__(self, server: Served, bytes_s: float | None = None, width: int = 0) -> None:
        self._server = server
        self.bytes_s = bytes_s
        self._width = width
        self.pictures: list[tuple[float, dict, bytes]] = []

    async def watch(self, *cameras: str) -> None:
        """Receive and confirm until cancelled."""
        # A queue of one and a small window: what is not read stays with the server, as on a slow network.
        async with connect(live_url(self._server), max_queue=1, sock=small(self._server.port)) as socket:
            await socket.send(json.dumps(self._request(cameras)))
            await self._read(socket)

    def _request(self, cameras: tuple[str, ...]) -> dict:
        widths = dict.fromkeys(cameras, self._width) if self._width else {}
        return {"subscribe": list(cameras), "widths": widths, "seen": 0}

    async def _read(self, socket: ClientConnection) -> None:
        received = 0
        async for message in socket:
            if isinstance(message, str):
                continue
            if self.bytes_s:
                # The time that these bytes take on this connection.
                await asyncio.sleep(len(message) / self.bytes_s)
            received += 1
            head, jpeg = unpack(message)
            self.pictures.append((time.monotonic(), head, jpeg))
            await socket.send(json.dumps({"seen": received}))

    def newest(self) -> dict:
        """Return the last picture's header; empty before the first."""
        return self.pictures[-1][1] if self.pictures else {}

    def mean_bytes(self, quality: int) -> float:
        """Return the mean size of the pictures of this quality."""
        sizes = [len(jpeg) for _, head, jpeg in self.pictures if head.get("quality") == quality]
        return sum(sizes) / len(sizes)

    def bytes_per_s(self, since: float) -> float:
        """Return the bytes per second received since then."""
        return sum(len(jpeg) for at, _, jpeg in self.pictures if at > since) / (time.monotonic() - since)


def small(port: int) -> socket.socket:
    """Open a connection with a small receive buffer."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    made.connect(("127.0.0.1", port))
    made.setblocking(False)
    return made


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for it while the clients go on."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watching(client: Client, *cameras: str):
    task = asyncio.create_task(client.watch(*cameras))
    try:
        yield client
    finally:
        assert not task.done(), f"the client has ended: {task}"
        task.cancel()
        await asyncio.wait([task])


def test_slow_connection_gets_smaller_pictures_than_a_quick_one(
    server: Served, site: SyntheticSite, record_property
) -> None:
    site.start()

    async def run() -> None:
        slow, quick = Client(server, SLOW_BYTES_S), Client(server)
        async with watching(quick, "plaza", "lobby"), watching(slow, "plaza", "lobby"):
            began = time.monotonic()
            await until(lambda: slow.newest().get("quality") == LOWEST, "the lowest quality")
            lowest_s, down_at = time.monotonic() - began, time.monotonic()
            assert slow.newest()["width"] == 320
            seen = len(quick.pictures)
            await until(
                lambda: any(head.get("quality") == FULL for _, head, _ in quick.pictures[seen:]),
                "full quality for the quick one while the other is at the lowest",
            )
            await until(lambda: len(quick.pictures) > seen + 100, "pictures for the quick one")
            assert slow.mean_bytes(LOWEST) < quick.mean_bytes(FULL) / 4
            rates = slow.bytes_per_s(down_at), quick.bytes_per_s(down_at)
            # The tunnel ends: the same connection is quick from here on.
            slow.bytes_s, again_at = None, time.monotonic()
            await until(lambda: slow.newest().get("quality") == FULL, "full quality again")
            assert slow.newest()["width"] == 640
            record_property(
                "figures",
                f"live pictures, two tiles at 10/s: a client of {SLOW_BYTES_S / 1e3:.0f} kB/s at the lowest step after "
                f"{lowest_s:.1f} s, then {rates[0] / 1e3:.1f} kB/s (a quick one beside it {rates[1] / 1e3:.0f} kB/s); "
                f"full quality again {time.monotonic() - again_at:.1f} s after its connection was quick",
            )

    asyncio.run(run())


@pytest.mark.parametrize("confirms", [True, False])
def test_a_client_that_reads_nothing_delays_nobody(server: Served, site: SyntheticSite, confirms: bool) -> None:
    site.start()

    async def run() -> None:
        quick = Client(server)
        async with connect(live_url(server), max_queue=1, sock=small(server.port)) as stalled:
            asked = {"subscribe": ["plaza", "lobby"], **({"seen": 0} if confirms else {})}
            await stalled.send(json.dumps(asked))
            await stalled.recv()
            async with watching(quick, "plaza", "lobby"):
                await until(lambda: len(quick.pictures) > 60, "pictures beside a stalled client")

    asyncio.run(run())


def test_equal_tiles_share_the_same_picture_bytes(server: Served, site: SyntheticSite) -> None:
    site.start()

    async def run() -> None:
        first, second, large = Client(server, width=200), Client(server, width=235), Client(server, width=2000)
        async with watching(first, "plaza"), watching(second, "plaza"), watching(large, "plaza"):

            def common() -> list[tuple[bytes, bytes]]:
                # By sequence; what comes first to a new client may be the picture of another one.
                one, two = (
                    {head.get("sequence"): (head, jpeg) for _, head, jpeg in each.pictures} for each in (first, second)
                )
                return [
                    (one[key][1], two[key][1])
                    for key in (one.keys() & two.keys()) - {None}
                    if one[key][0]["width"] == two[key][0]["width"] == 240
                ]

            await until(lambda: len(common()) > 5, "pictures of 240 pixels")
            assert all(one == two for one, two in common())
            await until(lambda: large.newest().get("width") == 640, "never wider than the source")

    asyncio.run(run())
