"""People, visits and the watch-list, and the state machine of a visit. Pure: time and user are parameters.

A visit refers to a person by id. Names are stored in one place only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Annotated, Literal
from unicodedata import combining

import msgspec
from msgspec import Meta, Struct

from crowdperf.messaging.schema import VisitNotice, VisitorChanged, VisitorNotice
from crowdperf.settings.visitors import Visitors

VisitState = Literal[
    "invited", "arrived", "checked_in", "on_site", "overstayed", "checked_out", "denied", "no_show", "cancelled"
]
ON_SITE_STATES: tuple[VisitState, ...] = ("checked_in", "on_site", "overstayed")
"""States that count in an evacuation."""
LIVE_STATES: tuple[VisitState, ...] = ("invited", "arrived", *ON_SITE_STATES)
"""States that can still change."""
ListingMatch = Literal["", "watch", "block", "possible"]
"""With `possible` the names are equal but for marks such as accents, which people leave out."""
Text = Annotated[str, Meta(max_length=200)]
Email = Annotated[str, Meta(max_length=200, pattern=r"^([^@\s,<>]+@[^@\s,<>]+)?$")]


class Person(Struct, frozen=True, kw_only=True):
    """The only record with personal data of a visitor."""

    id: str
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    company: Text = ""
    email: Email = ""


class Visit(Struct, frozen=True, kw_only=True):
    """One visit, stored as a readable Redis hash of scalars. Times are Unix seconds, 0 for never."""

    id: str
    person: str
    """Id of the person; empty after the person's data was erased."""
    state: VisitState
    version: int
    """Grows with each change. A change names the version that it is based on."""
    code: str
    """Content of the badge's QR code."""
    host: Text
    host_email: Email = ""
    purpose: Text = ""
    areas: str = ""
    """Ids of the permitted areas, separated by commas; the first is the place of the visit."""
    area: str = ""
    """The visitor's last known area."""
    expected_from: float
    expected_until: float
    walk_in: bool = False
    created_at: float = 0.0
    created_by: str = ""
    arrived_at: float = 0.0
    checked_in_at: float = 0.0
    seen_at: float = 0.0
    """Time of the last confirmation of `area`."""
    checked_out_at: float = 0.0
    auto_checked_out: bool = False
    """True where the night check-out ended the visit: the real time is unknown."""
    briefing_at: float = 0.0
    nda_version: str = ""
    nda_at: float = 0.0
    listed: ListingMatch = ""
    """A match on the watch-list; the check-in then needs an approval."""
    approved_by: str = ""
    reason: Text = ""
    """Reason of a denial."""


class WatchListEntry(Struct, frozen=True, kw_only=True):
    """One entry of the watch-list, valid once another user than its author has approved it."""

    id: str
    kind: Literal["watch", "block"]
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    company: Text = ""
    reason: Annotated[str, Meta(min_length=3, max_length=1000)]
    added_by: str
    added_at: float
    approved_by: str = ""
    approved_at: float = 0.0

    def matches(self, person: Person) -> bool:
        """Return whether the approved entry matches a person by name and, if given, company."""
        return bool(self.approved_by) and self.matches_name(person)

    def matches_name(self, person: Person) -> bool:
        """Match like `matches`, also for an entry that is not approved."""
        return self._matches_folded(person, fold_name)

    def resembles(self, person: Person) -> bool:
        """Return whether the approved entry matches a person but for marks such as accents."""
        return bool(self.approved_by) and self._matches_folded(person, strip_marks)

    def _matches_folded(self, person: Person, fold: Callable[[str], str]) -> bool:
        if fold(self.name) != fold(person.name):
            return False
        return not self.company or fold(self.company) == fold(person.company)


def fold_name(text: str) -> str:
    """Normalise a name for comparison: NFKC, casefold and single spaces.

    The same name has several forms in Unicode: a letter with its mark as one character or two, wide letters, ligatures.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Casefold may take a text out of its normal form.
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def strip_marks(text: str) -> str:
    """Fold a name like `fold_name`, without accents and other marks."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", fold_name(text)) if not combining(letter))


def mentions(text: str, name: str) -> bool:
    """Check whether a free text holds the name as whole words."""
    return re.search(rf"(?<!\w){re.escape(fold_name(name))}(?!\w)", fold_name(text)) is not None


TRANSITIONS: dict[VisitState, tuple[VisitState, ...]] = {
    "invited": ("arrived", "checked_in", "denied", "no_show", "cancelled"),
    "arrived": ("checked_in", "denied", "checked_out"),
    "checked_in": ("on_site", "overstayed", "checked_out", "denied"),
    "on_site": ("overstayed", "checked_out", "denied"),
    "overstayed": ("on_site", "checked_out", "denied"),
    "no_show": ("arrived", "checked_in"),
    "checked_out": (),
    "denied": (),
    "cancelled": (),
}


