"""The tables in docs/ that are generated from code: `python -m tests.support.tables` writes them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.harness import Result
from crowdperf.messaging.streams import STREAMS
from crowdperf.runtime.metrics_table import METRICS
from crowdperf.settings.camera import Camera, Line, Zone
from crowdperf.settings.config import Config
from crowdperf.settings.ppe import PpeRule
from crowdperf.settings.schedule import Window
from crowdperf.supervision.processes import PROCESSES
from tests.conftest import ROOT
from tests.support.permissions import build_matrix

BEGIN = "<!-- generated: {name} -->"
BENCHMARKS = ROOT / "docs" / "benchmarks"
END = "<!-- end: {name} -->"
INSTANCES = {
    "embedded": "1, or 0 with an own Redis",
    "one": "1",
    "postgres": "1 where `postgres.dsn` is set",
    "camera": "one per camera, `{kind}-<camera id>`; or `{kind}-group-<n>` (`cameras_per_process`)",
    "shard": "`tracking.shards`, `{kind}-<n>`",
    "worker": "`workers.{role}`, `{kind}-<n>`",
    "listener": "1 (event listener)",
}


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def processes() -> str:
    """Return the process table."""
    rows = [
        (
            f"`{row.kind}`",
            INSTANCES[row.instances].format(kind=row.kind, role=row.kind.partition("-")[2]),
            ", ".join(row.reads) or "–",
            ", ".join(row.writes) or "–",
            f"{row.max_silence_s:g} s" if row.max_silence_s else "–",
            row.description,
        )
        for row in PROCESSES
    ]
    return table(("process", "instances", "reads", "writes", "watchdog", "does"), rows)


def streams() -> str:
    """Return the stream table."""
    rows = [
        (f"`{row.key}`", carried(row.message_type), row.encoding, row.ids, row.retention, row.expected_rate.describe())
        for row in STREAMS
    ]
    return table(("stream", "carries", "encoding", "ids", "kept", "expected rate"), rows)


def carried(kind: Any) -> str:
    """Names of the Structs of a stream."""
    return ", ".join(f"`{member.__name__}`" for member in getattr(kind, "__args__", (kind,)))


def metrics() -> str:
    """Make the table of metrics; texts are not at /metrics."""
    specs = sorted((spec for spec in METRICS.values() if spec.kind != "text"), key=lambda spec: spec.exported_name)
    rows = [
        (
            f"`{spec.exported_name}`",
            spec.kind,
            spec.unit,
            ", ".join(f"`{label}`" for label in spec.labels) or "–",
            spec.help,
        )
        for spec in specs
    ]
    return table(("metric", "type", "unit", "labels", "meaning"), rows)


def texts() -> str:
    """Make the table of texts."""
    specs = [spec for spec in METRICS.values() if spec.kind == "text"]
    rows = [(f"`{spec.name}`", ", ".join(f"`{label}`" for label in spec.labels) or "–", spec.help) for spec in specs]
    return table(("text", "labels", "meaning"), rows)


def permissions() -> str:
    """Make the matrix of routes and callers."""
    head, *rows = build_matrix()
    return table(head, rows)


def settings() -> str:
    """Return every setting of the file with its default."""
    rows: list[tuple[str, ...]] = []
    collect(Config, "", rows)
    for kind, prefix in (
        (Camera, "cameras[]."),
        (Line, "cameras[].lines[]."),
        (Zone, "cameras[].zones[]."),
        (PpeRule, "cameras[].ppe[]."),
        (Window, "cameras[].ppe[].schedule[]."),
    ):
        collect(kind, prefix, rows)
    return table(("setting", "default"), rows)


def collect(kind: Any, prefix: str, rows: list[tuple[str, ...]]) -> None:
    """Add one Struct's settings, nested blocks included."""
    for item in msgspec.structs.fields(kind):
        default = item.default if item.default is not msgspec.NODEFAULT else None
        if item.default_factory is not msgspec.NODEFAULT:
            default = item.default_factory()
        if isinstance(default, msgspec.Struct):
            collect(type(default), f"{prefix}{item.name}.", rows)
        else:
            text = "required" if item.required else f"`{msgspec.json.encode(default).decode()}`"
            rows.append((f"`{prefix}{item.name}`", text))


def tests() -> str:
    """Make the table of tests: how many files and test functions each folder has."""
    counts: dict[str, list[int]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        folder = path.relative_to(ROOT).parts[1] if path.parent != ROOT / "tests" else ""
        functions = find_tests(ast.parse(path.read_text(encoding="utf-8")))
        row = counts.setdefault(f"`tests/{folder}`".replace("/`", "`"), [0, 0, 0])
        row[0] += 1
        row[1] += len(functions)
        row[2] += sum(any("given(" in ast.unparse(mark) for mark in each.decorator_list) for each in functions)
    counts["all"] = [sum(column) for column in zip(*counts.values())]
    rows = [(name, *map(str, numbers)) for name, numbers in counts.items()]
    return table(("folder", "files", "test functions", "with made-up input (Hypothesis)"), rows)


def find_tests(module: ast.Module) -> list[ast.FunctionDef]:
    """Return the test functions of a module, those in classes included."""
    bodies = [module.body, *(node.body for node in module.body if isinstance(node, ast.ClassDef))]
    return [
        node for body in bodies for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def show_number(value: float) -> str:
    """Return a figure with three digits that count, or as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def bench_rows(file: Path) -> str:
    """Make the table of a bench's JSON, with what is to be known about the run."""
    result = msgspec.json.decode(file.read_bytes(), type=Result)
    rows = [
        (
            f"`{row.name}`",
            f"{show_number(row.value)} {row.unit}".strip(),
            row.limit_or_peer or "–",
            f"{row.ratio:.3g}" if row.ratio is not None else "–",
            " to ".join(f"{bound:.3g}" for bound in row.ci95) or "–",
        )
        for row in result.rows
    ]
    known = result.context
    run = f"`{result.bench}` of commit {known['commit']}, {known['at'][:10]}, load {known['load'][0]:.1f}"
    head = ("figure", "value", "limit or peer", "ratio to it", "95 % interval of the ratio")
    return f"{table(head, rows)}\n\n[{file.name}]({file.name}): {run}."


def benchmarks() -> dict[tuple[str, str], str]:
    """Return the tables of all benches whose JSON lies beside the page that shows them."""
    return {
        (page.relative_to(ROOT).as_posix(), file.stem): bench_rows(file)
        for page in sorted(BENCHMARKS.glob("*.md"))
        for file in sorted(BENCHMARKS.glob("*.json"))
        if BEGIN.format(name=file.stem) in page.read_text(encoding="utf-8")
    }


def blocks() -> dict[tuple[str, str], str]:
    """(document, name) -> generated text."""
    return {
        ("docs/architecture.md", "processes"): processes(),
        ("docs/architecture.md", "streams"): streams(),
        ("docs/reference/metrics.md", "metrics"): metrics(),
        ("docs/reference/metrics.md", "texts"): texts(),
        ("docs/reference/permissions.md", "permissions"): permissions(),
        ("docs/tuning.md", "settings"): settings(),
        ("docs/testing.md", "tests"): tests(),
        **benchmarks(),
    }


def main() -> None:
    """Write every generated block into its document."""
    for (document, name), text in blocks().items():
        path = ROOT / document
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, rest = path.read_text().split(begin, 1)
        path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


if __name__ == "__main__":
    main()
