"""Build the visits that the demo site begins with."""

from __future__ import annotations

from msgspec import Struct

from crowdperf.visitors.visit import Person, Visit, VisitState

HOUR_S = 3600.0


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


def build_visits(now: float) -> list[tuple[Person, Visit]]:
    """Build five demo visits around `now` (Unix seconds) with constant ids."""
    rows = []
    for number, seed in enumerate(_DEMO_VISITS, 1):
        begins = now + seed.starts_h * HOUR_S
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
            expected_until=begins + seed.lasts_h * HOUR_S,
            created_at=now,
            created_by="demo",
            arrived_at=begins if seed.state != "invited" else 0.0,
            checked_in_at=begins if inside else 0.0,
            seen_at=begins if inside else 0.0,
        )
        rows.append((Person(id=visit.person, name=seed.name, company=seed.company), visit))
    return rows
