"""Compare the counts of a recording with its true crossings, marked by a person: `crowdperf evaluate`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from crowdperf.cli import replay
from crowdperf.evaluation import report, score
from crowdperf.evaluation.camera_setup import CameraSetup, read_setup
from crowdperf.evaluation.clip import open_clip
from crowdperf.evaluation.ground_truth import TruthError, find_picture, read_truth
from crowdperf.evaluation.replay import ReplayResult
from crowdperf.evaluation.score import LineAccuracy
from crowdperf.evaluation.thumbnails import ThumbnailScene
from crowdperf.messaging.redis.client import OUTAGE, connect, describe_outage
from crowdperf.settings.config import Deployment, Installation
from crowdperf.settings.environment import Paths
from crowdperf.storage.evaluations import CountAccuracy, Estimate, LineEvaluation, stage_evaluations

MAX_PRINTED_MISTAKES = 40
"""Printed mistakes per line; the report has all."""
COLUMNS = ("line", "direction", "true", "counted", "matched", "precision", "recall", "count error")


def main(words: list[str], installation: Installation) -> int:
    """Run the command; the status is 2, after one line on stderr, when it fails."""
    arguments = build_parser().parse_args(words)
    data = installation.paths
    file: Path = arguments.config or installation.config_file
    setup = read_setup(file, arguments.camera, data, installation.root)
    try:
        replayed, verdicts = _run_audit(arguments, setup, data)
        replay.print_clip_summary(replayed)
        _print_verdicts(verdicts, replayed.outcomes[0].setup)
        now = time.time()
        audits = [score.build_line_audit(verdict, replayed, arguments.within, now) for verdict in verdicts]
        if arguments.json:
            arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(audits), indent=1) + b"\n")
        if arguments.report:
            arguments.report.write_text(render_audit_report(replayed, verdicts), encoding="utf-8")
            print(f"report: {arguments.report}")
        if arguments.dry_run or arguments.lines_from_truth:
            print("nothing was stored")
        else:
            _store_audits(audits, installation.load(file))
    except BrokenPipeError:
        raise
    except (TruthError, *replay.EXPECTED_ERRORS) as error:
        print(f"crowdperf evaluate: {error}", file=sys.stderr)
        return 2
    except OUTAGE as error:
        reason = describe_outage(error, "start the site, or use --dry-run.")
        print(f"crowdperf evaluate: the audit was not stored, {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return replay.EXIT_INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `crowdperf evaluate`."""
    parser = argparse.ArgumentParser(
        prog="crowdperf evaluate", description="Compare the counts of a clip with its truth."
    )
    parser.add_argument("--clip", type=Path, required=True, help="the recording")
    parser.add_argument("--truth", type=Path, required=True, help="its true crossings, JSON or CSV (docs/replay.md)")
    parser.add_argument("--config", type=Path, help="the configuration (default: the site's)")
    parser.add_argument("--camera", help="whose lines and settings (default: the only camera)")
    parser.add_argument(
        "--fps", type=replay.parse_rate, help="true pictures per second, where the file's own times are wrong"
    )
    parser.add_argument(
        "--within", type=replay.parse_seconds, default=2.0, help="a count may be this early or late, s (2)"
    )
    parser.add_argument("--line", action="append", default=[], help="a line that was watched though nobody crossed it")
    parser.add_argument("--lines-from-truth", action="store_true", help="count the lines that the truth file draws")
    parser.add_argument("--dry-run", action="store_true", help="store nothing")
    parser.add_argument("--report", type=Path, metavar="OUT.html", help="write a report with pictures of every mistake")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures")
    return parser


def _run_audit(
    arguments: argparse.Namespace, setup: CameraSetup, data: Paths
) -> tuple[ReplayResult, list[LineAccuracy]]:
    """Read and check the truth before the replay, which may take minutes."""
    clip = open_clip(arguments.clip, arguments.fps)
    truth = read_truth(arguments.truth, clip)
    if arguments.lines_from_truth:
        setup = truth.replace_lines(setup)
    lines = truth.select_lines(setup, arguments.line)
    replayed = replay.replay_with_progress(clip, [setup], data)
    true = truth.get_crossings(replayed.times)
    return replayed, [score.judge_line(line, replayed.outcomes[0], true, arguments.within) for line in lines]


