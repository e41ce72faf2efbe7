"""The web process: what a live event costs per browser, what a stalled one costs the others, and a snapshot's latency.

A real web process and a real Redis; the browsers are sockets of this process. The peer for live events is the same
framework's own `ServerSentEvent`, fed with the same events; that of the snapshot is the encoder alone, on the same
picture. Processor time is the server's own, so that a neighbour on the machine has little part in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import psutil
import uvicorn
from litestar import Litestar, get
from litestar.response import ServerSentEvent, ServerSentEventMessage
from numpy.typing import NDArray

from bench.harness import Row, compared
from crowdperf.frames.ring import FrameWriter, RingSpec, unlink_instance
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import OUTAGE, connect, connect_async
from crowdperf.messaging.schema import CameraGap
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import build_web_config
from crowdperf.supervision.embedded_redis import find_server_binary
from crowdperf.web.live.counts import decode_event, to_event_reply
from crowdperf.web.live.pictures import FULL_FORMAT

CLIENTS = 500
RATE = 10
"""Events a second: a busy site's."""
LIMIT_US = 25.0
SNAPSHOT_LIMIT_MS = 30.0
WIDTH, HEIGHT = 1280, 720
DEADLINE_S = 30.0
GET = b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


def rows(short: bool) -> list[Row]:
    """sse_cpu_us_per_client_message and its peer, what a stalled client costs, snapshot_p99_ms and its peer."""
    seconds = 3 if short else 10
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as url:
        folder = Path(name)
        with server("ours", url, folder) as (process, port):
            pictures = _snapshots(port, folder, 200 if short else 1000)
            ours = _Crowd(process, port).measure(url, seconds)
            stalled = _Crowd(process, port, stalled=5).measure(url, seconds)
        with server("peer", url, folder) as (process, port):
            peer = _Crowd(process, port).measure(url, seconds)
    took, encoding = pictures
    p99 = sorted(took)[int(len(took) * 0.99)]
    return [
        Row(
            name="sse_cpu_us_per_client_message",
            value=ours.cpu_us,
            unit="us",
            limit_or_peer=f"limit {LIMIT_US:g} us, {CLIENTS} clients",
            ratio=ours.cpu_us / LIMIT_US,
            repetitions=ours.messages,
        ),
        compared("sse_vs_litestar_server_sent_event", [(ours.cpu_us, peer.cpu_us)], "Litestar's ServerSentEvent"),
        compared("sse_with_stalled_clients", [(stalled.cpu_us, ours.cpu_us)], "the same without 5 stalled clients"),
        Row(
            name="sse_messages_missed",
            value=ours.missed + stalled.missed,
            unit="messages",
            limit_or_peer="limit 0, of those who read",
            ratio=float(ours.missed + stalled.missed),
            repetitions=ours.messages + stalled.messages,
        ),
        Row(
            name="snapshot_p99_ms",
            value=p99,
            unit="ms",
            limit_or_peer=f"limit {SNAPSHOT_LIMIT_MS:g} ms, {WIDTH}x{HEIGHT} over HTTP",
            ratio=p99 / SNAPSHOT_LIMIT_MS,
            repetitions=len(took),
        ),
        compared(
            "snapshot_vs_encoder", list(zip(took, encoding)), "colour conversion and JPEG encoding alone", unit="ms"
        ),
    ]


class Measured(msgspec.Struct, frozen=True):
    """One run: the server's processor time per event and reading client."""

    cpu_us: float
    messages: int
    missed: int


