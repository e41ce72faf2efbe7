"""`python -m bench list` and `python -m bench run NAME [--short] [--json FILE]`; some benches have more options.

`--before` is another checkout of crowdperf, whose site is measured in turn with this one; the environment variable
CROWDPERF_BENCH_BEFORE names it too.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from bench.harness import Result, Row, context

FOLDER = Path(__file__).resolve().parent
OPTIONS = ("kills", "scenes", "before")
"""What some benches take."""


def names() -> list[str]:
    """Return every bench: a module with `rows(short)` below micro, pipeline or stress."""
    return sorted(
        f"{path.parent.name}/{path.stem}"
        for kind in ("micro", "pipeline", "stress")
        for path in (FOLDER / kind).glob("*.py")
        if path.stem != "__init__"
    )


def show(row: Row) -> str:
    """Return a row as people read it."""
    peer = f"{row.ratio:8.3f} x {row.limit_or_peer}" if row.ratio is not None else f"{row.limit_or_peer:>10}"
    interval = f" [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]" if row.ci95 else ""
    right = f", counted {row.counts.counted} of {row.counts.true}, {row.counts.matched} matched" if row.counts else ""
    return f"{row.name:<34} {row.value:12.3f} {row.unit:<10} {peer}{interval}{right}"


def choose(arguments: argparse.Namespace, known: Collection[str]) -> dict[str, Any]:
    """Return the options for a bench that knows these, or raise ValueError about one that it does not know."""
    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    for name in given.keys() - known:
        raise ValueError(f"--{name} {given[name]}: {arguments.name} takes none")
    if given.get("kills", 1) < 1:
        raise ValueError(f"--kills {given['kills']}: the number is not positive")
    before = os.environ.get("CROWDPERF_BENCH_BEFORE")
    return {"before": Path(before), **given} if before and "before" in known else given


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="bench", description="Measurements beside their limit or peer.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    run = commands.add_parser("run")
    run.add_argument("name", choices=names(), metavar="NAME")
    run.add_argument("--short", action="store_true", help="fewer repetitions")
    run.add_argument("--json", type=Path, metavar="FILE")
    run.add_argument("--kills", type=int, metavar="N", help="how many processes are killed (stress/chaos)")
    run.add_argument("--scenes", choices=("demo", "mixed", "busy"), help="what the cameras play (pipeline)")
    run.add_argument("--before", type=Path, metavar="DIR", help="checkout of the build before (pipeline/cameras)")
    arguments = parser.parse_args()
    if arguments.command == "list":
        print("\n".join(names()))
        return 0
    measure = importlib.import_module("bench." + arguments.name.replace("/", ".")).rows
    try:
        options = choose(arguments, inspect.signature(measure).parameters)
    except ValueError as error:
        run.error(str(error))
    where = context()
    rows = measure(arguments.short, **options)
    for row in rows:
        print(show(row), flush=True)
    if arguments.json:
        result = Result(bench=arguments.name, context=where, rows=rows)
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
