"""Report of a roll call, as a printable page and as a CSV table."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable

from crowdperf.visitors.roll_call import RollCall, RollCallArea, RollCallEntry

FormatTime = Callable[[float], str]
"""Formats Unix seconds; empty for 0."""
PEOPLE_COLUMNS = ("Area", "Name", "Company", "Host", "Last confirmed", "Cameras there", "State", "Marked by", "At")
AREA_COLUMNS = (
    *("Area", "On the list", "Staff", "Counted by cameras", "More than listed", "Cameras", "Last crossing of a door"),
    *("Counted at the end",),
)


def render_csv(call: RollCall, clock: FormatTime) -> str:
    """Render people, an empty line and areas as CSV. Cells that look like a formula are escaped."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(name.lower() for name in PEOPLE_COLUMNS)
    rows.writerows(map(_escape_formulas, _build_people_rows(call, clock)))
    rows.writerow([])
    rows.writerow(name.lower() for name in AREA_COLUMNS)
    rows.writerows(_escape_formulas(_build_area_row(place, clock)) for place in call.places)
    return out.getvalue()


def render_html(call: RollCall, site: str, clock: FormatTime) -> str:
    """Render the report as a printable page.

    Args:
        call: the roll call with names.
        site: name of the site.
        clock: formats times.

    Returns:
        A complete HTML document.
    """
    safe = sum(mark.state == "safe" for mark in call.marks)
    unlisted = sum(place.unlisted for place in call.places)
    kind = "Drill" if call.drill else "Evacuation"
    title = f"{kind} · {html.escape(site)}"
    ended = f"ended {clock(call.ended_at)} by {html.escape(call.ended_by)}" if call.ended_at else "not ended yet"
    more = f" The cameras counted {unlisted} more than visitors on the list and staff." if unlisted else ""
    people = [(mark.state, cells) for mark, cells in zip(call.marks, _build_people_rows(call, clock), strict=True)]
    areas = [("missing" if place.unlisted else "", _build_area_row(place, clock)) for place in call.places]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        "<link rel='stylesheet' href='/style/print.css'>"
        f"<h1>{title}</h1><p>Started {clock(call.started_at)} by {html.escape(call.started_by)}, {ended}.</p>"
        f"<p>{safe} of {len(call.marks)} people safe, {len(call.marks) - safe} missing.{more}</p>"
        f"{_render_table(PEOPLE_COLUMNS, people)}<h2>Areas</h2><p>Cameras count people and recognise no one: "
        "a crossing may be "
        f"anybody's. Staff is the number that was configured.</p>{_render_table(AREA_COLUMNS, areas)}</html>"
    )


def _build_people_rows(call: RollCall, clock: FormatTime) -> Iterable[list[str]]:
    places = {place.area: place for place in call.places}
    return [_build_person_row(mark, places.get(mark.area), clock) for mark in call.marks]


def _build_person_row(entry: RollCallEntry, place: RollCallArea | None, clock: FormatTime) -> list[str]:
    area, cameras = (place.title, place.cameras) if place else (entry.area, "")
    mark = (entry.state, entry.by, clock(entry.at))
    return [area, entry.name, entry.company, entry.host, clock(entry.seen_at), cameras, *mark]


def _build_area_row(place: RollCallArea, clock: FormatTime) -> list[str]:
    counted = "" if place.counted is None else f"{place.counted} ± {place.uncertainty:g}"
    way = "in" if place.last_entered else "out"
    return [
        place.title,
        str(place.listed),
        str(place.staff),
        counted,
        str(place.unlisted) if counted else "",
        place.cameras,
        f"{place.last_door}, {way}, {clock(place.last_at)}" if place.last_door else "",
        "" if place.inside is None else str(place.inside),
    ]


def _render_table(head: Iterable[str], rows: Iterable[tuple[str, list[str]]]) -> str:
    titles = "".join(f"<th>{name}</th>" for name in head)
    lines = (
        f"<tr class='{kind}'>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>" for kind, cells in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _escape_formulas(cells: list[str]) -> list[str]:
    return [f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in cells]
