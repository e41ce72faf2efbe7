"""What `crowdperf replay --report` writes."""

from __future__ import annotations

from crowdperf.replay.difference import Comparison, Difference, find_changed_settings
from crowdperf.replay.page import (
    Card,
    format_clock,
    render_cards,
    render_heading,
    render_list,
    render_page,
    render_paragraph,
    render_table,
)
from crowdperf.replay.run import CountedCrossing, ReplayResult
from crowdperf.replay.setup import CameraSetup
from crowdperf.replay.thumbnails import ThumbnailScene


def render_report(replayed: ReplayResult, compared: Comparison | None) -> str:
    """The HTML text.

    Raises:
        ClipError: the clip cannot be read any more.
    """
    names = [outcome.setup.name for outcome in replayed.outcomes]
    parts = [
        render_list(summarize_replay(replayed)),
        _render_counts(replayed, names),
        _render_zones(replayed, names),
        render_gaps(replayed),
    ]
    if compared is not None:
        parts += [_render_settings(replayed, names), _render_differences(replayed, compared, names)]
    else:
        setup = replayed.outcomes[0].setup
        parts += [
            render_heading("Crossings"),
            render_cards(replayed.clip, [build_card(one, setup) for one in replayed.outcomes[0].crossings]),
        ]
    return render_page(f"Replay of {replayed.clip.path.name}", parts)


def summarize_replay(replayed: ReplayResult) -> list[str]:
    """The clip, the speed, the configurations."""
    clip = replayed.clip
    return [
        f"{clip.width}×{clip.height}, {len(replayed.times)} pictures, {format_clock(replayed.length_s)}",
        f"replayed in {replayed.took_s:.1f} s, {replayed.speed:.1f} × real time",
        *(
            f"{one.setup.name}: camera {one.setup.tracked.camera_id}, {one.analysed} frames analysed, {one.model}"
            for one in replayed.outcomes
        ),
    ]


def render_gaps(replayed: ReplayResult) -> str:
    """A warning where pictures are missing."""
    found = replayed.outcomes[0].gaps
    if not found:
        return ""
    seconds = sum(gap.end - gap.start for gap in found)
    return render_paragraph(
        f"Pictures are missing: crossings may be, too, in {seconds:.1f} s in all ({len(found)} gaps).", True
    )


def build_card(crossing: CountedCrossing, setup: CameraSetup, why: str = "") -> Card:
    """A counted crossing."""
    event = crossing.event
    scene = ThumbnailScene(crossing.number, event.line, setup, event.direction, crossing.box)
    return Card(scene, crossing.at_s, f"{event.line} · {event.direction} · {event.klass}", why, event.track)


def _render_counts(replayed: ReplayResult, names: list[str]) -> str:
    counts = [outcome.count_by_line() for outcome in replayed.outcomes]
    keys = sorted(set().union(*counts))
    if not keys:
        return render_heading("Lines") + render_paragraph("Nothing was counted.")
    rows = []
    for key in keys:
        numbers = [count[key] for count in counts]
        change = [f"{numbers[1] - numbers[0]:+d}" if numbers[0] != numbers[1] else "–"] if len(numbers) > 1 else []
        rows.append([*key, *numbers, *change])
    columns = ["line", "direction", "class", *names, *(["change"] if len(names) > 1 else [])]
    return render_heading("Lines") + render_table(columns, rows, len(columns) - 3)


def _render_zones(replayed: ReplayResult, names: list[str]) -> str:
    rows = [
        [zone, name, found.entered, found.left, found.most, found.at_end]
        for name, outcome in zip(names, replayed.outcomes)
        for zone, found in outcome.zones.items()
    ]
    if not rows:
        return ""
    columns = ["zone", "configuration", "entered", "left", "most at once", "at the end"]
    return render_heading("Zones") + render_table(columns, sorted(rows), 4)


def _render_settings(replayed: ReplayResult, names: list[str]) -> str:
    first, second = replayed.outcomes
    rows = [
        [path, *("–" if value is None else value for value in values)]
        for path, *values in find_changed_settings(first, second)
    ]
    return render_heading("Settings that differ") + (
        render_table(["setting", *names], rows) if rows else render_paragraph("None.")
    )


def _render_differences(replayed: ReplayResult, compared: Comparison, names: list[str]) -> str:
    setups = [outcome.setup for outcome in replayed.outcomes]
    found = compared.differences
    return (
        render_heading("Crossings that differ")
        + render_paragraph(f"{len(found)} differ; {compared.same_count} are counted alike by both.")
        + render_cards(
            replayed.clip,
            [build_card(one.crossing, setups[one.outcome_index], describe_difference(one, names)) for one in found],
        )
    )


def describe_difference(difference: Difference, names: list[str]) -> str:
    """What a difference consists of."""
    event = difference.crossing.event
    if difference.kind == "only" or difference.other is None:
        return f"only in {names[difference.outcome_index]}"
    if difference.kind == "direction":
        return f"{event.direction} in {names[0]}, {difference.other.event.direction} in {names[1]}"
    return f"{event.klass} in {names[0]}, {difference.other.event.klass} in {names[1]}"
