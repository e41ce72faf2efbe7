"""Count a recording with one or two configurations, faster than real time: `crowdperf replay`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from crowdperf.capture.network.url_policy import SourceError
from crowdperf.evaluation.camera_setup import CameraSetup, read_setup
from crowdperf.evaluation.clip import CLIP_START_S, Clip, ClipError, open_clip
from crowdperf.evaluation.comparison import Comparison, compare_outcomes, make_names_distinct
from crowdperf.evaluation.replay import ReplayResult, replay_clip
from crowdperf.evaluation.report import describe_difference, encode_document, format_clock, render_report
from crowdperf.models.loader import load_detector
from crowdperf.models.registry import ModelError
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing
from crowdperf.settings.config import Installation
from crowdperf.settings.environment import Paths

EXPECTED_ERRORS = (ClipError, ModelError, SourceError, FfmpegMissing, OSError)
EXIT_INTERRUPTED = 130
"""Exit status of a command that Ctrl-C has ended."""
PROGRESS_INTERVAL_S = 0.5
MAX_PRINTED_DIFFERENCES = 40
"""Printed differences; the report and the JSON have all."""


def main(words: list[str], installation: Installation) -> int:
    """Run the command; the status is 2, after one line on stderr, when the clip was not counted."""
    arguments = build_parser().parse_args(words)
    files: list[Path] = arguments.config or [installation.config_file]
    if len(files) > 2:
        print("crowdperf replay: --config may be given twice at most.", file=sys.stderr)
        return 2
    setups = [read_setup(file, arguments.camera, installation.paths, installation.root) for file in files]
    names = make_names_distinct([setup.name for setup in setups])
    setups = [replace(setup, name=name) for setup, name in zip(setups, names)]
    try:
        clip = open_clip(arguments.clip, arguments.fps)
        replayed = replay_with_progress(clip, setups, installation.paths)
        compared = compare_outcomes(replayed, arguments.within) if len(files) > 1 else None
        print_results(replayed, compared)
        if arguments.json:
            arguments.json.write_bytes(encode_document(replayed, compared))
        if arguments.report:
            arguments.report.write_text(render_report(replayed, compared), encoding="utf-8")
            print(f"report: {arguments.report}")
    except BrokenPipeError:
        raise
    except EXPECTED_ERRORS as error:
        print(f"crowdperf replay: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `crowdperf replay`."""
    parser = argparse.ArgumentParser(prog="crowdperf replay", description="Count a recording with your configuration.")
    parser.add_argument("--clip", type=Path, required=True, help="the recording")
    parser.add_argument("--config", type=Path, action="append", help="a configuration; twice to compare two of them")
    parser.add_argument("--camera", help="whose lines, zones and settings (default: the only camera)")
    parser.add_argument("--fps", type=parse_rate, help="true pictures per second, where the file's own times are wrong")
    parser.add_argument(
        "--within", type=parse_seconds, default=1.0, help="two counts of one crossing differ by at most, s (1)"
    )
    parser.add_argument("--report", type=Path, metavar="OUT.html", help="write a report with pictures")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write every event and difference")
    return parser


def replay_with_progress(clip: Clip, setups: Sequence[CameraSetup], data: Paths) -> ReplayResult:
    """Replay a clip with the installation's models and show the progress on a terminal.

    Args:
        clip: the recording.
        setups: one or two configurations of its camera.
        data: the installation's data folder, for compiled models.

    Returns:
        The counts of each setup.
    """
    with ProgressLine() as progress:
        return replay_clip(clip, setups, lambda settings: load_detector(settings, data.data / "cache"), progress.update)


class ProgressLine:
    """One line on stderr that is updated in place; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._enabled = sys.stderr.isatty()
        self._started_at = self._printed_at = time.monotonic()

    def __enter__(self) -> ProgressLine:
        return self

    def update(self, at_s: float) -> None:
        """Show that the replay has reached that second of the clip."""
        now = time.monotonic()
        if self._enabled and now - self._printed_at >= PROGRESS_INTERVAL_S:
            self._printed_at = now
            print(
                f"\r  {format_clock(at_s)}, {at_s / (now - self._started_at):.1f} x real time ",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def __exit__(self, *_: object) -> None:
        if self._enabled:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def parse_seconds(text: str) -> float:
    """Parse seconds from 0 to 3600."""
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} seconds. Remedy: give 0 to 3600")
    return value


def parse_rate(text: str) -> float:
    """Parse a positive number of pictures per second."""
    value = float(text)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} pictures per second. Remedy: give a rate above 0, at most 1000")
    return value


def print_results(replayed: ReplayResult, compared: Comparison | None) -> None:
    """Print the counts, and what differs."""
    outcomes = replayed.outcomes
    print_clip_summary(replayed)
    counts = [outcome.count_by_line() for outcome in outcomes]
    names = [outcome.setup.name for outcome in outcomes]
    rows = [(*key, *(str(count[key]) for count in counts)) for key in sorted(set().union(*counts))]
    print_table([("line", "direction", "class", *names), *rows])
    zones = [
        (zone, name, *map(str, (counts.entered, counts.left, counts.most, counts.at_end)))
        for name, outcome in zip(names, outcomes)
        for zone, counts in outcome.zones.items()
    ]
    if zones:
        print_table([("zone", "configuration", "entered", "left", "most", "at the end"), *zones])
    if compared is not None:
        print(f"{len(compared.differences)} crossings differ, {compared.same_count} are counted alike by both")
        for difference in compared.differences[:MAX_PRINTED_DIFFERENCES]:
            event = difference.crossing.event
            print(
                f"{format_clock(difference.crossing.at_s):>11}  {event.line} {event.direction} {event.class_name}: "
                f"{describe_difference(difference, names)}"
            )
        if len(compared.differences) > MAX_PRINTED_DIFFERENCES:
            print(f"  … and {len(compared.differences) - MAX_PRINTED_DIFFERENCES} more: see --report or --json")


def print_clip_summary(replayed: ReplayResult) -> None:
    """Print what was replayed, and how fast."""
    clip = replayed.clip
    print(
        f"{clip.path.name}: {clip.width}x{clip.height}, {len(replayed.times)} pictures, "
        f"{format_clock(replayed.length_s)}; "
        f"replayed in {replayed.took_s:.1f} s, {replayed.speed:.1f} x real time"
    )
    for outcome in replayed.outcomes:
        setup = outcome.setup
        print(f"{setup.name}: camera {setup.tracked.camera_id}, {outcome.describe()}")
    for gap in replayed.outcomes[0].gaps:
        interval = f"{gap.end - gap.start:.1f} s up to {format_clock(gap.end - CLIP_START_S)}"
        print(f"warning: pictures are missing; crossings may be in {interval}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
