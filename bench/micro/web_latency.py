"""From an event's publication in Redis to a client of the live stream: how late a browser hears of it.

A real web process and a real Redis. Beside it, in the same run and of the same events, a bare XREAD in a process of its
own: what Redis and this machine cost without crowdperf. Both clients say when they saw an event by the clock that its
publisher used.
"""

from __future__ import annotations

import http.client
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness import Row, compared
from bench.micro.web import DEADLINE_S, redis_server, server
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import CameraGap
from crowdperf.messaging.streams import EVENTS, stream_key

PAUSE_S = (0.002, 0.08)
"""Between two events, drawn evenly: some come while the server waits for one, some while it rests from the last."""
LIMIT_MS = 100.0
"""What people take for at once."""


def rows(short: bool) -> list[Row]:
    """event_to_stream_p50_ms and _p99_ms with those of the bare XREAD, and the two paired."""
    times = 200 if short else 2000
    with (
        tempfile.TemporaryDirectory() as name,
        redis_server(Path(name)) as url,
        server("ours", url, Path(name)) as (_, port),
        _Reader(url) as bare,
        _Stream(port) as stream,
    ):
        sent = _publish(url, times, lambda: bare.seen_at and stream.seen_at)
        deadline = time.monotonic() + DEADLINE_S
        while min(len(stream.seen_at), len(bare.seen_at)) <= times and time.monotonic() < deadline:
            time.sleep(0.05)
    pairs = [((stream.seen_at[each] - at) * 1e3, (bare.seen_at[each] - at) * 1e3) for each, at in sent.items()]
    ours, peer = (sorted(column) for column in zip(*pairs))
    return [
        *(
            Row(
                name=f"event_to_stream_{label}_ms",
                value=_at(ours, part),
                unit="ms",
                limit_or_peer=f"bare XREAD: {_at(peer, part):.2f} ms; limit {LIMIT_MS:g} ms",
                ratio=_at(ours, part) / LIMIT_MS,
                repetitions=len(pairs),
            )
            for label, part in (("p50", 0.5), ("p99", 0.99))
        ),
        compared("event_to_stream_vs_bare_xread", pairs, "a bare XREAD of the same events", unit="ms"),
    ]


def _at(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


def _publish(url: str, times: int, warm: Callable[[], object]) -> dict[str, float]:
    """Events one by one: id -> when. Both clients have seen one before the first that counts."""
    publisher: Publisher[CameraGap] = Publisher(connect(url), EVENTS)
    deadline = time.monotonic() + DEADLINE_S
    while not warm():
        assert time.monotonic() < deadline, "a client does not hear of events"
        publisher.publish(_event("warm"))
        time.sleep(0.2)
    sent = {}
    pauses = random.Random(7)
    for number in range(times):
        name = f"n{number}"
        sent[f"gap:{name}"] = time.time()
        publisher.publish(_event(name))
        time.sleep(pauses.uniform(*PAUSE_S))
    return sent


def _event(name: str) -> CameraGap:
    return CameraGap(id=f"gap:{name}", camera="plaza", ts=1e9, start=1e9, end=1e9 + 2, cause="frames missing")


class _Client:
    """Somebody who notes when an event came."""

    def __init__(self) -> None:
        self.seen_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _note(self, line: bytes, at: float) -> None:
        _, found, rest = line.partition(b"gap:")
        if found:
            self.seen_at.setdefault("gap:" + rest.partition(b'"')[0].partition(b" ")[0].decode().strip(), at)

    def _listen(self) -> None:
        raise NotImplementedError


class _Stream(_Client):
    """A client of /api/v1/stream, as a browser is one."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)

    def __enter__(self) -> _Stream:
        self._connection.request("GET", "/api/v1/stream")
        self._to_visit_reply = self._connection.getresponse()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # The server ends the stream when it ends.
        pass

    def _listen(self) -> None:
        while line := self._to_visit_reply.readline():
            self._note(line, time.time())


class _Reader(_Client):
    """A bare XREAD, in a process of its own, that tells when it had each event."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._process = subprocess.Popen([sys.executable, "-m", "bench.micro.web_latency", url], stdout=subprocess.PIPE)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at, _, name = line.partition(b" ")
            self._note(name, float(at))


def _read(url: str) -> None:
    """Print when each event came, and its id."""
    client: Any = connect(url)
    last = b"0-0"
    while True:
        for _, entries in client.xread({stream_key(EVENTS): last}, count=256, block=500) or ():
            at = time.time()
            for entry_id, fields in entries:
                last = entry_id
                print(at, fields[b"id"].decode(), flush=True)


if __name__ == "__main__":
    _read(sys.argv[1])
