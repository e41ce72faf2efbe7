"""`crowdperf import-sqlite` as a command, against real files and a real Redis."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from crowdperf.__main__ import main
from crowdperf.storage import counts
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import CrossingRecord, decode_member, encode_member
from crowdperf.storage.postgres import backfill
from tests.conftest import RedisServer

NOW = time.time()
SCHEMA = "CREATE TABLE events (id INTEGER PRIMARY KEY, timestamp, camera_id, line, direction, class, track_id)"


def old_file(folder: Path, rows: list[tuple[object, ...]], schema: str = SCHEMA) -> Path:
    path = folder / "events.db"
    with sqlite3.connect(path) as connection:
        connection.execute(schema)
        if rows:
            connection.executemany(f"INSERT INTO events VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.close()
    return path


def rows(number: int, start: float = NOW - 86_400) -> list[tuple[object, ...]]:
    return [(n, start + n, "lobby", "door", "in" if n % 2 else "out", "person" if n % 3 else "car", n)
            for n in range(1, number + 1)]  # fmt: skip


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(server: RedisServer, folder: Path, *words: str) -> Done:
    """The command, in this process: a hundred imports cost no hundred starts of Python."""
    config = {"redis": {"url": server.url}, "site": {"timezone": "Europe/Berlin"}}
    (folder / "config.json").write_text(json.dumps(config))
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        status = main(["import-sqlite", *words])
    return Done(status, out.getvalue(), err.getvalue())


def counted(server: RedisServer) -> int:
    """The sum of all counters of days."""
    client = server.client()
    values = [client.get(name) for name in client.scan_iter("crowdperf:counts:day:*")]
    return sum(int.from_bytes(raw[at : at + 4], "big") for raw in values for at in range(0, len(raw), 4))


def figures(output: str) -> dict[str, int]:
    lines = [line.split() for line in output.splitlines()]
    return {
        line[0]: int(line[1].replace(",", "")) for line in lines if line[0] in ("read", "kept", "already", "rejected")
    }


def test_import_keeps_usable_rows_and_repeating_changes_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    bad = [
        (9001, "soon", "lobby", "door", "in", "person", 1),
        (9002, NOW, "lobby", "door", "up", "person", 1),
        (9003, NOW - 400 * 86_400, "lobby", "door", "in", "person", 1),
        (9004, NOW + 9e6, "l", "d", "in", "car", 1),
    ]
    path = old_file(tmp_path, [*rows(2500), *bad])
    before = path.read_bytes()
    first = run(redis_server, tmp_path, str(path))
    assert first.returncode == 0, first.stderr
    assert figures(first.stdout) == {"read": 2504, "kept": 2500, "already": 0, "rejected": 4}
    for words in ("direction 'up' is neither", "ts is no time", "older than retention.crossings_days", "in the future"):
        assert words in first.stdout
    assert "may be deleted" in first.stdout
    client = redis_server.client()
    assert client.zcard("person_logs") + client.zcard("vehicle_logs") == 2500
    assert counted(redis_server) == 2500
    again = run(redis_server, tmp_path, str(path))
    assert figures(again.stdout) == {"read": 2504, "kept": 0, "already": 2500, "rejected": 4}
    assert counted(redis_server) == 2500
    assert path.read_bytes() == before
    kept = decode_member(client.zrange("person_logs", 0, 0)[0])
    assert (kept.camera, kept.line, kept.class_name) == ("lobby", "door", "person")


def test_without_a_rejected_row_the_file_may_be_deleted(redis_server: RedisServer, tmp_path: Path) -> None:
    done = run(redis_server, tmp_path, str(old_file(tmp_path, rows(10))))
    assert "may now be deleted" in done.stdout.splitlines()[-1]


def test_backfill_makes_missing_counters(redis_server: RedisServer, tmp_path: Path) -> None:
    client = redis_server.client()
    old = CrossingRecord(id="old", ts=NOW - 50_000, camera="c", line="l", direction="in", class_name="person", track=1)
    client.zadd("person_logs", {encode_member(old): old.ts})
    run(redis_server, tmp_path, str(old_file(tmp_path, rows(300))))
    while backfill.run_step(client, Calendar("Europe/Berlin")) < counts.FRONTIER_COMPLETE:
        pass
    assert counted(redis_server) == 301


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"not a database at all, but long enough to look", "no SQLite database"),
        ("CREATE TABLE things (a, b)", "has no table 'events' (it has: things)"),
        ("CREATE TABLE events (a, b)", "has no column for: ts, camera, line, direction, class"),
    ],
)
def test_failed_import_is_one_clear_error_and_changes_nothing(
    redis_server: RedisServer, tmp_path: Path, content: str | bytes | None, words: str
) -> None:
    path = tmp_path / "events.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        old_file(tmp_path, [], content)
    done = run(redis_server, tmp_path, str(path))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Remedy" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(redis_server.client().scan_iter()) == []


def test_inspect_shows_the_columns_and_what_they_would_be(redis_server: RedisServer, tmp_path: Path) -> None:
    path = old_file(tmp_path, rows(3))
    shown = run(redis_server, tmp_path, str(path), "--inspect").stdout
    assert "events: 3 rows" in shown
    assert "-> camera" in shown
    assert "'lobby'" in shown
    assert list(redis_server.client().scan_iter()) == []


def test_other_names_and_words_are_mapped(redis_server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "log entries" (wann TEXT, kamera TEXT, richtung TEXT)')
        connection.execute("INSERT INTO \"log entries\" VALUES ('2026-05-01 12:00:00', 'Tür 1', 'rein')")
    connection.close()
    options = ["--table", "log entries", "--map", "wann=ts", "--map", "kamera=camera", "--map", "richtung=direction"]
    fixed = ["--set", "line=door", "--set", "class=person", "--value", "direction:rein=in"]
    done = run(redis_server, tmp_path, str(path), *options, *fixed)
    assert figures(done.stdout)["kept"] == 1, done.stdout + done.stderr


def test_an_outage_half_way_is_said_and_the_next_run_completes(redis_server: RedisServer, tmp_path: Path) -> None:
    path = old_file(tmp_path, rows(500))
    redis_server.kill()
    done = run(redis_server, tmp_path, str(path))
    assert done.returncode == 2
    assert "Redis does not answer" in done.stderr
    redis_server.start()
    assert figures(run(redis_server, tmp_path, str(path)).stdout)["kept"] == 500
