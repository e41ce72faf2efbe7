"""Visits: invitations, the reception, the kiosk and badges."""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable
from typing import Annotated

import msgspec
import segno
from litestar import Response, Router, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import Meta, Struct

from crowdperf.messaging.schema import Event
from crowdperf.settings.base import is_mail_address
from crowdperf.visitors import visit as lifecycle
from crowdperf.visitors.visit import Email, Person, Text, Visit, VisitRefusedError, WatchListedError
from crowdperf.web.parameters import (
    ITEM_ERRORS,
    errors,
    format_rfc3339,
    format_rfc3339_or_none,
    parse_instant,
    parse_span,
    post_action,
)
from crowdperf.web.problems import bad_parameter, conflict, forbidden, not_found
from crowdperf.web.schemas import Time, to_reply
from crowdperf.web.state import AppDependency, AppState, ContextDependency, RequestContext

CODE_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Without 0, O, 1 and I, which people confuse."""
CODE_LENGTH = 10
MAX_VISITS = 1000
MAX_VISIT_S = 366 * 86_400
VisitPath = Annotated[str, PathParameter(description="The visit's id.", max_length=64)]
NOBODY = Person(id="", name="")
"""Stands in for a person whose data was erased."""


class NewVisit(Struct, kw_only=True, forbid_unknown_fields=True):
    """An invitation, or (`walk_in`) a visitor without one."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    company: Text = ""
    email: Email = ""
    person: Annotated[str, Meta(max_length=64)] = ""
    """Id of a person who has visited before."""
    host: Text
    host_email: Email = ""
    purpose: Text = ""
    areas: Annotated[list[str], Meta(max_length=100)] = []
    start: Annotated[str, Meta(max_length=64, description="RFC 3339; now where empty")] = ""
    end: Annotated[str, Meta(max_length=64, description="RFC 3339; two hours later where empty")] = ""
    walk_in: bool = False


class VisitActionRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """Arguments of an action."""

    briefing: bool = False
    nda_version: Text = ""
    area: Text = ""
    end: Annotated[str, Meta(max_length=64)] = ""
    reason: Text = ""
    version: int | None = None
    """Refuse the action unless the visit has this version."""


class VisitReply(Struct, kw_only=True):
    """A visit with its person. Times are RFC 3339; null for never."""

    id: str
    version: int
    state: str
    person: str
    name: str
    company: str
    email: str
    host: str
    host_email: str
    purpose: str
    areas: list[str]
    area: str
    code: str
    walk_in: bool
    start: Time = msgspec.field(name="from")
    end: Time = msgspec.field(name="to")
    arrived: Time | None
    checked_in: Time | None
    seen: Time | None
    checked_out: Time | None
    auto_checked_out: bool
    briefing: Time | None
    nda_version: str
    listed: str
    approved_by: str
    reason: str


class KioskReply(Struct, kw_only=True):
    """What a kiosk shows of a visit: no more than the visitor knows."""

    id: str
    state: str
    name: str
    host: str


class VisitsReply(Struct, kw_only=True):
    """Visits by their expected start, and the settings of the reception."""

    visits: list[VisitReply]
    briefing: str
    nda_version: str
    areas: dict[str, str]


@get("/visits", need="visitors", summary="Visits", responses=errors(400, 503))
async def visits(
    app: AppDependency,
    start: Annotated[str | None, QueryParameter(name="from", description="RFC 3339, included.", max_length=64)] = None,
    end: Annotated[str | None, QueryParameter(name="to", description="RFC 3339, excluded.", max_length=64)] = None,
) -> VisitsReply:
    """List the open visits; with `from` or `to`, all that were expected in that range (at most 1,000)."""
    if start is None and end is None:
        rows = await app.visits.list_live()
    else:
        time_range = parse_span(start, end, app.now(), app.calendar.zone)
        rows = await app.visits.list_between(*time_range, MAX_VISITS)
    rules = app.config.visitors
    return VisitsReply(
        visits=[_to_visit_reply(visit, person) for visit, person in rows],
        briefing=rules.briefing,
        nda_version=rules.nda_version,
        areas={area.id: area.name or area.id for area in app.config.areas},
    )