def _build_rows(verdicts: Sequence[LineAccuracy]) -> list[tuple[str, ...]]:
    rows = []
    for verdict in verdicts:
        for way, figures in (*verdict.directions.items(), ("both", verdict.total)):
            numbers = map(str, (figures.true, figures.counted, figures.matched))
            rows.append((verdict.line.id, way, *numbers, *map(format_percent, _get_estimates(figures))))
    return rows


def _get_estimates(figures: CountAccuracy) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    return figures.precision, figures.recall, figures.count_error


def format_percent(estimate: Estimate | None) -> str:
    """Format an estimate with its interval: 95 % [80, 99]."""
    if estimate is None:
        return "–"
    value, low, high = (f"{100 * part:.0f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} % [{low}, {high}]"


def _print_verdicts(verdicts: Sequence[LineAccuracy], setup: CameraSetup) -> None:
    """Print the figures and the mistakes."""
    replay.print_table([COLUMNS, *_build_rows(verdicts)])
    print("  in brackets: 95 % confidence (docs/replay.md)")
    for verdict in verdicts:
        missed = [(one.at, f"{one.line} {one.direction}: missed") for one in verdict.missed]
        surplus = [(one.at_s, f"{one.event.line} {one.event.direction}: counted, not true") for one in verdict.surplus]
        other = [
            (
                one.at_s,
                f"{one.event.line} {one.event.direction}: a {true.class_name}, counted as {one.event.class_name}",
            )
            for true, one in verdict.other_class
        ]
        mistakes = sorted(missed + surplus + other)
        for at_s, text in mistakes[:MAX_PRINTED_MISTAKES]:
            print(f"{report.format_clock(at_s):>11}  {text}")
        if len(mistakes) > MAX_PRINTED_MISTAKES:
            print(f"  … and {len(mistakes) - MAX_PRINTED_MISTAKES} more at line {verdict.line.id}: see --report")
    judged = {verdict.line.id for verdict in verdicts}
    rest = [line.id for line in setup.tracked.lines if line.id not in judged]
    if rest:
        print(f"not judged: {', '.join(rest)} (the truth does not speak of them; --line says that one was watched)")


def render_audit_report(replayed: ReplayResult, verdicts: Sequence[LineAccuracy]) -> str:
    """Render the report as HTML; raise ClipError where the clip can no longer be read."""
    setup = replayed.outcomes[0].setup
    mistakes: list[report.Card] = []
    for verdict in verdicts:
        for one in verdict.missed:
            scene = ThumbnailScene(find_picture(replayed.times, one.at), one.line, setup, one.direction, None)
            mistakes.append(report.Card(scene, one.at, f"{one.line} · {one.direction}", "missed"))
        mistakes += [report.build_card(one, setup, "counted, not true") for one in verdict.surplus]
        mistakes += [report.build_card(one, setup, f"truly a {true.class_name}") for true, one in verdict.other_class]
    mistakes.sort(key=lambda one: one.at_s)
    return report.render_page(
        f"Audit of {replayed.clip.path.name}",
        [
            report.render_list(report.summarize_replay(replayed)),
            report.render_gaps(replayed),
            report.render_heading("Lines"),
            report.render_table(COLUMNS, _build_rows(verdicts), len(COLUMNS) - 2),
            report.render_paragraph("In brackets: the 95 % confidence interval."),
            report.render_heading("Mistakes"),
            report.render_cards(replayed.clip, mistakes) if mistakes else report.render_paragraph("None."),
        ],
    )


def _store_audits(audits: Sequence[LineEvaluation], deployment: Deployment) -> None:
    """Store the results as the last audits of their lines."""
    with connect(deployment.redis_url).pipeline() as pipe:
        stage_evaluations(pipe, audits, deployment.config.key_prefix)
        pipe.execute()
    print(f"stored as the last audit of {', '.join(audit.line for audit in audits)}")
