"""What `crowdperf replay --report` writes."""

from __future__ import annotations

from crowdperf.replay.difference import Compared, Difference, changed_settings
from crowdperf.replay.page import Card, cards, clock, facts, heading, page, paragraph, table
from crowdperf.replay.run import Crossing, Replayed
from crowdperf.replay.setup import Setup
from crowdperf.replay.thumbnails import Scene


def report(replayed: Replayed, compared: Compared | None) -> str:
    """The HTML text.

    Raises:
        ClipError: the clip cannot be read any more.
    """
    names = [outcome.setup.name for outcome in replayed.outcomes]
    parts = [facts(head(replayed)), _counts(replayed, names), _zones(replayed, names), gaps(replayed)]
    if compared is not None:
        parts += [_settings(replayed, names), _differences(replayed, compared, names)]
    else:
        setup = replayed.outcomes[0].setup
        parts += [
            heading("Crossings"),
            cards(replayed.clip, [card(one, setup) for one in replayed.outcomes[0].crossings]),
        ]
    return page(f"Replay of {replayed.clip.path.name}", parts)


def head(replayed: Replayed) -> list[str]:
    """The clip, the speed, the configurations."""
    clip = replayed.clip
    return [
        f"{clip.width}×{clip.height}, {len(replayed.times)} pictures, {clock(replayed.length_s)}",
        f"replayed in {replayed.took_s:.1f} s, {replayed.speed:.1f} × real time",
        *(
            f"{one.setup.name}: camera {one.setup.tracked.camera_id}, {one.analysed} frames analysed, {one.model}"
            for one in replayed.outcomes
        ),
    ]


def gaps(replayed: Replayed) -> str:
    """A warning where pictures are missing."""
    found = replayed.outcomes[0].gaps
    if not found:
        return ""
    seconds = sum(gap.end - gap.start for gap in found)
    return paragraph(
        f"Pictures are missing: crossings may be, too, in {seconds:.1f} s in all ({len(found)} gaps).", True
    )


def card(crossing: Crossing, setup: Setup, why: str = "") -> Card:
    """A counted crossing."""
    event = crossing.event
    scene = Scene(crossing.number, event.line, setup, event.direction, crossing.box)
    return Card(scene, crossing.at_s, f"{event.line} · {event.direction} · {event.klass}", why, event.track)


def _counts(replayed: Replayed, names: list[str]) -> str:
    counts = [outcome.counts() for outcome in replayed.outcomes]
    keys = sorted(set().union(*counts))
    if not keys:
        return heading("Lines") + paragraph("Nothing was counted.")
    rows = []
    for key in keys:
        numbers = [count[key] for count in counts]
        change = [f"{numbers[1] - numbers[0]:+d}" if numbers[0] != numbers[1] else "–"] if len(numbers) > 1 else []
        rows.append([*key, *numbers, *change])
    columns = ["line", "direction", "class", *names, *(["change"] if len(names) > 1 else [])]
    return heading("Lines") + table(columns, rows, len(columns) - 3)


def _zones(replayed: Replayed, names: list[str]) -> str:
    rows = [
        [zone, name, found.entered, found.left, found.most, found.at_end]
        for name, outcome in zip(names, replayed.outcomes)
        for zone, found in outcome.zones.items()
    ]
    if not rows:
        return ""
    columns = ["zone", "configuration", "entered", "left", "most at once", "at the end"]
    return heading("Zones") + table(columns, sorted(rows), 4)


def _settings(replayed: Replayed, names: list[str]) -> str:
    first, second = replayed.outcomes
    rows = [
        [path, *("–" if value is None else value for value in values)]
        for path, *values in changed_settings(first, second)
    ]
    return heading("Settings that differ") + (table(["setting", *names], rows) if rows else paragraph("None."))


def _differences(replayed: Replayed, compared: Compared, names: list[str]) -> str:
    setups = [outcome.setup for outcome in replayed.outcomes]
    found = compared.differences
    return (
        heading("Crossings that differ")
        + paragraph(f"{len(found)} differ; {compared.same} are counted alike by both.")
        + cards(replayed.clip, [card(one.crossing, setups[one.which], said(one, names)) for one in found])
    )


def said(one: Difference, names: list[str]) -> str:
    """What a difference consists of."""
    event = one.crossing.event
    if one.kind == "only" or one.other is None:
        return f"only in {names[one.which]}"
    if one.kind == "direction":
        return f"{event.direction} in {names[0]}, {one.other.event.direction} in {names[1]}"
    return f"{event.klass} in {names[0]}, {one.other.event.klass} in {names[1]}"
