"""The report of a roll call: a page to print, and a table for a spreadsheet."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable

from crowdperf.visitors.rollcall import Mark, Place, RollCall

Clock = Callable[[float], str]
"""Unix seconds as people read them; empty for 0."""
PEOPLE = ("Area", "Name", "Company", "Host", "Last confirmed", "Cameras there", "State", "Marked by", "At")
AREAS = (
    *("Area", "On the list", "Staff", "Counted by cameras", "More than listed", "Cameras", "Last crossing of a door"),
    *("Counted at the end",),
)


def report_csv(call: RollCall, clock: Clock) -> str:
    """The report as CSV: people, an empty line, areas. A cell that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(name.lower() for name in PEOPLE)
    rows.writerows(map(_quoted, _people(call, clock)))
    rows.writerow([])
    rows.writerow(name.lower() for name in AREAS)
    rows.writerows(_quoted(_area(place, clock)) for place in call.places)
    return out.getvalue()


def report_html(call: RollCall, site: str, clock: Clock) -> str:
    """The report as a page to print."""
    safe = sum(mark.state == "safe" for mark in call.marks)
    unlisted = sum(place.unlisted for place in call.places)
    kind = "Drill" if call.drill else "Evacuation"
    title = f"{kind} · {html.escape(site)}"
    ended = f"ended {clock(call.ended_at)} by {html.escape(call.ended_by)}" if call.ended_at else "not ended yet"
    more = f" The cameras counted {unlisted} more than visitors on the list and staff." if unlisted else ""
    people = [(mark.state, cells) for mark, cells in zip(call.marks, _people(call, clock), strict=True)]
    areas = [("missing" if place.unlisted else "", _area(place, clock)) for place in call.places]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        "<link rel='stylesheet' href='/style/print.css'>"
        f"<h1>{title}</h1><p>Started {clock(call.started_at)} by {html.escape(call.started_by)}, {ended}.</p>"
        f"<p>{safe} of {len(call.marks)} people safe, {len(call.marks) - safe} missing.{more}</p>"
        f"{_table(PEOPLE, people)}<h2>Areas</h2><p>Cameras count people and recognise nobody: a crossing may be "
        f"anybody's. Staff is the number that was configured.</p>{_table(AREAS, areas)}</html>"
    )


def _people(call: RollCall, clock: Clock) -> Iterable[list[str]]:
    places = {place.area: place for place in call.places}
    return [_person(mark, places.get(mark.area), clock) for mark in call.marks]


def _person(mark: Mark, place: Place | None, clock: Clock) -> list[str]:
    area, cameras = (place.title, place.cameras) if place else (mark.area, "")
    return [
        *(area, mark.name, mark.company, mark.host, clock(mark.seen_at), cameras, mark.state, mark.by, clock(mark.at))
    ]


def _area(place: Place, clock: Clock) -> list[str]:
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


def _table(head: Iterable[str], rows: Iterable[tuple[str, list[str]]]) -> str:
    titles = "".join(f"<th>{name}</th>" for name in head)
    lines = (
        f"<tr class='{kind}'>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>" for kind, cells in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _quoted(cells: list[str]) -> list[str]:
    return [f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in cells]