@post("/visits", need="visitors", summary="Invite, or take in a walk-in", responses=ITEM_ERRORS)
async def invite(context: ContextDependency, data: JSONBody[NewVisit]) -> VisitReply:
    """Create a visit. `listed` shows a match on the watch-list; its check-in needs an approval."""
    app = context.app
    now = app.now()
    begin = parse_instant("start", data.start) if data.start else now
    until = parse_instant("end", data.end) if data.end else begin + 7200
    if not begin < until <= begin + MAX_VISIT_S or until <= now:
        raise bad_parameter("end", data.end, "give an end in the future, after the start and within a year of it.")
    known = {area.id for area in app.config.areas}
    if data.host_email and not is_mail_address(data.host_email):
        raise bad_parameter("host_email", data.host_email, "write it like name@site.example, in ASCII letters.")
    for area in data.areas:
        if area not in known:
            raise bad_parameter("areas", area, f"use some of: {', '.join(sorted(known)) or 'none is configured'}.")
    if data.person and await app.visits.load_person(data.person) is None:
        raise bad_parameter("person", data.person, "give the id of a stored person, or none.")
    person = Person(
        id=data.person or secrets.token_hex(8), name=data.name.strip(), company=data.company, email=data.email
    )
    visit = Visit(
        id=secrets.token_hex(8),
        person=person.id,
        state="arrived" if data.walk_in else "invited",
        version=1,
        code="".join(secrets.choice(CODE_ALPHABET) for _ in range(CODE_LENGTH)),
        host=data.host,
        host_email=data.host_email,
        purpose=data.purpose,
        areas=",".join(data.areas),
        expected_from=begin,
        expected_until=until,
        walk_in=data.walk_in,
        created_at=now,
        created_by=context.principal.name,
        arrived_at=now if data.walk_in else 0.0,
        listed=lifecycle.find_match(person, await app.visits.list_listings()),
    )
    entry = context.build_audit_entry("visit.create", visit.id, "walk-in" if data.walk_in else "")
    await app.visits.add(visit, person, lifecycle.build_event(None, visit, now, context.principal.name), entry)
    return _to_visit_reply(visit, person)


@get("/visits/{visit_id:str}", need="visitors", summary="One visit", responses=ITEM_ERRORS)
async def visit(app: AppDependency, visit_id: VisitPath) -> VisitReply:
    """Return one visit."""
    return await _load_reply(app, await _get_visit(app, visit_id))


@post_action(
    "/visits/{visit_id:str}/{action:str}",
    need="visitors",
    summary="arrive, check-in, enter, extend, check-out, deny, cancel, approve",
    responses=ITEM_ERRORS,
)
async def act(
    context: ContextDependency,
    visit_id: VisitPath,
    action: Annotated[str, PathParameter(description="What happens.", max_length=16)],
    data: JSONBody[VisitActionRequest],
) -> VisitReply:
    """Change a visit's state.

    `approve` needs the permission `review`, and another user than the visit's author.
    """
    return await _apply_action(context, await _get_visit(context.app, visit_id), action, data)


@post_action(
    "/kiosk/{code:str}", need="kiosk", summary="Self check-in or check-out by badge code", responses=ITEM_ERRORS
)
async def kiosk(
    context: ContextDependency,
    code: Annotated[str, PathParameter(description="Content of the QR code.", max_length=32)],
    data: JSONBody[VisitActionRequest],
) -> KioskReply:
    """Check in an expected visitor, or check out one who is on site.

    Why somebody cannot be let in alone is not for a screen that all can read.
    """
    visit = await context.app.visits.find_by_code(code.strip().upper())
    if visit is None:
        raise not_found("there is no visit with this code. Remedy: ask at the reception.")
    action = "check-out" if visit.state in ("checked_in", "on_site", "overstayed") else "check-in"
    try:
        return to_reply(KioskReply, await _apply_action(context, visit, action, data))
    except WatchListedError:
        raise conflict("this visit needs the reception. Remedy: ask there.") from None


