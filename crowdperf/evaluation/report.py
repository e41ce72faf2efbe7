"""Reports of `crowdperf replay`: one HTML file without scripts, light and dark, and one JSON document.

The same clip and configurations give the same JSON bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crowdperf.evaluation.camera_setup import CameraSetup
from crowdperf.evaluation.clip import CLIP_START_S, Clip
from crowdperf.evaluation.comparison import Comparison, Difference, find_changed_settings
from crowdperf.evaluation.replay import CountedCrossing, ReplayOutcome, ReplayResult
from crowdperf.evaluation.thumbnails import ThumbnailScene, render_thumbnails


def render_report(replayed: ReplayResult, compared: Comparison | None) -> str:
    """Render the HTML report, or raise ClipError if the clip cannot be read any more."""
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
    """Summarise the clip, the speed and the configurations, one line each."""
    clip = replayed.clip
    return [
        f"{clip.width}×{clip.height}, {len(replayed.times)} pictures, {format_clock(replayed.length_s)}",
        f"replayed in {replayed.took_s:.1f} s, {replayed.speed:.1f} × real time",
        *(
            f"{outcome.setup.name}: camera {outcome.setup.tracked.camera_id}, {outcome.describe()}"
            for outcome in replayed.outcomes
        ),
    ]


def render_gaps(replayed: ReplayResult) -> str:
    """Render a warning if pictures are missing."""
    gaps = replayed.outcomes[0].gaps
    if not gaps:
        return ""
    seconds = sum(gap.end - gap.start for gap in gaps)
    return render_paragraph(
        f"Pictures are missing: crossings may be, too, in {seconds:.1f} s in all ({len(gaps)} gaps).", True
    )


def build_card(crossing: CountedCrossing, setup: CameraSetup, why: str = "") -> Card:
    """Build the card of a counted crossing.

    Args:
        crossing: the crossing.
        setup: the configuration that counted it.
        why: note below the title.

    Returns:
        The card.
    """
    event = crossing.event
    scene = ThumbnailScene(crossing.number, event.line, setup, event.direction, crossing.box)
    return Card(scene, crossing.at_s, f"{event.line} · {event.direction} · {event.class_name}", why, event.track)


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
    """Describe a difference between two configurations."""
    event = difference.crossing.event
    if difference.kind == "only" or difference.other is None:
        return f"only in {names[difference.outcome_index]}"
    if difference.kind == "direction":
        return f"{event.direction} in {names[0]}, {difference.other.event.direction} in {names[1]}"
    return f"{event.class_name} in {names[0]}, {difference.other.event.class_name} in {names[1]}"


STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
MAX_THUMBNAILS = 200
"""Number of thumbnails in one report, about 5 MB. The list itself is always complete."""


class Card(NamedTuple):
    """A picture with its caption."""

    scene: ThumbnailScene
    at_s: float
    title: str
    note: str = ""
    track: int | None = None


def render_page(title: str, parts: Iterable[str]) -> str:
    """Render the whole file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def format_clock(at_s: float) -> str:
    """Format a second of the clip as players show it: 1:02:03.4."""
    minutes, tenths = divmod(round(at_s * 10), 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"


def render_heading(text: str) -> str:
    """Render the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def render_paragraph(text: str, warning: bool = False) -> str:
    """Render plain text."""
    return f"<p{' class=warning' if warning else ''}>{escape(text)}</p>"


def render_list(lines: Iterable[str]) -> str:
    """Render a list of plain lines."""
    return "<ul class=facts>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def render_table(header: Sequence[str], rows: Iterable[Sequence[object]], number_columns: int = 0) -> str:
    """Render a table.

    Args:
        header: titles of the columns.
        rows: the cells.
        number_columns: this many last columns hold numbers.

    Returns:
        HTML.
    """
    first = len(header) - number_columns

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(
            f"<{tag}{' class=n' if index >= first else ''}>{escape(str(value))}</{tag}>"
            for index, value in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def render_cards(clip: Clip, rows: Sequence[Card]) -> str:
    """Render the cards in a grid, or raise ClipError if the clip cannot be read any more."""
    images = render_thumbnails(clip, [card.scene for card in rows[:MAX_THUMBNAILS]])
    images += [""] * (len(rows) - len(images))
    figures = []
    for card, image in zip(rows, images):
        number = card.scene.number
        shown = f'<img src="{image}" alt="picture {number}" loading="lazy">' if image else ""
        why = f"<br><strong>{escape(card.note)}</strong>" if card.note else ""
        track = f", track {card.track}" if card.track is not None else ""
        figures.append(
            f"<figure>{shown}<figcaption>{format_clock(card.at_s)} · {escape(card.title)}{why}"
            f"<br><small>picture {number}{track}</small></figcaption></figure>"
        )
    note = f"<p>With pictures of the first {MAX_THUMBNAILS}.</p>" if len(rows) > MAX_THUMBNAILS else ""
    return f'{note}<div class="cards">' + "\n".join(figures) + "</div>"


def encode_document(replayed: ReplayResult, compared: Comparison | None) -> bytes:
    """Encode the result as indented JSON; it contains no path, machine or duration of the work."""
    clip = replayed.clip
    content: dict[str, Any] = {
        "clip": {
            "name": clip.path.name,
            "width": clip.width,
            "height": clip.height,
            "fps": clip.fps,
            "pictures": len(replayed.times),
            "seconds": round(replayed.length_s, 6),
        },
        "configurations": [_outcome_to_dict(outcome) for outcome in replayed.outcomes],
    }
    if compared is not None:
        content["same"] = compared.same_count
        content["differences"] = [_difference_to_dict(one, replayed) for one in compared.differences]
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _outcome_to_dict(outcome: ReplayOutcome) -> dict[str, Any]:
    return {
        "name": outcome.setup.name,
        "camera": outcome.setup.tracked.camera_id,
        "model": outcome.model,
        "analysed": outcome.analysed,
        "look_share": round(outcome.look_share, 4),
        "counts": [
            {"line": line, "direction": direction, "class": class_name, "count": count}
            for (line, direction, class_name), count in sorted(outcome.count_by_line().items())
        ],
        "zones": {name: msgspec.to_builtins(zone) for name, zone in outcome.zones.items()},
        "events": [
            # The time of day is arbitrary (docs/replay.md); use the second of the clip.
            {**msgspec.to_builtins(event), "at_s": round(event.ts - CLIP_START_S, 6)}
            for event in outcome.events
        ],
    }


def _difference_to_dict(difference: Difference, replayed: ReplayResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": difference.kind,
        "at_s": round(difference.crossing.at_s, 6),
        "line": difference.crossing.event.line,
    }
    names = [outcome.setup.name for outcome in replayed.outcomes]
    row["counted"] = {names[difference.outcome_index]: _crossing_to_dict(difference.crossing)}
    if difference.other is not None:
        row["counted"][names[1]] = _crossing_to_dict(difference.other)
    return row


def _crossing_to_dict(crossing: CountedCrossing) -> dict[str, Any]:
    event = crossing.event
    return {"id": event.id, "direction": event.direction, "class": event.class_name, "picture": crossing.number}
