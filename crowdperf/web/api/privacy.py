"""The watch-list, and the rights of one person: export and erasure of the own data."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
from litestar import Router, delete, get, post
from litestar.params import JSONBody, PathParameter
from msgspec import Meta, Struct

from crowdperf.visitors.roll_call import RollCallEntry, RollCallStore
from crowdperf.visitors.visit import ON_SITE_STATES, Person, Text, Visit, WatchListEntry
from crowdperf.web.api.visits import VISIT_ERRORS, get_visit_store
from crowdperf.web.auth import AnyRequest, PrincipalDependency
from crowdperf.web.parameters import errors
from crowdperf.web.problems import ApiProblem
from crowdperf.web.state import AppDependency

PersonPath = Annotated[str, PathParameter(description="The person's id.", max_length=64)]


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


class Erased(Struct, kw_only=True):
    """How many visits were anonymised."""

    visits: int


@get("/watch-list", need="visitors", summary="Watch-list", responses=errors(503))
async def watch_list(app: AppDependency) -> Listings:
    """List every entry with its reason and approver."""
    return Listings(entries=await get_visit_store(app).list_listings())


@post("/watch-list", need="visitors", summary="Propose an entry", responses=VISIT_ERRORS)
async def propose(
    app: AppDependency, request: AnyRequest, principal: PrincipalDependency, data: JSONBody[NewListing]
) -> WatchListEntry:
    """Propose an entry. It counts after approval by another user with the permission `review`."""
    listing = WatchListEntry(
        id=secrets.token_hex(8),
        kind=data.kind,
        name=data.name,
        company=data.company,
        reason=data.reason,
        added_by=principal.name,
        added_at=app.now(),
    )
    await get_visit_store(app).save_listing(
        listing, app.build_audit_entry(principal, request, "watch_list.add", listing.id)
    )
    return listing


@post(
    "/watch-list/{listing_id:str}/approve",
    need="review",
    status_code=HTTPStatus.OK,
    summary="Approve an entry",
    responses=VISIT_ERRORS,
)
async def approve_listing(
    app: AppDependency,
    request: AnyRequest,
    principal: PrincipalDependency,
    listing_id: Annotated[str, PathParameter(description="The entry's id.", max_length=64)],
) -> WatchListEntry:
    """Approve the entry, so that it counts."""
    listing = next((row for row in await get_visit_store(app).list_listings() if row.id == listing_id), None)
    if listing is None:
        raise ApiProblem(HTTPStatus.NOT_FOUND, "there is no such entry. Remedy: see /api/v1/watch-list.")
    if listing.added_by == principal.name:
        raise ApiProblem(HTTPStatus.CONFLICT, "the author of the entry cannot approve it. Remedy: ask another user.")
    approved = msgspec.structs.replace(listing, approved_by=principal.name, approved_at=app.now())
    await get_visit_store(app).save_listing(
        approved, app.build_audit_entry(principal, request, "watch_list.approve", listing_id)
    )
    return approved


@delete("/watch-list/{listing_id:str}", need="review", summary="Remove an entry", responses=VISIT_ERRORS)
async def drop_listing(
    app: AppDependency,
    request: AnyRequest,
    principal: PrincipalDependency,
    listing_id: Annotated[str, PathParameter(description="The entry's id.", max_length=64)],
) -> None:
    """Remove the entry from the list."""
    if not await get_visit_store(app).drop_listing(
        listing_id, app.build_audit_entry(principal, request, "watch_list.remove", listing_id)
    ):
        raise ApiProblem(HTTPStatus.NOT_FOUND, "there is no such entry. Remedy: see /api/v1/watch-list.")


@get("/people/{person_id:str}/export", need="admin", summary="One person's data", responses=VISIT_ERRORS)
async def export(app: AppDependency, person_id: PersonPath) -> Export:
    """Return all data that is stored about one person."""
    store = get_visit_store(app)
    person = await store.load_person(person_id)
    visits = await store.list_visits_of_person(person_id)
    if person is None and not visits:
        raise _unknown_person()
    listings = await store.list_listings() if person else []
    return Export(
        person=person,
        visits=visits,
        watch_list=[row for row in listings if person and row.matches_name(person)],
        roll_calls=await RollCallStore(app.redis, app.prefix).load_entries([visit.id for visit in visits]),
    )


@delete(
    "/people/{person_id:str}",
    need="admin",
    status_code=HTTPStatus.OK,
    summary="Erase one person's data",
    responses=VISIT_ERRORS,
)
async def erase(
    app: AppDependency, request: AnyRequest, principal: PrincipalDependency, person_id: PersonPath
) -> Erased:
    """Erase name, company, address, hosts and reasons. The visits stay without a name, for statistics."""
    store = get_visit_store(app)
    person = await store.load_person(person_id)
    rows = await store.list_visits_of_person(person_id)
    if person is None and not rows:
        raise _unknown_person()
    if any(row.state in ON_SITE_STATES for row in rows):
        raise ApiProblem(
            HTTPStatus.CONFLICT, "the person is on site, and an evacuation needs the name. Remedy: check out first."
        )
    return Erased(
        visits=await store.erase(person_id, app.build_audit_entry(principal, request, "person.erase", person_id))
    )


def _unknown_person() -> ApiProblem:
    return ApiProblem(HTTPStatus.NOT_FOUND, "there is no data about this person. Remedy: take the id from a visit.")


router = Router(
    "/", tags=["visitors"], route_handlers=[watch_list, propose, approve_listing, drop_listing, export, erase]
)
