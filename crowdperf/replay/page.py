"""The form of a report: one HTML file without a script, that needs nothing else and has a light and a dark face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from crowdperf.replay.clip import Clip
from crowdperf.replay.thumbnails import ThumbnailScene, render_thumbnails

STYLE = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
MAX_THUMBNAILS = 200
"""Thumbnails in one report: about 5 MB. The list itself is always complete."""


class Card(NamedTuple):
    """A picture and what it shows."""

    scene: ThumbnailScene
    at_s: float
    title: str
    note: str = ""
    """What there is to say about it."""
    track: int | None = None


def render_page(title: str, parts: Iterable[str]) -> str:
    """The whole file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def format_clock(at_s: float) -> str:
    """A second of the clip as players show it: 1:02:03.4."""
    minutes, tenths = divmod(round(at_s * 10), 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"


def render_heading(text: str) -> str:
    """A section's."""
    return f"<h2>{escape(text)}</h2>"


def render_paragraph(text: str, warning: bool = False) -> str:
    """Plain text."""
    return f"<p{' class=warning' if warning else ''}>{escape(text)}</p>"


def render_list(lines: Iterable[str]) -> str:
    """A list of plain lines."""
    return "<ul class=facts>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def render_table(header: Sequence[str], rows: Iterable[Sequence[object]], number_columns: int = 0) -> str:
    """The last `numbers` columns hold numbers."""
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
    """The cards in a grid.

    Raises:
        ClipError: the clip cannot be read any more.
    """
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
