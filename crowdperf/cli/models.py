"""List, verify, add, export or measure models: `crowdperf models`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crowdperf.frames.ring import RingSpec
from crowdperf.models.loader import build_settings, load_detector
from crowdperf.models.registration import add_model, export_openvino, list_exportable, quantize_int8
from crowdperf.models.registry import MODELS_FOLDER, ModelError, ModelFile, check_file, read_manifest
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation
from crowdperf.settings.engine import Models

BENCH_S = 3.0
"""Seconds for which each model is measured."""


def main(words: list[str], _installation: Installation) -> int:
    """Run one of the model commands; the status is 1, after one line on stderr, when it fails."""
    if words[:1] == ["compare"]:
        return _compare(words[1:])
    arguments = _build_parser().parse_args(words)
    try:
        COMMANDS[arguments.command](arguments)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crowdperf models", description="the model registry, models/manifest.json")
    parser.add_argument("--cache", type=Path, default=Path("var/cache"), help="folder for compiled models and settings")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the registered models")
    commands.add_parser("verify", help="compare every model file with its sha256")
    adding = commands.add_parser("add", help="copy a model of your own into the registry, with its sha256")
    adding.add_argument("file", help=".pt, .onnx, .xml or an OpenVINO folder")
    adding.add_argument("--name", required=True, help="what inference.models is to call it")
    adding.add_argument("--role", choices=("person", "ppe"), default="person")
    label_help = "a class name that differs from crowdperf's"
    adding.add_argument("--label", action="append", default=[], metavar="THEIRS=OURS", help=label_help)
    adding.add_argument("--licence", default="own", help="kept in the manifest")
    adding.add_argument("--source", default="", help="kept in the manifest: where it comes from")
    exporting = commands.add_parser("export", help="write the OpenVINO form of models from their weights")
    exporting.add_argument("names", nargs="*", metavar="NAME", help="default: every model that has one already")
    exporting.add_argument("--int8", action="store_true", help="write the int8 variant of the OpenVINO form (nncf)")
    calibration_help = "with --int8: .jpg pictures to calibrate with; may be repeated; every third picture is left out"
    exporting.add_argument(
        "--calibration", type=Path, action="append", default=[], metavar="FOLDER", help=calibration_help
    )
    timing = commands.add_parser("bench", help="frames per second of models on this machine")
    timing.add_argument("names", nargs="*", metavar="NAME", help="registered names or paths; default: the person model")
    timing.add_argument("--role", choices=("person", "ppe"), default="person")
    timing.add_argument("--size", default="640x360", metavar="WxH", help="of the ring's pictures")
    timing.add_argument("--precision", choices=("auto", "full", "int8"), default="auto")
    commands.add_parser(
        "compare", help="what another model or precision changes, on pictures and clips", add_help=False
    )
    return parser


def _compare(words: list[str]) -> int:
    """Run `crowdperf models compare`; the status is 1, after one line on stderr, when it fails."""
    # It also counts on clips, which needs more modules than the other commands.
    from crowdperf.evaluation.clip import ClipError
    from crowdperf.evaluation.comparison import compare_models

    parser = argparse.ArgumentParser(
        prog="crowdperf models compare", description="Compare two models on labelled pictures and on cameras' clips."
    )
    parser.add_argument("first", help="a registered name or a path; 'NAME:int8' and 'NAME:full' choose the precision")
    parser.add_argument("second")
    parser.add_argument("--role", choices=("person", "ppe"), default="person")
    parser.add_argument("--images", type=Path, action="append", default=[], metavar="FOLDER", help="labelled pictures")
    parser.add_argument("--config", type=Path, help="count on this configuration's cameras that play a local file")
    parser.add_argument("--cache", type=Path, default=Path("var/cache"))
    asked = parser.parse_args(words)
    try:
        for line in compare_models((asked.first, asked.second), asked.role, asked.images, asked.config, asked.cache):
            print(line, flush=True)
    except (ModelError, ClipError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _list(_: argparse.Namespace) -> None:
    for entry in read_manifest().models:
        runtimes = ", ".join(f"{variant.runtime} ({variant.precision})" for variant in entry.variants)
        print(
            f"{entry.name}  role {entry.role}  {entry.licence}  runtimes: {runtimes}  "
            f"classes: {', '.join(entry.classes)}"
        )


def verify_files(folder: Path = MODELS_FOLDER) -> None:
    """Compare every registered file with its hash; a ModelError has a line for each wrong one."""
    files = [file for entry in read_manifest(folder).models for file in entry.all_files]
    wrong = [text for file in files if (text := _verify_file(folder, file))]
    if wrong:
        raise ModelError("\n".join(wrong))


def _verify_file(folder: Path, file: ModelFile) -> str:
    """Return the problem of a registered file; print a line and return "" where there is none."""
    try:
        check_file(folder, file)
    except ModelError as error:
        return str(error)
    print(f"{file.file}: sha256 as registered")
    return ""


def _add(arguments: argparse.Namespace) -> None:
    labels = {}
    for text in arguments.label:
        foreign, equals, own = text.partition("=")
        if not (foreign and equals and own):
            raise ModelError(f"--label {text!r} is not THEIRS=OURS. Remedy: write it like Helmet=hardhat.")
        labels[foreign] = own
    entry = add_model(
        Path(arguments.file),
        *(arguments.name, arguments.role, labels, arguments.licence, arguments.source, arguments.cache),
    )
    print(f"{entry.name}: registered for {entry.role}, classes: {', '.join(entry.classes)}")
    print(f'use it with "inference": {{"models": {{"{entry.role}": "{entry.name}"}}}}')


def _export(arguments: argparse.Namespace) -> None:
    for name in arguments.names or list_exportable(read_manifest()):
        written = (
            quantize_int8(name, arguments.calibration) if arguments.int8 else export_openvino(name, arguments.cache)
        )
        for path in written:
            print(f"wrote {path}")


def _bench(arguments: argparse.Namespace) -> None:
    width, height = parse_size(arguments.size)
    spec = RingSpec(width, height, "yuv420p", width, height, 4, 10.0, 0)
    for name in arguments.names or [getattr(Models(), arguments.role)]:
        detector = load_detector(
            build_settings(name, arguments.role, arguments.precision), arguments.cache, role=arguments.role
        )
        noise = np.random.default_rng(1)
        frames = [noise.integers(0, 255, spec.frame_bytes, dtype=np.uint8) for _ in range(detector.backend.max_batch)]
        detector.detect(frames, spec)
        started_at, rounds = time.perf_counter(), 0
        while time.perf_counter() - started_at < BENCH_S:
            detector.detect(frames, spec)
            rounds += 1
        frame_s = (time.perf_counter() - started_at) / (rounds * len(frames))
        print(
            f"{detector.model} ({detector.description}) at {width}x{height}: {1 / frame_s:.1f} frames/s, "
            f"{frame_s * 1e3:.1f} ms per frame in batches of {len(frames)}"
        )


def parse_size(text: str) -> tuple[int, int]:
    """Parse width and height like "640x360"; raise ModelError where a ring cannot have that size."""
    width, _, height = text.partition("x")
    sides = [int(side) if side.isdigit() else 0 for side in (width, height)]
    if min(sides) < 32 or sides[0] % 2 or sides[1] % 2:
        raise ModelError(f"{text!r} is no size of pictures. Remedy: two even numbers from 32 on, like 640x360.")
    return sides[0], sides[1]


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "list": _list,
    "verify": lambda _: verify_files(),
    "add": _add,
    "export": _export,
    "bench": _bench,
}