class VisitRefusedError(Exception):
    """The change is not possible now; the message gives reason and remedy."""


class WatchListedError(VisitRefusedError):
    """The visitor is on the watch-list, which is not for the eyes of everybody."""


def move_to(visit: Visit, state: VisitState, **fields: object) -> Visit:
    """Return the visit in another state, with the next version, if the state machine allows it."""
    if state not in TRANSITIONS[visit.state]:
        known = ", ".join(TRANSITIONS[visit.state]) or "nothing: it is over"
        raise VisitRefusedError(f"the visit is {visit.state}; what may follow is {known}. Remedy: make a new visit.")
    return msgspec.structs.replace(visit, state=state, version=visit.version + 1, **fields)


def arrive(visit: Visit, now: float) -> Visit:
    """Record the arrival at the reception."""
    return move_to(visit, "arrived", arrived_at=now)


def check_in(visit: Visit, now: float, settings: Visitors, *, briefing: bool = False, nda_version: str = "") -> Visit:
    """Check the visitor in.

    Args:
        visit: the visit.
        now: Unix seconds.
        settings: settings of the visitors.
        briefing: True where the safety briefing was acknowledged.
        nda_version: version of the accepted document; empty for none.

    Returns:
        The changed visit.

    Raises:
        VisitRefusedError: approval, briefing or document is missing, or the state does not allow it.
    """
    if visit.listed and not visit.approved_by:
        raise WatchListedError("the visitor is on the watch-list. Remedy: have the visit approved, or deny it.")
    if settings.briefing and not (briefing or visit.briefing_at):
        raise VisitRefusedError("the safety briefing was not acknowledged. Remedy: show it, and send `briefing`.")
    if settings.nda_version and settings.nda_version not in (nda_version, visit.nda_version):
        raise VisitRefusedError(
            f"document version {settings.nda_version!r} was not accepted. Remedy: show it, and send its `nda_version`."
        )
    fields: dict[str, object] = {"checked_in_at": now, "arrived_at": visit.arrived_at or now, "seen_at": now}
    if briefing and not visit.briefing_at:
        fields["briefing_at"] = now
    if nda_version and nda_version != visit.nda_version:
        fields |= {"nda_version": nda_version, "nda_at": now}
    return move_to(visit, "checked_in", area=visit.area or visit.areas.partition(",")[0], **fields)


def enter(visit: Visit, now: float, area: str) -> Visit:
    """Record that the visitor was seen in an area.

    Args:
        visit: the visit.
        now: Unix seconds.
        area: area id.

    Returns:
        The changed visit.

    Raises:
        VisitRefusedError: not checked in, or the area is not permitted.
    """
    if visit.state not in ON_SITE_STATES:
        raise VisitRefusedError(f"the visit is {visit.state}, not on site. Remedy: check the visitor in first.")
    if visit.areas and area not in visit.areas.split(","):
        raise VisitRefusedError(
            f"area {area!r} is not among the visit's areas ({visit.areas}). Remedy: change the visit."
        )
    if visit.state != "checked_in":
        return msgspec.structs.replace(visit, version=visit.version + 1, area=area, seen_at=now)
    return move_to(visit, "on_site", area=area, seen_at=now)


def extend(visit: Visit, until: float, now: float) -> Visit:
    """Extend the visit; an overstayed one is on site again.

    Args:
        visit: the visit.
        until: new end, Unix seconds.
        now: Unix seconds.

    Returns:
        The changed visit.

    Raises:
        VisitRefusedError: the visit is over, or the end is not in the future.
    """
    if visit.state not in LIVE_STATES or until <= now:
        raise VisitRefusedError(
            "only a visit that is not over can be extended, and into the future. Remedy: give a later end."
        )
    if visit.state == "overstayed":
        return move_to(visit, "on_site", expected_until=until)
    return msgspec.structs.replace(visit, version=visit.version + 1, expected_until=until)


def check_out(visit: Visit, now: float) -> Visit:
    """Record that the visitor has left."""
    return move_to(visit, "checked_out", checked_out_at=now)


def deny(visit: Visit, reason: str) -> Visit:
    """Refuse entry, or send the visitor away."""
    if not reason.strip():
        raise VisitRefusedError("a denial needs its reason. Remedy: send `reason`.")
    return move_to(visit, "denied", reason=reason.strip())


def cancel(visit: Visit) -> Visit:
    """Cancel the invitation."""
    return move_to(visit, "cancelled")


