"""A range as a page to print, or to save as PDF from the browser: totals by line and day, and the cameras' gaps."""

from __future__ import annotations

import html
from collections.abc import Iterable

from litestar import Response, Router, get

from crowdperf.storage.queries import count_crossings
from crowdperf.web.access import PrincipalDependency
from crowdperf.web.context import AppDependency
from crowdperf.web.history import From, To, parse_crossing_filter, read_gaps
from crowdperf.web.openapi import BAD_REQUEST, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import CameraFilter, Span

MAX_REPORT_GAPS = 200


@get(
    "/exports/report.html",
    need="read",
    summary="Report to print",
    tags=["history"],
    media_type="text/html",
    responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE},
)
async def report(
    app: AppDependency, principal: PrincipalDependency, camera: CameraFilter = None, start: From = None, end: To = None
) -> Response[str]:
    """Crossings in [from, to) by line and class, by day of the site's zone, and the gaps of the cameras in it."""
    crossing_filter = parse_crossing_filter(app, principal, camera, start=start, end=end)
    asked = Span(crossing_filter.start, crossing_filter.end)
    by_line = await count_crossings(
        app.redis, crossing_filter, ["camera", "line", "class", "direction"], None, app.calendar, app.prefix
    )
    by_day = await count_crossings(app.redis, crossing_filter, ["direction"], "day", app.calendar, app.prefix)
    lines: dict[tuple[str, ...], dict[str, int]] = {}
    for ((*names, direction), _), number in by_line.items():
        lines.setdefault(tuple(names), {})[direction] = number
    days: dict[int, dict[str, int]] = {}
    for ((direction,), begin), number in by_day.items():
        days.setdefault(begin, {})[direction] = number
    shown = {row.id: row for row in app.get_cameras(principal)}

    def title(camera_id: str, line_id: str) -> tuple[str, str]:
        known = shown.get(camera_id)
        found = next((line.name for line in known.lines if line.id == line_id), "") if known else ""
        return (known.title if known else camera_id), found or line_id

    found = await read_gaps(app, principal, asked, camera or "", MAX_REPORT_GAPS)
    text = app.calendar.format_time
    body = [
        f"<h1>{html.escape(app.config.site.name)}</h1>",
        f"<p>Crossings from {text(asked.start)} to {text(asked.end)} ({html.escape(app.calendar.name)}).</p>",
        "<h2>By line</h2>",
        _render_table(
            ("Camera", "Line", "Class", "In", "Out", "In minus out"),
            ((*title(*names[:2]), names[2], *_format_totals(row)) for names, row in sorted(lines.items())),
        ),
        "<h2>By day</h2>",
        _render_table(
            ("Day", "In", "Out", "In minus out"),
            ((text(day)[:10], *_format_totals(row)) for day, row in sorted(days.items())),
        ),
        "<h2>Gaps: what no camera saw</h2>",
        _render_table(
            ("Camera", "From", "To", "Cause"),
            (
                (title(gap.camera, "")[0], text(gap.start or 0.0), text(gap.end or 0.0), gap.cause or "")
                for gap in reversed(found)
            ),
        ),
    ]
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Report</title>"
        f"<link rel='stylesheet' href='/style/print.css'>{''.join(body)}</html>"
    )
    return Response(page, media_type="text/html")


def _format_totals(row: dict[str, int]) -> tuple[str, str, str]:
    entered, left = row.get("in", 0), row.get("out", 0)
    return str(entered), str(left), str(entered - left)


def _render_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Every cell as text, whatever a camera is called; a word where there is no row."""
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    if not lines:
        return "<p>None.</p>"
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


router = Router("/", route_handlers=[report])
