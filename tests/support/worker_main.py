"""`python -m tests.support.worker_main ROLE REDIS_URL DSN FOLDER [DEFECT]`: one real recorder, or one with a defect.

A role may end in the number of the instance: `recorder-1`.

The defects are what the exactly-once test must find:

* `ack-first`: the acknowledgement is no longer in the step that records, and the process dies once between the two;
* `no-dedupe`: counters are raised also for a crossing that is there already;
* `move-first`: the SQL recorder moves its group before it writes, and dies once between the two.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import redis

from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.settings.site import Retention
from crowdperf.storage import counts
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import CrossingRecord
from crowdperf.storage.postgres import statements
from crowdperf.workers import recorder
from crowdperf.workers import sql as sql_worker


def die_once(folder: Path) -> None:
    """End as by kill -9, the first time after the test has armed it."""
    mark = folder / "died"
    if (folder / "armed").exists() and not mark.exists():
        mark.touch()
        os._exit(9)


def break_it(defect: str, folder: Path) -> None:
    """Put one defect into the real code."""
    if defect == "no-dedupe":
        whole = counts.ADD_SCRIPT
        counts.ADD_SCRIPT = whole.replace("ARGV[at + 2]) == 1 then", "ARGV[at + 2]) >= 0 then")
        assert whole != counts.ADD_SCRIPT
    elif defect == "ack-first":
        right = counts.add_crossings

        def add(
            client: redis.Redis,
            calendar: Calendar,
            rows: Sequence[CrossingRecord],
            prefix: str,
            acknowledge: tuple[str, str, list[bytes]],
        ) -> counts.AddResult:
            stream, group, ids = acknowledge
            client.xack(stream, group, *ids)
            if rows:
                die_once(folder)
            return right(client, calendar, rows, prefix)

        mock.patch.object(recorder, "add_crossings", add).start()
    elif defect == "move-first":
        write = statements.write_rows

        def moving(database: Any, calendar: Any, rows: Any) -> int:
            made.reader.commit()
            die_once(folder)
            return write(database, calendar, rows)

        begin = sql_worker.SqlRecorder.__init__
        made: Any = None

        def remember(self: Any, *arguments: Any, **named: Any) -> None:
            nonlocal made
            made = self
            begin(self, *arguments, **named)

        mock.patch.object(sql_worker.SqlRecorder, "__init__", remember).start()
        mock.patch.object(statements, "write_rows", moving).start()


def main() -> None:
    """Run until killed."""
    name, url, dsn, folder, *defect = sys.argv[1:]
    role, _, instance = name.partition("-")
    logging.basicConfig(level=logging.ERROR)
    if defect:
        break_it(defect[0], Path(folder))
    config = WorkerConfig(
        role=role,
        instance=int(instance or 0),
        retention=Retention(),
        redis_url=url,
        key_prefix="",
        timezone="Europe/Berlin",
        postgres_dsn=dsn,
    )
    runtime = ProcessRuntime(f"worker-{name}", 0)
    runtime.install()
    (sql_worker.main if role == "sql" else recorder.main)(config, runtime)


if __name__ == "__main__":
    main()
