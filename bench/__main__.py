"""`python -m bench list` and `python -m bench run NAME [--short] [--json FILE] [--kills N]`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path

import msgspec

from bench.harness import Result, Row, context

FOLDER = Path(__file__).resolve().parent


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
    return f"{row.name:<34} {row.value:12.3f} {row.unit:<10} {peer}{interval}"


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
    arguments = parser.parse_args()
    if arguments.command == "list":
        print("\n".join(names()))
        return 0
    measure = importlib.import_module("bench." + arguments.name.replace("/", ".")).rows
    options = {} if arguments.kills is None else {"kills": arguments.kills}
    if not options.keys() <= inspect.signature(measure).parameters.keys() or min(options.values(), default=1) < 1:
        run.error(f"--kills {arguments.kills}: {arguments.name} takes none, or the number is not positive")
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
