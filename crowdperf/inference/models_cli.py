"""`python -m crowdperf models list | verify | export [--int8 --calibration FOLDER] [NAME …]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crowdperf.inference.export import export
from crowdperf.inference.quantise import quantise
from crowdperf.inference.registry import FOLDER, ModelError, ModelFile, check_file, read_manifest


def main(argv: list[str]) -> int:
    """Run one of the model commands; the exit status is 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="crowdperf models", description="the model registry, models/manifest.json")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the registered models")
    commands.add_parser("verify", help="compare every model file with its sha256")
    exporting = commands.add_parser("export", help="write the OpenVINO form of models from their weights")
    exporting.add_argument("names", nargs="*", metavar="NAME", help="default: every model that has one already")
    exporting.add_argument("--int8", action="store_true", help="write the int8 variant of the OpenVINO form (nncf)")
    exporting.add_argument(
        "--calibration",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="with --int8: .jpg pictures to calibrate with; may be repeated; every third picture is left out",
    )
    exporting.add_argument("--cache", type=Path, default=Path("var/cache"), help="folder for Ultralytics' settings")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "list":
            _list()
        elif arguments.command == "verify":
            _verify()
        else:
            _export(arguments)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _list() -> None:
    for entry in read_manifest().models:
        runtimes = ", ".join(f"{variant.runtime} ({variant.precision})" for variant in entry.variants)
        print(
            f"{entry.name}  role {entry.role}  {entry.licence}  runtimes: {runtimes}  "
            f"classes: {', '.join(entry.classes)}"
        )


def _verify() -> None:
    for entry in read_manifest().models:
        files = {ModelFile(entry.file, entry.sha256)}
        files.update(file for variant in entry.variants for file in variant.files)
        for file in sorted(files, key=lambda file: file.file):
            check_file(FOLDER, file)
            print(f"{file.file}: sha256 as registered")


def _export(arguments: argparse.Namespace) -> None:
    chosen = arguments.names or [
        entry.name
        for entry in read_manifest().models
        if any(variant.runtime == "openvino" for variant in entry.variants)
    ]
    for name in chosen:
        written = quantise(name, arguments.calibration) if arguments.int8 else export(name, arguments.cache)
        for path in written:
            print(f"wrote {path}")
