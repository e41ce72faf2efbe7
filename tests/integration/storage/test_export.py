"""Exports over real HTTP and by the command, against a real Redis."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from crowdperf.__main__ import main
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import CameraGap
from crowdperf.messaging.streams import EVENTS
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import CrossingRecord, add_crossings
from crowdperf.storage.transfer import export
from tests.conftest import RedisServer
from tests.support.webserver import BERLIN as BERLIN_SITE
from tests.support.webserver import TIMEOUT_S, Served, serving

BERLIN = Calendar("Europe/Berlin")
CHANGE = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN.zone).timestamp()
"""The first 02:30 of the day on which it comes twice."""
RANGE = {"from": "2026-10-25T00:00:00+02:00", "to": "2026-10-26T00:00:00+01:00"}


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with serving(redis_server.url, tmp_path, BERLIN_SITE) as served:
        yield served


def crossing(
    n: int, ts: float, class_name: str = "person", line: str = "door", camera: str = "plaza"
) -> CrossingRecord:
    return CrossingRecord(id=f"id-{n}", ts=ts, camera=camera, line=line, direction="in", class_name=class_name, track=n)


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as made:
        yield made


def rows_of(content: bytes) -> list[dict[str, str]]:
    assert content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_times_are_the_sites_with_their_offset_and_rows_in_order(
    client: httpx.Client, redis_server: RedisServer
) -> None:
    rows = [crossing(1, CHANGE), crossing(2, CHANGE + 3600, "car"), crossing(3, CHANGE + 60), crossing(4, CHANGE - 1e6)]
    add_crossings(redis_server.client(), BERLIN, rows)
    reply = client.get("/api/v1/exports/crossings.csv", params=RANGE)
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert reply.headers["content-disposition"] == 'attachment; filename="crossings-2026-10-25.csv"'
    found = rows_of(reply.content)
    assert [(row["id"], row["time"]) for row in found] == [
        ("id-1", "2026-10-25T02:30:00.000+02:00"),
        ("id-3", "2026-10-25T02:31:00.000+02:00"),
        ("id-2", "2026-10-25T02:30:00.000+01:00"),
    ]
    assert float(found[0]["ts"]) == CHANGE
    filtered = client.get("/api/v1/exports/crossings.csv", params={**RANGE, "class": "car"})
    assert [row["class"] for row in rows_of(filtered.content)] == ["car"]


@pytest.mark.parametrize("line", ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", '"quoted", and more', "Tür"])
def test_no_cell_is_a_formula(client: httpx.Client, redis_server: RedisServer, line: str) -> None:
    add_crossings(redis_server.client(), BERLIN, [crossing(1, CHANGE, line=line)])
    cell = rows_of(client.get("/api/v1/exports/crossings.csv", params=RANGE).content)[0]["line"]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell.lstrip("'") == line


def test_parquet_holds_the_same(client: httpx.Client, redis_server: RedisServer) -> None:
    add_crossings(
        redis_server.client(), BERLIN, [crossing(n, CHANGE + n / 8, "car" if n % 2 else "person") for n in range(300)]
    )
    reply = client.get("/api/v1/exports/crossings.parquet", params=RANGE)
    table = parquet.read_table(io.BytesIO(reply.content))
    assert table.num_rows == 300
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=Europe/Berlin]"
    first: dict[str, Any] = table.slice(1, 1).to_pylist()[0]
    assert (first["id"], first["class"], first["ts"]) == ("id-1", "car", CHANGE + 0.125)
    assert first["time"].utcoffset() == timedelta(hours=2)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_empty_range_is_an_empty_file_and_many_rows_are_chunked(
    client: httpx.Client, redis_server: RedisServer, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export._ParquetWriter, "rows", 700)

    def count(content: bytes) -> int:
        return len(rows_of(content)) if form == "csv" else parquet.read_table(io.BytesIO(content)).num_rows

    assert count(client.get(f"/api/v1/exports/crossings.{form}", params=RANGE).content) == 0
    for at in range(0, 3000, 500):
        add_crossings(redis_server.client(), BERLIN, [crossing(n, CHANGE + n / 100) for n in range(at, at + 500)])
    with client.stream("GET", f"/api/v1/exports/crossings.{form}", params=RANGE) as reply:
        assert "content-length" not in reply.headers
        assert count(b"".join(reply.iter_bytes())) == 3000


def test_refusals_are_problems(
    client: httpx.Client, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/api/v1/exports/crossings.csv?from=yesterday").status_code == 400
    assert client.get("/api/v1/exports/crossings.csv?class=dog").status_code == 400
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused = client.get("/api/v1/exports/crossings.parquet", params=RANGE)
    assert refused.status_code == 501
    assert "pip install pyarrow" in refused.json()["detail"]
    redis_server.kill()
    assert client.get("/api/v1/exports/crossings.csv", params=RANGE).status_code == 503


def run(server: RedisServer, folder: Path, *words: str) -> int:
    config = {"redis": {"url": server.url}, "site": {"timezone": "Europe/Berlin"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(["export", *words])


def test_the_command_writes_whole_files_only(
    redis_server: RedisServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add_crossings(redis_server.client(), BERLIN, [crossing(n, CHANGE + n) for n in range(10)])
    day = ("--from", "2026-10-25", "--to", "2026-10-26")
    assert run(redis_server, tmp_path, *day, "--out", "a.csv") == 0
    assert run(redis_server, tmp_path, *day, "--out", "a.parquet", "--camera", "plaza") == 0
    assert len(rows_of((tmp_path / "a.csv").read_bytes())) == 10
    assert parquet.read_table(tmp_path / "a.parquet").num_rows == 10
    for words, message in (
        (("--from", "soon", "--out", "b.csv"), "'soon' is no time"),
        (("--from", "2026-10-26", "--to", "2026-10-25", "--out", "b.csv"), "is not before"),
        ((*day, "--out", "nowhere/b.csv"), "cannot write"),
    ):
        capfd.readouterr()
        assert run(redis_server, tmp_path, *words) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Remedy" in error
    redis_server.kill()
    assert run(redis_server, tmp_path, *day, "--out", "a.csv") == 2
    assert len(rows_of((tmp_path / "a.csv").read_bytes())) == 10, "the old file stays"
    assert not list(tmp_path.glob("*.part"))


def test_the_report_is_a_page_that_says_what_the_counts_say(client: httpx.Client, redis_server: RedisServer) -> None:
    rows = [crossing(1, CHANGE), crossing(2, CHANGE + 3600), crossing(3, CHANGE + 86_400), crossing(4, CHANGE, "car")]
    add_crossings(redis_server.client(), BERLIN, rows)
    reply = client.get("/api/v1/exports/report.html", params={**RANGE, "to": "2026-10-27T00:00:00+01:00"})
    assert reply.headers["content-type"].startswith("text/html")
    assert "<td>door</td><td>person</td><td>3</td><td>0</td><td>3</td>" in reply.text
    assert "<td>2026-10-25</td><td>3</td><td>0</td><td>3</td>" in reply.text
    assert "<td>2026-10-26</td><td>1</td><td>0</td><td>1</td>" in reply.text
    now = datetime.now().astimezone().timestamp()
    publisher: Publisher[CameraGap] = Publisher(redis_server.client(), EVENTS)
    publisher.publish(CameraGap(id="g", camera="plaza", ts=now, start=now - 90, end=now, cause="<b>stalled</b>"))
    recent = {"from": datetime.fromtimestamp(now - 600, BERLIN.zone).isoformat()}
    page = client.get("/api/v1/exports/report.html", params=recent).text
    assert "&lt;b&gt;stalled&lt;/b&gt;" in page
    assert "<b>" not in page