def approve(visit: Visit, by: str) -> Visit:
    """Approve a visitor on the watch-list, by another user than the visit's author."""
    if not visit.listed or visit.approved_by or visit.state not in LIVE_STATES:
        raise VisitRefusedError("there is nothing to approve. Remedy: see the visit's state.")
    if visit.listed == "block":
        raise VisitRefusedError("the person is blocked. Remedy: deny the visit, or have the entry taken off the list.")
    if by == visit.created_by:
        raise VisitRefusedError("the author of a visit cannot approve it. Remedy: ask another user.")
    return msgspec.structs.replace(visit, version=visit.version + 1, approved_by=by)


def find_listing(person: Person, listings: Iterable[WatchListEntry]) -> WatchListEntry | None:
    """Find the most severe entry of the watch-list that matches a person."""
    found = [entry for entry in listings if entry.matches(person)]
    return min(found, key=lambda entry: (entry.kind != "block", entry.added_at), default=None)


def find_match(person: Person, listings: Iterable[WatchListEntry]) -> ListingMatch:
    """Find how the watch-list matches a person; names that differ in marks only are a possible match."""
    entries = list(listings)
    listing = find_listing(person, entries)
    if listing is not None:
        return listing.kind
    return "possible" if any(entry.resembles(person) for entry in entries) else ""


def match_again(visit: Visit, person: Person | None, listings: Iterable[WatchListEntry]) -> Visit:
    """Match against the watch-list as it is now: the person may be listed since the invitation.

    An approval stays for an entry to watch, and does not cover one that blocks.

    Args:
        visit: the visit.
        person: its person; None after the data was erased.
        listings: the watch-list.

    Returns:
        The visit with its present match.
    """
    listed = find_match(person, listings) if person else ""
    approved_by = "" if listed == "block" and visit.listed != "block" else visit.approved_by
    return msgspec.structs.replace(visit, listed=listed, approved_by=approved_by)


def build_event(before: Visit | None, visit: Visit, now: float, by: str) -> VisitorChanged:
    """Build the public event of a change, with ids and without names.

    Args:
        before: the visit before the change; None for a new one.
        visit: the visit after the change.
        now: Unix seconds.
        by: name of the user; empty for a rule.

    Returns:
        The event.
    """
    return VisitorChanged(
        id=f"visit:{visit.id}:{visit.version}",
        camera="",
        ts=now,
        visit=visit.id,
        person=visit.person,
        state=visit.state,
        previous=before.state if before else "",
        version=visit.version,
        expected_from=visit.expected_from,
        expected_until=visit.expected_until,
        area=visit.area or visit.areas.partition(",")[0],
        by=by,
        auto=1 if visit.auto_checked_out else 0,
    )


def build_notice(
    visit: str,
    notice: VisitNotice,
    now: float,
    version: int,
) -> VisitorNotice:
    """Build a notice about a visit.

    Args:
        visit: id of the visit.
        notice: what happened.
        now: Unix seconds.
        version: version of the visit; a repeated notice of one version is the same event.

    Returns:
        The event.
    """
    return VisitorNotice(id=f"visit:{visit}:{version}:{notice}", camera="", ts=now, visit=visit, notice=notice)


class _DemoVisit(Struct, frozen=True):
    name: str
    company: str
    purpose: str
    state: VisitState
    starts_h: float
    lasts_h: float


_DEMO_VISITS = (
    _DemoVisit("Ines Keller", "Keller Lifts", "Maintenance of the lift", "on_site", -0.5, 3.0),
    _DemoVisit("Tomasz Nowak", "Nowak Glass", "Windows on the west side", "checked_in", -0.2, 2.0),
    _DemoVisit("Priya Raman", "City council", "Inspection of the square", "arrived", -0.1, 1.5),
    _DemoVisit("Jonas Berg", "Berg Events", "Market planning", "invited", 0.5, 1.0),
    _DemoVisit("Amara Okafor", "Okafor Security", "Contract", "invited", 2.0, 1.0),
)


def build_demo_visits(now: float) -> list[tuple[Person, Visit]]:
    """Build five demo visits around `now` (Unix seconds) with constant ids."""
    rows = []
    for number, seed in enumerate(_DEMO_VISITS, 1):
        begins = now + seed.starts_h * 3600.0
        inside = seed.state in ("checked_in", "on_site")
        visit = Visit(
            id=f"demo-{number}",
            person=f"demo-person-{number}",
            state=seed.state,
            version=1,
            code=f"DEMQ{number + 1}{number + 1}{number + 1}",
            host="Reception",
            purpose=seed.purpose,
            expected_from=begins,
            expected_until=begins + seed.lasts_h * 3600.0,
            created_at=now,
            created_by="demo",
            arrived_at=begins if seed.state != "invited" else 0.0,
            checked_in_at=begins if inside else 0.0,
            seen_at=begins if inside else 0.0,
        )
        rows.append((Person(id=visit.person, name=seed.name, company=seed.company), visit))
    return rows
