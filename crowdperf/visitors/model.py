"""People, visits and the watch-list as they are stored. A visit names a person by id alone; names are in one place."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

VisitState = Literal[
    "invited", "arrived", "checked_in", "on_site", "overstayed", "checked_out", "denied", "no_show", "cancelled"
]
ON_SITE_STATES: tuple[VisitState, ...] = ("checked_in", "on_site", "overstayed")
"""Who is counted in an evacuation."""
LIVE_STATES: tuple[VisitState, ...] = ("invited", "arrived", *ON_SITE_STATES)
"""What still changes."""
Text = Annotated[str, Meta(max_length=200)]
Email = Annotated[str, Meta(max_length=200, pattern=r"^([^@\s,<>]+@[^@\s,<>]+)?$")]


class Person(Struct, frozen=True, kw_only=True):
    """The only place that holds who somebody is."""

    id: str
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    company: Text = ""
    email: Email = ""


class Visit(Struct, frozen=True, kw_only=True):
    """One visit. Times are Unix seconds, 0 for never; every field is a scalar, so that it is a readable Redis hash."""

    id: str
    person: str
    """Id of the person; empty once that one's data was erased."""
    state: VisitState
    version: int
    """Grows with each change; a change names the version that it was made on."""
    code: str
    """What the badge's QR code holds."""
    host: Text
    host_email: Email = ""
    purpose: Text = ""
    areas: str = ""
    """Ids of the areas that may be entered, separated by commas; the first is where the visit takes place."""
    area: str = ""
    """Where the visitor was last."""
    expected_from: float
    expected_until: float
    walk_in: bool = False
    created_at: float = 0.0
    created_by: str = ""
    arrived_at: float = 0.0
    checked_in_at: float = 0.0
    seen_at: float = 0.0
    """When `area` was last confirmed."""
    checked_out_at: float = 0.0
    auto_checked_out: bool = False
    """The night's rule ended it: nobody knows when the visitor left."""
    briefing_at: float = 0.0
    nda_version: str = ""
    nda_at: float = 0.0
    listed: Literal["", "watch", "block"] = ""
    """A match on the watch-list: the check-in needs an approval."""
    approved_by: str = ""
    reason: Text = ""
    """Why it was denied."""


class WatchListEntry(Struct, frozen=True, kw_only=True):
    """One entry of the watch-list. It counts once somebody else than its author has approved it."""

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
        """Whether this is the person, by name and, where it is given, company."""
        return bool(self.approved_by) and self.matches_name(person)

    def matches_name(self, person: Person) -> bool:
        """The same, whether or not the entry was approved."""
        if fold_name(self.name) != fold_name(person.name):
            return False
        return not self.company or fold_name(self.company) == fold_name(person.company)


def fold_name(text: str) -> str:
    """For comparing names: without case and superfluous spaces."""
    return " ".join(text.casefold().split())