class _Crowd:
    """Many clients of one server; `stalled` further ones never read."""

    def __init__(self, process: psutil.Process, port: int, stalled: int = 0) -> None:
        self._process = process
        self._poll = select.epoll()
        self._sockets = {each.fileno(): each for each in (self._connect_client(port) for _ in range(CLIENTS))}
        self._stalled = [self._connect_client(port) for _ in range(stalled)]
        for fd in self._sockets:
            self._poll.register(fd, select.EPOLLIN)
        self._seen = dict.fromkeys(self._sockets, 0)

    @staticmethod
    def _connect_client(port: int) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        made.sendall(GET)
        return made

    def measure(self, url: str, seconds: int) -> Measured:
        """Publish events for so long, and count what arrives."""
        self._drain(2.0)
        idle = self._measure_idle_cpu_s(seconds)
        publisher: Publisher[CameraGap] = Publisher(connect(url), EVENTS)
        sent = seconds * RATE
        self._seen = dict.fromkeys(self._sockets, 0)
        before = self._get_cpu_s()
        for number in range(sent):
            publisher.publish(_event(f"{self._process.pid}.{id(self)}.{number}"))
            self._drain(1 / RATE)
        deadline = time.monotonic() + DEADLINE_S
        while min(self._seen.values()) < sent and time.monotonic() < deadline:
            self._drain(0.1)
        spent = self._get_cpu_s() - before - idle
        for each in (*self._sockets.values(), *self._stalled):
            each.close()
        arrived = sum(self._seen.values())
        return Measured(spent / arrived * 1e6, arrived, CLIENTS * sent - arrived)

    def _measure_idle_cpu_s(self, seconds: float) -> float:
        """Processor time that the server spends in this time without events."""
        before = self._get_cpu_s()
        self._drain(seconds)
        return self._get_cpu_s() - before

    def _get_cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _drain(self, seconds: float) -> None:
        """Read what comes, as a browser does, for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left):
                self._seen[fd] += self._sockets[fd].recv(1 << 16).count(b"event: event")


def _event(name: str) -> CameraGap:
    return CameraGap(id=f"gap:{name}", camera="plaza", ts=1e9, start=1e9, end=1e9 + 2, cause="frames missing")


def _snapshots(port: int, folder: Path, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a snapshot over HTTP, and of encoding the same picture here, in turn."""
    spec = RingSpec(WIDTH, HEIGHT, "yuv420p", WIDTH, HEIGHT, 4, 10.0, 0)
    frame: Any = _picture()
    writer = FrameWriter(_paths(folder).get_ring_path("plaza"), spec)
    stop = threading.Event()

    def film() -> None:
        while not stop.wait(0.1):
            writer.slot()[:] = memoryview(frame).cast("B")
            writer.publish(time.time_ns(), time.monotonic_ns())

    thread = threading.Thread(target=film, daemon=True)
    thread.start()
    time.sleep(0.5)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    took, encoding = [], []
    for _ in range(times):
        began = time.perf_counter()
        connection.request("GET", "/api/v1/cameras/plaza/snapshot.jpg")
        reply = connection.getresponse()
        body = reply.read()
        took.append((time.perf_counter() - began) * 1e3)
        assert (reply.status, body[:2]) == (200, b"\xff\xd8"), reply.status
        began = time.perf_counter()
        bgr = cv2.cvtColor(frame.reshape(HEIGHT * 3 // 2, WIDTH), cv2.COLOR_YUV2BGR_I420)
        cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, FULL_FORMAT.quality])
        encoding.append((time.perf_counter() - began) * 1e3)
    stop.set()
    thread.join()
    writer.close(unlink=False)
    unlink_instance(str(writer.path))
    return took, encoding


def _picture() -> NDArray[np.uint8]:
    """Return a picture with edges and texture: what is flat would be too easy to encode."""
    rng = np.random.default_rng(7)
    grain = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 2.0)
    for _ in range(60):
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        cv2.rectangle(grain, (x, y), (x + 60, y + 140), colour, -1)
    return np.ascontiguousarray(cv2.cvtColor(grain, cv2.COLOR_BGR2YUV_I420)).reshape(-1)


def _paths(folder: Path) -> Paths:
    return Paths(folder / "var")


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yield a Redis of the bench's own."""
    path = folder / "redis.sock"
    process = subprocess.Popen(
        [find_server_binary(), "--port", "0", "--unixsocket", str(path), "--save", "", "--loglevel", "warning"],
        stdout=subprocess.DEVNULL,
    )
    try:
        client = connect(f"unix://{path}")
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                client.ping()
                break
            except OUTAGE:
                assert time.monotonic() < deadline, "Redis does not start"
                time.sleep(0.05)
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def server(kind: str, url: str, folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """Yield the web process, or the peer, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    child = subprocess.Popen([sys.executable, "-m", "bench.micro.web", kind, url, str(port), str(folder)])
    try:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline, f"{kind} does not start"
            assert child.poll() is None, f"{kind} has ended"
            time.sleep(0.05)
        yield psutil.Process(child.pid), port
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _ours(url: str, port: int, folder: Path) -> None:
    """Run the product's own web process."""
    from crowdperf.web.process import main

    config = {
        "redis": {"url": url},
        "web": {"port": port},
        "cameras": [{"id": "plaza", "url": "rtsp://192.0.2.1/"}],
    }
    runtime = ProcessRuntime("web", 0)
    runtime.install()
    main(build_web_config(Deployment(parse(msgspec.json.encode(config)), _paths(folder))), runtime)


def _peer(url: str, port: int) -> None:
    """Serve the same events by the framework's own means: a queue and a `ServerSentEvent` per client."""
    queues: set[asyncio.Queue[tuple[str, str]]] = set()

    async def read() -> None:
        client: Any = connect_async(url)
        last = b"$"
        while True:
            for _, entries in await client.xread({stream_key(EVENTS): last}, count=256, block=500) or ():
                for entry_id, fields in entries:
                    last = entry_id
                    event = decode_event(fields)
                    if event is not None:
                        data = msgspec.json.encode(to_event_reply(event)).decode()
                        for queue in queues:
                            queue.put_nowait((entry_id.decode(), data))

    async def messages() -> AsyncIterator[ServerSentEventMessage]:
        queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(256)
        queues.add(queue)
        try:
            while True:
                entry_id, data = await queue.get()
                yield ServerSentEventMessage(data=data, event="event", id=entry_id)
        finally:
            queues.discard(queue)

    @get("/api/v1/stream")
    async def stream() -> ServerSentEvent:
        return ServerSentEvent(messages())

    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        tasks.append(asyncio.create_task(read()))

    app = Litestar([stream], on_startup=[start], openapi_config=None, logging_config=None)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    kind, redis_at, at, where = sys.argv[1:]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if kind == "ours":
        _ours(redis_at, int(at), Path(where))
    else:
        _peer(redis_at, int(at))