async def _apply_action(context: RequestContext, before: Visit, action: str, data: VisitActionRequest) -> VisitReply:
    app, principal, now = context.app, context.principal, context.app.now()
    changed = conflict("another user has just changed this visit. Remedy: read it again.")
    if data.version is not None and data.version != before.version:
        raise changed
    if action == "approve" and not principal.has_permission("review"):
        raise forbidden("approving needs the permission 'review'. Remedy: ask an operator.")
    settings = app.config.visitors
    person = await app.visits.load_person(before.person)
    matched = lifecycle.match_again(before, person, await app.visits.list_listings())
    actions: dict[str, Callable[[], Visit]] = {
        "arrive": lambda: lifecycle.arrive(matched, now),
        "check-in": lambda: lifecycle.check_in(
            matched, now, settings, briefing=data.briefing, nda_version=data.nda_version
        ),
        "enter": lambda: lifecycle.enter(before, now, data.area),
        "extend": lambda: lifecycle.extend(before, parse_instant("end", data.end), now),
        "check-out": lambda: lifecycle.check_out(before, now),
        "deny": lambda: lifecycle.deny(before, data.reason),
        "cancel": lambda: lifecycle.cancel(before),
        "approve": lambda: lifecycle.approve(matched, principal.name),
    }
    if action not in actions:
        raise not_found(f"there is no such action. Remedy: use one of {', '.join(actions)}.")
    try:
        after = actions[action]()
    except VisitRefusedError:
        if matched.listed != before.listed:
            # A later match is stored, so that the reception sees why, and who may approve can.
            found = msgspec.structs.replace(matched, version=before.version + 1)
            await app.visits.change(before, found, [], context.build_audit_entry("visit.match", before.id))
        raise
    events: list[Event] = [lifecycle.build_event(before, after, now, principal.name)]
    # Without the reason: it may hold personal data, which the audit log could not erase.
    entry = context.build_audit_entry(f"visit.{action}", before.id)
    if not await app.visits.change(before, after, events, entry):
        raise changed
    return await _load_reply(app, after)


@get("/visits/{visit_id:str}/badge", need="visitors", summary="Badge to print", responses=ITEM_ERRORS)
async def badge(app: AppDependency, visit_id: VisitPath) -> Response[str]:
    """Render the badge: name, company, host, day and QR code."""
    visit = await _get_visit(app, visit_id)
    person = await app.visits.load_person(visit.person) or NOBODY
    day = format_rfc3339(visit.expected_from)[:10]
    rows = "".join(
        f"<p class='{kind}'>{html.escape(text)}</p>"
        for kind, text in (
            ("site", app.config.site.name),
            ("name", person.name),
            ("company", person.company),
            ("host", f"Host: {visit.host}"),
            ("day", day),
            ("code", visit.code),
        )
    )
    picture = f"<img alt='QR code {visit.code}' src='/api/v1/visits/{visit.id}/badge.svg'>"
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Visitor badge</title>"
        f"<link rel='stylesheet' href='/style/print.css'><main class='badge'>{rows}{picture}</main></html>"
    )
    return Response(page, media_type="text/html")


@get("/visits/{visit_id:str}/badge.svg", need="visitors", summary="QR code", responses=ITEM_ERRORS)
async def badge_code(app: AppDependency, visit_id: VisitPath) -> Response[str]:
    """Render the badge's QR code. It holds only the code, so a lost badge reveals no personal data."""
    visit = await _get_visit(app, visit_id)
    if not visit.code:
        raise not_found("the data of this visit was erased, with its badge")
    # A viewBox instead of a size: a smaller picture is then scaled, not cut.
    svg = segno.make(visit.code, error="q", micro=False).svg_inline(border=4, omitsize=True)
    return Response(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1), media_type="image/svg+xml")


async def _get_visit(app: AppState, visit_id: str) -> Visit:
    visit = await app.visits.load_visit(visit_id)
    if visit is None:
        raise not_found("there is no such visit. Remedy: see /api/v1/visits.")
    return visit


async def _load_reply(app: AppState, visit: Visit) -> VisitReply:
    return _to_visit_reply(visit, await app.visits.load_person(visit.person))


def _to_visit_reply(visit: Visit, person: Person | None) -> VisitReply:
    person = person or NOBODY
    return to_reply(
        VisitReply,
        visit,
        name=person.name,
        company=person.company,
        email=person.email,
        areas=[area for area in visit.areas.split(",") if area],
        start=format_rfc3339(visit.expected_from),
        end=format_rfc3339(visit.expected_until),
        arrived=format_rfc3339_or_none(visit.arrived_at),
        checked_in=format_rfc3339_or_none(visit.checked_in_at),
        seen=format_rfc3339_or_none(visit.seen_at),
        checked_out=format_rfc3339_or_none(visit.checked_out_at),
        briefing=format_rfc3339_or_none(visit.briefing_at),
    )


router = Router("/", tags=["visitors"], route_handlers=[visits, invite, visit, act, kiosk, badge, badge_code])
