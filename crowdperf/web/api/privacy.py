"""The watch-list, and the rights of one person: export and erasure of the own data."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
from litestar import Router, delete, get, post
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.messaging.schema import Event
from crowdperf.storage import violations
from crowdperf.visitors.roll_call import RollCallEntry
from crowdperf.visitors.visit import (
    ON_SITE_STATES,
    Person,
    Text,
    Visit,
    WatchListEntry,
    build_event,
    build_notice,
    match_again,
    mentions,
)
from crowdperf.web.parameters import ITEM_ERRORS, errors, post_action
from crowdperf.web.problems import conflict, not_found
from crowdperf.web.schemas import to_reply
from crowdperf.web.state import AppDependency, AppState, ContextDependency, RequestContext

PersonPath = Annotated[str, PathParameter(description="The person's id.", max_length=64)]
ListingPath = Annotated[str, PathParameter(description="The entry's id.", max_length=64)]


class NewListing(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new entry of the watch-list; another user has to approve it."""

    kind: Literal["watch", "block"]
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    company: Text = ""
    reason: Annotated[str, Meta(min_length=3, max_length=1000)]


class Listings(Struct, kw_only=True):
    """The watch-list."""

    entries: list[WatchListEntry]


class Export(Struct, kw_only=True):
    """All that is stored about one person."""

    person: Person | None
    visits: list[Visit]
    watch_list: list[WatchListEntry]
    """Entries with this name, approved or not."""
    roll_calls: dict[str, list[RollCallEntry]]
    """Roll call -> marks of the person's visits."""
    notes: dict[str, str]
    """Violation -> note of its review, where it mentions the name."""


class Erased(Struct, kw_only=True):
    """How many visits were anonymised, and how many notes on violations cleared."""

    visits: int
    notes: int


@get("/watch-list", need="visitors", summary="Watch-list", responses=errors(503))
async def watch_list(app: AppDependency) -> Listings:
    """List every entry with its reason and approver."""
    return Listings(entries=await app.visits.list_listings())


@post("/watch-list", need="visitors", summary="Propose an entry", responses=ITEM_ERRORS)
async def propose(context: ContextDependency, data: JSONBody[NewListing]) -> WatchListEntry:
    """Propose an entry. It counts after approval by another user with the permission `review`."""
    author, now = context.principal.name, context.app.now()
    listing = to_reply(WatchListEntry, data, id=secrets.token_hex(8), added_by=author, added_at=now)
    await context.app.visits.save_listing(listing, context.build_audit_entry("watch_list.add", listing.id))
    return listing


@post_action("/watch-list/{listing_id:str}/approve", need="review", summary="Approve an entry", responses=ITEM_ERRORS)
async def approve_listing(context: ContextDependency, listing_id: ListingPath) -> WatchListEntry:
    """Approve the entry, so that it counts. Who is on site and matches it is a notice (`watch_listed`)."""
    listing = next((row for row in await context.app.visits.list_listings() if row.id == listing_id), None)
    if listing is None:
        raise not_found("there is no such entry. Remedy: see /api/v1/watch-list.")
    if listing.added_by == context.principal.name:
        raise conflict("the author of the entry cannot approve it. Remedy: ask another user.")
    approved = msgspec.structs.replace(listing, approved_by=context.principal.name, approved_at=context.app.now())
    await context.app.visits.save_listing(approved, context.build_audit_entry("watch_list.approve", listing_id))
    await _notify_on_site(context)
    return approved


async def _notify_on_site(context: RequestContext) -> None:
    """Mark those on site who match the watch-list now, with a notice about each who did not before."""
    app, now, by = context.app, context.app.now(), context.principal.name
    listings = await app.visits.list_listings()
    for visit, person in await app.visits.list_live():
        found = match_again(visit, person, listings)
        if visit.state not in ON_SITE_STATES or found.listed in ("", visit.listed):
            continue
        found = msgspec.structs.replace(found, version=visit.version + 1)
        events: list[Event] = [
            build_event(visit, found, now, by),
            build_notice(found.id, "watch_listed", now, found.version),
        ]
        if not await app.visits.change(visit, found, events, context.build_audit_entry("visit.match", visit.id)):
            # Another user was first. Those who are marked already are passed over.
            return await _notify_on_site(context)
    return None


@delete("/watch-list/{listing_id:str}", need="review", summary="Remove an entry", responses=ITEM_ERRORS)
async def drop_listing(context: ContextDependency, listing_id: ListingPath) -> None:
    """Remove the entry from the list."""
    entry = context.build_audit_entry("watch_list.remove", listing_id)
    if not await context.app.visits.drop_listing(listing_id, entry):
        raise not_found("there is no such entry. Remedy: see /api/v1/watch-list.")


@get("/people/{person_id:str}/export", need="admin", summary="One person's data", responses=ITEM_ERRORS)
async def export(app: AppDependency, person_id: PersonPath) -> Export:
    """Return all data that is stored about one person."""
    person, visits = await _load_person(app, person_id)
    listings = await app.visits.list_listings() if person else []
    return Export(
        person=person,
        visits=visits,
        watch_list=[row for row in listings if person and row.matches_name(person)],
        roll_calls=await app.roll_calls.load_entries([visit.id for visit in visits]),
        notes=await _find_notes(app, person),
    )


@delete(
    "/people/{person_id:str}",
    need="admin",
    status_code=HTTPStatus.OK,
    summary="Erase one person's data",
    responses=ITEM_ERRORS,
)
async def erase(context: ContextDependency, person_id: PersonPath) -> Erased:
    """Erase name, company, address, hosts, reasons, and notes on violations that mention the name.

    The visits stay without a name, for statistics.
    """
    person, visits = await _load_person(context.app, person_id)
    if any(visit.state in ON_SITE_STATES for visit in visits):
        raise conflict("the person is on site, and an evacuation needs the name. Remedy: check out first.")
    notes = await _find_notes(context.app, person)
    # First, while the name is known: after an outage the request can be repeated.
    await violations.clear_notes(context.app.redis, notes, context.app.prefix)
    entry = context.build_audit_entry("person.erase", person_id, f"{len(notes)} notes")
    return Erased(visits=await context.app.visits.erase(person_id, entry), notes=len(notes))


async def _find_notes(app: AppState, person: Person | None) -> dict[str, str]:
    if person is None:
        return {}
    return await violations.find_notes(app.redis, lambda note: mentions(note, person.name), app.prefix)


async def _load_person(app: AppState, person_id: str) -> tuple[Person | None, list[Visit]]:
    person, visits = await app.visits.load_person(person_id), await app.visits.list_visits_of_person(person_id)
    if person is None and not visits:
        raise not_found("there is no data about this person. Remedy: take the id from a visit.")
    return person, visits


router = Router(
    "/", tags=["visitors"], route_handlers=[watch_list, propose, approve_listing, drop_listing, export, erase]
)
