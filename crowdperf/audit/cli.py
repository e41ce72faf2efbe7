"""`crowdperf audit`: how well each line counts, by a recording whose true crossings somebody has marked."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from crowdperf.audit.judge import Verdict, audited_lines, judge, record, with_lines_of
from crowdperf.audit.truth import TruthError, picture_at, read_truth
from crowdperf.config import load
from crowdperf.events.connection import OUTAGE, connect, told
from crowdperf.replay.cli import INTERRUPTED, TROUBLE, print_table, rate, replay, say_clip, seconds
from crowdperf.replay.clip import open_clip
from crowdperf.replay.page import Card, cards, clock, facts, heading, page, paragraph, table
from crowdperf.replay.report import card, gaps, head
from crowdperf.replay.run import Replayed
from crowdperf.replay.setup import Setup, read_setup
from crowdperf.replay.thumbnails import Scene
from crowdperf.settings.paths import Paths
from crowdperf.slices import redis_url
from crowdperf.storage.audits import Estimate, Figures, LineAudit, stage

SHOWN = 40
"""Mistakes that are printed per line; the report has all."""
COLUMNS = ("line", "direction", "true", "counted", "matched", "precision", "recall", "count error")


def main(argv: list[str], default_config: Path, data: Paths, root: Path) -> int:
    """Run the command; 0 when the clip was judged (and stored, unless that was not wanted), 2 after one line on stderr.

    Args:
        argv: the words after `audit`.
        default_config: where no --config is given.
        data: the installation's folder, for the cache of compiled models and the embedded Redis.
        root: the working folder.

    Raises:
        ConfigError: the configuration is invalid, or has not the camera meant.
    """
    arguments = parser().parse_args(argv)
    file: Path = arguments.config or default_config
    setup = read_setup(file, arguments.camera, data, root)
    try:
        replayed, verdicts = _judged(arguments, setup, data)
        say_clip(replayed)
        _say(verdicts, replayed.outcomes[0].setup)
        outcome, now = replayed.outcomes[0], time.time()
        audits = [record(verdict, outcome, replayed, arguments.within, now) for verdict in verdicts]
        if arguments.json:
            arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(audits), indent=1) + b"\n")
        if arguments.report:
            arguments.report.write_text(report(replayed, verdicts), encoding="utf-8")
            print(f"report: {arguments.report}")
        if arguments.dry_run or arguments.lines_from_truth:
            print("nothing was stored")
        else:
            _store(audits, file, data)
    except BrokenPipeError:
        raise
    except (TruthError, *TROUBLE) as error:
        print(f"crowdperf audit: {error}", file=sys.stderr)
        return 2
    except OUTAGE as error:
        said = told(error, "start the site, or use --dry-run.")
        print(f"crowdperf audit: the audit was not stored, {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    own = argparse.ArgumentParser(prog="crowdperf audit", description="Judge the counts of a clip by its truth.")
    own.add_argument("--clip", type=Path, required=True, help="the recording")
    own.add_argument("--truth", type=Path, required=True, help="its true crossings, JSON or CSV (docs/replay.md)")
    own.add_argument("--config", type=Path, help="the configuration (default: the site's)")
    own.add_argument("--camera", help="whose lines and settings (default: the only camera)")
    own.add_argument("--fps", type=rate, help="true pictures per second, where the file's own times are wrong")
    own.add_argument("--within", type=seconds, default=2.0, help="a count may be this early or late, s (2)")
    own.add_argument("--line", action="append", default=[], help="a line that was watched though nobody crossed it")
    own.add_argument("--lines-from-truth", action="store_true", help="count the lines that the truth file draws")
    own.add_argument("--dry-run", action="store_true", help="store nothing")
    own.add_argument("--report", type=Path, metavar="OUT.html", help="write a report with pictures of every mistake")
    own.add_argument("--json", type=Path, metavar="OUT.json", help="write the figures")
    return own


def _judged(arguments: argparse.Namespace, setup: Setup, data: Paths) -> tuple[Replayed, list[Verdict]]:
    """What is wrong with the truth is said before the clip is replayed, which may take minutes."""
    clip, source = open_clip(arguments.clip, arguments.fps), arguments.truth.name
    truth = read_truth(arguments.truth, clip)
    if arguments.lines_from_truth:
        setup = with_lines_of(setup, truth, source)
    lines = audited_lines(setup, truth, arguments.line, source)
    replayed = replay(clip, [setup], data)
    true = truth.crossings(replayed.times)
    return replayed, judge(lines, replayed.outcomes[0], true, arguments.within)


def _rows(verdicts: Sequence[Verdict]) -> list[tuple[str, ...]]:
    rows = []
    for verdict in verdicts:
        for way, figures in (*verdict.score.directions.items(), ("both", verdict.score.total)):
            numbers = map(str, (figures.true, figures.counted, figures.matched))
            rows.append((verdict.line.id, way, *numbers, *map(percent, _estimates(figures))))
    return rows


def _estimates(figures: Figures) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    return figures.precision, figures.recall, figures.count_error


def percent(estimate: Estimate | None) -> str:
    """An estimate with its interval: 95 % [80, 99]."""
    if estimate is None:
        return "–"
    value, low, high = (f"{100 * part:.0f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} % [{low}, {high}]"


def _say(verdicts: Sequence[Verdict], setup: Setup) -> None:
    """Print the figures and the mistakes."""
    print_table([COLUMNS, *_rows(verdicts)])
    print("  in brackets: 95 % confidence (docs/replay.md)")
    for verdict in verdicts:
        missed = [(one.at, f"{one.line} {one.direction}: missed") for one in verdict.score.matching.missed]
        surplus = [(one.at_s, f"{one.event.line} {one.event.direction}: counted, not true") for one in verdict.surplus]
        other = [
            (one.at_s, f"{one.event.line} {one.event.direction}: a {true.klass}, counted as {one.event.klass}")
            for true, one in verdict.other_class
        ]
        mistakes = sorted(missed + surplus + other)
        for at_s, text in mistakes[:SHOWN]:
            print(f"{clock(at_s):>11}  {text}")
        if len(mistakes) > SHOWN:
            print(f"  … and {len(mistakes) - SHOWN} more at line {verdict.line.id}: see --report")
    judged = {verdict.line.id for verdict in verdicts}
    rest = [line.id for line in setup.tracked.lines if line.id not in judged]
    if rest:
        print(f"not judged: {', '.join(rest)} (the truth does not speak of them; --line says that one was watched)")


def report(replayed: Replayed, verdicts: Sequence[Verdict]) -> str:
    """The HTML text.

    Raises:
        ClipError: the clip cannot be read any more.
    """
    setup = replayed.outcomes[0].setup
    mistakes: list[Card] = []
    for verdict in verdicts:
        for one in verdict.score.matching.missed:
            scene = Scene(picture_at(replayed.times, one.at), one.line, setup, one.direction, None)
            mistakes.append(Card(scene, one.at, f"{one.line} · {one.direction}", "missed"))
        mistakes += [card(one, setup, "counted, not true") for one in verdict.surplus]
        mistakes += [card(one, setup, f"truly a {true.klass}") for true, one in verdict.other_class]
    mistakes.sort(key=lambda one: one.at_s)
    return page(
        f"Audit of {replayed.clip.path.name}",
        [
            facts(head(replayed)),
            gaps(replayed),
            heading("Lines"),
            table(COLUMNS, _rows(verdicts), len(COLUMNS) - 2),
            paragraph("In brackets: the 95 % confidence interval."),
            heading("Mistakes"),
            cards(replayed.clip, mistakes) if mistakes else paragraph("None."),
        ],
    )


def _store(audits: Sequence[LineAudit], file: Path, data: Paths) -> None:
    """Keep them as the last audits of their lines.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    config = load(file)
    client = connect(redis_url(config, data))
    with client.pipeline() as pipe:
        stage(pipe, audits, config.key_prefix)
        pipe.execute()
    print(f"stored as the last audit of {', '.join(audit.line for audit in audits)}")
