"""The process table, supervisord's programs and the tables in docs/ say the same."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import shlex
from pathlib import Path

import pytest
from supervisor.options import ServerOptions, UnhosedConfigParser

from crowdperf.messaging import streams
from crowdperf.messaging.streams import STREAMS, Stream
from crowdperf.runtime.metrics_table import DROP_CAUSES, LATENCIES, METRICS, PERCENTILES, Kind
from crowdperf.settings.config import Config, Deployment, load, parse
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.supervision import programs
from crowdperf.supervision.processes import PROCESSES, ProcessSpec
from crowdperf.supervision.programs import build_programs
from tests.conftest import ROOT
from tests.support.source_scan import called, source_of
from tests.support.stream_usage import find_streams
from tests.support.tables import BEGIN, END, blocks

NEVER_WRITTEN = {("worker-visitors", "audit")}
"""Reached, but not used: only people's changes carry audit entries, the worker's effects carry none."""


def rendered(config: Config, tmp_path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string((ROOT / "supervisord.conf").read_text())
    parser.read_string(programs.render(Deployment(config, Paths(tmp_path), read_environment({}), ROOT), "python"))
    return parser


def names(parser: configparser.RawConfigParser) -> set[str]:
    return {name.partition(":")[2] for name in parser.sections() if name.startswith(("program:", "eventlistener:"))}


def test_supervisord_runs_exactly_the_process_table(tmp_path: Path) -> None:
    config = load(ROOT / "config.json")
    expected = set()
    for row in PROCESSES:
        if row.instances == "camera":
            expected |= {f"{row.kind}-{camera.id}" for camera in config.cameras if camera.enabled}
        elif row.instances == "shard":
            expected |= {f"{row.kind}-{shard}" for shard in range(config.tracking.shards)}
        elif row.instances == "worker":
            expected |= {f"{row.kind}-{n}" for n in range(getattr(config.workers, row.kind.partition("-")[2]))}
        elif row.instances != "postgres":
            expected.add(row.kind)
    assert names(rendered(config, tmp_path)) == expected


def test_supervisord_accepts_any_interpreter_and_data_folder(tmp_path: Path) -> None:
    """Where they are not the installation's own, their paths stand in the file."""
    data = Paths(tmp_path / "a b'c %d")
    data.logs.mkdir(parents=True)
    python = str(data.data / "python")
    deployment = Deployment(load(ROOT / "config.json"), data, read_environment({}), ROOT)
    program = build_programs(deployment)[0]
    parser = UnhosedConfigParser()
    parser.read_string(programs.render_program(program, deployment, python))
    [read] = ServerOptions().processes_from_section(parser, f"program:{program.name}", program.name)
    assert shlex.split(read.command) == [python, "-m", "crowdperf.entrypoint", *program.arguments]
    assert read.stdout_logfile == str(data.logs / f"{program.name}.log")


def test_an_outside_redis_needs_no_embedded_one(tmp_path: Path) -> None:
    config = parse(b'{"redis": {"url": "redis://db:6379/0"}}')
    assert "redis" not in names(rendered(config, tmp_path))


def test_a_copy_in_postgresql_is_one_more_process(tmp_path: Path) -> None:
    config = parse(b'{"postgres": {"dsn": "env:DSN"}}')
    assert "worker-sql" in names(rendered(config, tmp_path))


def test_every_entry_exists() -> None:
    for row in PROCESSES:
        module, _, function = row.entry.partition(":")
        source = ROOT / (module.replace(".", "/") + ".py")
        assert f"def {function}(" in source.read_text(), row.entry


def test_streams_named_by_processes_exist() -> None:
    known = {stream.name for stream in STREAMS}
    assert {name for row in PROCESSES for name in (*row.reads, *row.writes)} == known


@pytest.mark.parametrize("row", PROCESSES, ids=lambda row: row.kind)
def test_streams_of_a_process_are_those_of_its_code(row: ProcessSpec) -> None:
    constants = {name: stream.name for name, stream in vars(streams).items() if isinstance(stream, Stream)}
    reads, writes = find_streams(source_of(ROOT, "crowdperf"), row.entry, constants)
    writes -= {stream for kind, stream in NEVER_WRITTEN if kind == row.kind}
    assert (set(row.reads), set(row.writes)) == (reads, writes)


def test_calls_record_metrics_of_the_table() -> None:
    source = source_of(ROOT, "crowdperf")
    kinds: dict[str, Kind] = {"count": "counter", "set_gauge": "gauge", "set_text": "text", "observe": "histogram"}
    recorded = set()
    for module, call in source.calls():
        owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
        if called(call) not in kinds or not owner.endswith("metrics"):
            continue
        kind = kinds[called(call)]
        for pattern in source.values(module, call.args[0]):
            rows = [spec for (of, name), spec in METRICS.items() if of == kind and fnmatch.fnmatchcase(name, pattern)]
            assert rows, f"{module.name}:{call.lineno}: no {kind} {pattern}"
            given = len(call.args[2:])
            for spec in rows:
                assert given == len(spec.labels) or (not given and spec.optional_labels), f"{module.name}:{call.lineno}"
            recorded |= {(kind, spec.name) for spec in rows}
    built = {("gauge", f"{name}_p{share}_ms") for name in LATENCIES for share in PERCENTILES}
    built |= {key for key in METRICS if key[1].startswith(("camera_", "process_", "snapshot_", "stream_rate"))}
    assert METRICS.keys() - built == recorded


def test_causes_of_drops_are_in_the_table() -> None:
    source = source_of(ROOT, "crowdperf")
    calls = [(module, call) for module, call in source.calls() if called(call) == "record_drop"]
    assert {cause for module, call in calls for cause in source.values(module, call.args[0])} == DROP_CAUSES.keys()


@pytest.mark.parametrize(("document", "name"), [(document, name) for document, name in blocks()])
def test_generated_table_is_current(document: str, name: str) -> None:
    text = (ROOT / document).read_text()
    begin, end = BEGIN.format(name=name), END.format(name=name)
    assert begin in text, f"{document} has lost its table {name}"
    inside = text.split(begin, 1)[1].split(end, 1)[0].strip()
    assert inside == blocks()[document, name].strip(), "remedy: python -m tests.support.tables"
