"""The life of a visit, the watch-list, reconciliation and roll call: pure, without Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.messaging.schema import (
    AreaChanged,
    AreaMismatch,
    LineCrossed,
    TailgatingSuspected,
    VisitorChanged,
    VisitorNotice,
)
from crowdperf.settings.areas import Area, Door
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.visitors import Visitors
from crowdperf.settings.worker_config import build_visitors_config
from crowdperf.visitors import roll_call
from crowdperf.visitors import visit as lifecycle
from crowdperf.visitors.roll_call_report import render_csv, render_html
from crowdperf.visitors.visit import Person, Visit, VisitRefusedError, WatchListEntry
from crowdperf.visitors.visit_store import VisitUpdate
from crowdperf.workers.visitors import SITE_PARTITION, ExpireVisits, VisitorLogic

NOW = 1_795_600_000.0
"""2026-11-25 10:46:40 in Berlin."""
DOOR = {"camera": "lobby", "line": "door"}
LINE = {"id": "door", "p1": [0.5, 0.1], "p2": [0.5, 0.9]}
SIDE = {"id": "side", "p1": [0.1, 0.1], "p2": [0.1, 0.9]}


def config(**rules: Any) -> Any:
    return parse(
        msgspec.json.encode(
            {
                "site": {"timezone": "Europe/Berlin"},
                "cameras": [{"id": "lobby", "url": "rtsp://192.0.2.1/", "lines": [LINE, SIDE]}],
                "areas": [
                    {"id": "lab", "doors": [DOOR, {"camera": "lobby", "line": "side"}]},
                    {"id": "hall", "doors": [DOOR]},
                ],
                "visitors": rules,
            }
        )
    )


def logic(**rules: Any) -> VisitorLogic:
    return VisitorLogic(build_visitors_config(Deployment(config(**rules), Paths(Path("/nowhere"))), 0))


def visit(**fields: Any) -> Visit:
    base = {"id": "v1", "person": "p1", "state": "invited", "version": 1, "code": "ABC", "host": "Ada"}
    return Visit(**{**base, "expected_from": NOW, "expected_until": NOW + 3600, "areas": "lab,hall", **fields})


def visitor_changed(row: Visit, before: Visit | None = None, ts: float = NOW) -> VisitorChanged:
    return lifecycle.build_event(before, row, ts, "ada")


def crossing(n: int, ts: float, line: str = "door", direction: Any = "in") -> LineCrossed:
    return LineCrossed(
        id=f"lobby:1:{n}:{line}:{direction}:0", camera="lobby", ts=ts, line=line, direction=direction,
        class_name="person", track=n, epoch=1, sequence=n,
    )  # fmt: skip


def area(n: int, occupancy: int, ts: float) -> AreaChanged:
    return AreaChanged(
        id=f"area:{n}", camera="lobby", ts=ts, area="lab", occupancy=occupancy, uncertainty=0.0, entries=0, exits=0,
        cause="crossing",
    )  # fmt: skip


def changes(effects: Any) -> list[tuple[str, int]]:
    return [(row.fields["state"], row.expected_version) for row in effects if isinstance(row, VisitUpdate)]


# -- the life of a visit --


def test_a_whole_life() -> None:
    rules = Visitors(briefing="Mind the forklifts.", nda_version="3")
    row = lifecycle.arrive(visit(), NOW)
    with pytest.raises(VisitRefusedError, match="briefing"):
        lifecycle.check_in(row, NOW, rules, nda_version="3")
    with pytest.raises(VisitRefusedError, match="version '3'"):
        lifecycle.check_in(row, NOW, rules, briefing=True, nda_version="2")
    row = lifecycle.check_in(row, NOW + 1, rules, briefing=True, nda_version="3")
    assert (row.state, row.area, row.briefing_at, row.nda_version) == ("checked_in", "lab", NOW + 1, "3")
    row = lifecycle.enter(row, NOW + 2, "hall")
    assert (row.state, row.area) == ("on_site", "hall")
    with pytest.raises(VisitRefusedError, match="not among"):
        lifecycle.enter(row, NOW, "vault")
    row = lifecycle.move_to(row, "overstayed")
    row = lifecycle.extend(row, NOW + 7200, NOW)
    assert row.state == "on_site"
    row = lifecycle.check_out(row, NOW + 3)
    assert (row.state, row.checked_out_at, row.version) == ("checked_out", NOW + 3, 7)


STEPS: list[Any] = [
    lambda row: lifecycle.arrive(row, NOW),
    lambda row: lifecycle.check_in(row, NOW, Visitors()),
    lambda row: lifecycle.enter(row, NOW, "lab"),
    lambda row: lifecycle.extend(row, NOW + 9000, NOW),
    lambda row: lifecycle.move_to(row, "overstayed"),
    lambda row: lifecycle.move_to(row, "no_show"),
    lambda row: lifecycle.check_out(row, NOW),
    lambda row: lifecycle.deny(row, "no badge"),
    lifecycle.cancel,
]


@given(st.lists(st.sampled_from(range(len(STEPS))), max_size=12))
def test_no_order_of_steps_leaves_the_permitted_ways(steps: list[int]) -> None:
    row = visit()
    for step in steps:
        try:
            after = STEPS[step](row)
        except VisitRefusedError:
            continue
        assert after.version == row.version + 1
        assert after.state == row.state or after.state in lifecycle.TRANSITIONS[row.state]
        assert row.state not in ("checked_out", "denied", "cancelled")
        row = after


def test_watch_list_entry_counts_when_another_approves_it() -> None:
    person = Person(id="p1", name="Eve  Mallory", company="Acme")
    proposed = WatchListEntry(
        id="l", kind="watch", name="eve mallory", reason="stole a drill", added_by="ada", added_at=NOW
    )
    approved = msgspec.structs.replace(proposed, approved_by="bob", approved_at=NOW)
    assert lifecycle.find_listing(person, [proposed]) is None
    assert lifecycle.find_listing(person, [approved]) == approved
    assert lifecycle.find_listing(person, [msgspec.structs.replace(approved, company="Other")]) is None
    row = visit(listed="watch", created_by="ada")
    with pytest.raises(VisitRefusedError, match="approved"):
        lifecycle.check_in(row, NOW, Visitors())
    with pytest.raises(VisitRefusedError, match="another user"):
        lifecycle.approve(row, "ada")
    assert lifecycle.check_in(lifecycle.approve(row, "bob"), NOW, Visitors()).state == "checked_in"
    with pytest.raises(VisitRefusedError, match="blocked"):
        lifecycle.approve(visit(listed="block"), "bob")


def listing(kind: str, name: str = "Zoë Weiß") -> WatchListEntry:
    return WatchListEntry(
        id=kind, kind=kind, name=name, reason="stole a drill", added_by="ada", added_at=NOW, approved_by="bob"
    )


@pytest.mark.parametrize("name", ["Zoe\u0308 Weiß", "ZOË WEISS", "Ｚｏë  Weiß", "zoë\u00a0weiß", "ZOE\u0308 WEIẞ"])
def test_one_name_matches_in_every_form_of_unicode(name: str) -> None:
    entry = listing("block")
    assert lifecycle.find_listing(Person(id="p1", name=name), [entry]) == entry
    assert lifecycle.find_listing(Person(id="p1", name="Zoe Weiss"), [entry]) is None


@pytest.mark.parametrize("name", ["Zoe Weiss", "ZOÉ WEISS", "zoe\u0323 weiß"])
@pytest.mark.parametrize("kind", ["watch", "block"])
def test_a_name_without_its_marks_needs_an_approval(name: str, kind: str) -> None:
    person = Person(id="p1", name=name)
    assert lifecycle.find_match(person, [listing(kind)]) == "possible"
    assert lifecycle.find_match(person, [listing(kind), listing("watch", name)]) == "watch", "an equal name counts more"
    assert lifecycle.find_match(Person(id="p1", name="Zo Weiss"), [listing(kind)]) == ""
    assert lifecycle.find_match(person, [msgspec.structs.replace(listing(kind), approved_by="")]) == ""
    found = lifecycle.match_again(visit(created_by="ada"), person, [listing(kind)])
    with pytest.raises(VisitRefusedError, match="approved"):
        lifecycle.check_in(found, NOW, Visitors())
    assert lifecycle.check_in(lifecycle.approve(found, "bob"), NOW, Visitors()).state == "checked_in"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("that was INES  Keller!", True),
        ("Ines Kellermann", False),
        ("Ines", False),
        ("", False),
        ("(ines keller)", True),
    ],
)
def test_a_note_mentions_a_name_as_whole_words(text: str, found: bool) -> None:
    assert lifecycle.mentions(text, "Ines Keller") is found


def test_a_visit_is_matched_against_the_list_of_its_check_in() -> None:
    person = Person(id="p1", name="Zoë Weiß")
    assert lifecycle.match_again(visit(), person, [listing("block")]).listed == "block"
    assert lifecycle.match_again(visit(listed="block"), person, []).listed == ""
    approved = visit(listed="watch", approved_by="bob")
    assert lifecycle.match_again(approved, person, [listing("watch")]).approved_by == "bob"
    blocked = lifecycle.match_again(approved, person, [listing("watch"), listing("block")])
    assert (blocked.listed, blocked.approved_by) == ("block", ""), "an approval does not cover a later block"
    assert lifecycle.match_again(visit(), None, [listing("block")]).listed == ""


def test_events_carry_ids_and_never_names() -> None:
    names = {"host": "Ada Lovelace", "host_email": "ada@x.example", "purpose": "merger", "reason": "because"}
    text = msgspec.json.encode(visitor_changed(visit(**names))).decode()
    assert not [value for value in names.values() if value in text]


# -- what time causes --


def test_nobody_came() -> None:
    worker = logic(no_show_after_s=600)
    assert list(worker.handle(visitor_changed(visit()))) == []
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 599)) == []
    effects = list(worker.advance_time(SITE_PARTITION, NOW + 600))
    assert changes(effects) == [("no_show", 1)]
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 700)) == [], "asked once"
    (change,) = [row for row in effects if isinstance(row, VisitUpdate)]
    assert [type(event) for event in change.events] == [VisitorChanged, VisitorNotice]
    assert list(worker.handle(change.events[0])) == []  # type: ignore[arg-type]


def on_site(worker: VisitorLogic, ts: float = NOW) -> None:
    row = lifecycle.check_in(visit(), ts, Visitors())
    list(worker.handle(visitor_changed(visit(), ts=ts)))
    list(worker.handle(visitor_changed(row, visit(), ts)))


def test_the_host_is_reminded_once_then_the_visit_has_overstayed() -> None:
    worker = logic(reminder_before_s=900, overstay_grace_s=300)
    on_site(worker)
    assert [row for row in worker.advance_time(SITE_PARTITION, NOW + 2699) if not isinstance(row, ExpireVisits)] == []
    (notice,) = worker.advance_time(SITE_PARTITION, NOW + 2700)
    assert isinstance(notice, VisitorNotice)
    assert notice.notice == "sign_out_reminder"
    assert list(worker.advance_time(SITE_PARTITION, NOW + 2800)) == []
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 3899)) == []
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 3900)) == [("overstayed", 2)]


def test_a_person_who_was_faster_wins() -> None:
    worker = logic(overstay_grace_s=0)
    on_site(worker)
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 3600)) == [("overstayed", 2)]
    later = visit(state="on_site", version=3, expected_until=NOW + 9000)
    list(worker.handle(visitor_changed(later, visit(state="checked_in", version=2))))
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 3700)) == [], "the visit was extended meanwhile"
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 9000)) == [("overstayed", 3)]


def test_the_night_checks_out_and_says_so() -> None:
    worker = logic(night_check_out="23:30")
    on_site(worker)
    list(worker.advance_time(SITE_PARTITION, NOW + 5000))
    list(worker.handle(visitor_changed(visit(state="overstayed", version=3), visit(state="checked_in", version=2))))
    assert changes(worker.advance_time(SITE_PARTITION, NOW + 12 * 3600)) == []
    (change,) = [row for row in worker.advance_time(SITE_PARTITION, NOW + 13 * 3600) if isinstance(row, VisitUpdate)]
    assert (change.fields["state"], change.fields["auto_checked_out"], change.is_live) == ("checked_out", True, False)
    assert [event.auto for event in change.events if isinstance(event, VisitorChanged)] == [1]


def test_data_about_people_ends_after_its_time() -> None:
    def expiry(**rules: Any) -> list[ExpireVisits]:
        return [row for row in logic(**rules).advance_time(SITE_PARTITION, NOW) if isinstance(row, ExpireVisits)]

    assert expiry(retention_days=30) == [ExpireVisits(NOW - 30 * 86_400, 0.0)]
    assert expiry(watch_list_days=365) == [ExpireVisits(NOW - 90 * 86_400, NOW - 365 * 86_400)]


def test_the_host_hears_of_an_arrival_once() -> None:
    worker = logic()
    arrived = lifecycle.arrive(visit(), NOW)
    inside = lifecycle.check_in(arrived, NOW + 1, Visitors())
    effects = [
        row
        for event in (visitor_changed(visit()), visitor_changed(arrived, visit()), visitor_changed(inside, arrived))
        for row in worker.handle(event)
    ]
    assert [row.notice for row in effects if isinstance(row, VisitorNotice)] == ["arrived"]


def test_state_and_restore_change_nothing() -> None:
    worker, fresh = logic(mismatch_s=10, staff_baseline={"lab": 0}), logic(mismatch_s=10, staff_baseline={"lab": 0})
    on_site(worker)
    list(worker.handle(area(1, 9, NOW)))
    list(worker.advance_time(SITE_PARTITION, NOW + 1))
    fresh.restore(SITE_PARTITION, worker.dump_state(SITE_PARTITION))
    assert (
        list(fresh.advance_time(SITE_PARTITION, NOW + 5000))
        == list(worker.advance_time(SITE_PARTITION, NOW + 5000))
        != []
    )


# -- what cameras say --


def test_cameras_and_list_disagree_and_agree_again() -> None:
    worker = logic(staff_baseline={"lab": 2}, mismatch_people=2, mismatch_s=300)
    on_site(worker)
    for event in (crossing(1, NOW), crossing(2, NOW + 1, "side"), crossing(3, NOW + 2, "side"), area(1, 5, NOW + 2)):
        list(worker.handle(event))
    assert [row for row in worker.advance_time(SITE_PARTITION, NOW + 3) if isinstance(row, AreaMismatch)] == []
    (mismatch,) = [row for row in worker.advance_time(SITE_PARTITION, NOW + 303) if isinstance(row, AreaMismatch)]
    assert (mismatch.state, mismatch.counted, mismatch.expected, mismatch.since, mismatch.door) == (
        "opened",
        5,
        3,
        NOW + 3,
        "lobby/side",
    )
    assert [row for row in worker.advance_time(SITE_PARTITION, NOW + 400) if isinstance(row, AreaMismatch)] == []
    list(worker.handle(area(2, 4, NOW + 500)))
    (closed,) = [row for row in worker.advance_time(SITE_PARTITION, NOW + 501) if isinstance(row, AreaMismatch)]
    assert closed.state == "closed"


def test_more_crossings_than_check_ins_hint_at_tailgating() -> None:
    worker = logic(entrances=[DOOR], tailgating_window_s=60)
    on_site(worker)
    first = list(worker.handle(crossing(1, NOW + 5)))
    second = list(worker.handle(crossing(2, NOW + 7)))
    assert first == []
    (suspicion,) = second
    assert isinstance(suspicion, TailgatingSuspected)
    assert (suspicion.crossings, suspicion.check_ins, suspicion.evidence) == (2, 1, "lobby:1:2:door:in:0")
    assert list(worker.handle(crossing(3, NOW + 8, direction="out"))) == []


def test_tailgating_looks_at_its_window_alone() -> None:
    def tailgatings(*crossed_at: float, checked_in_at: float | None = None) -> list[Any]:
        worker = logic(entrances=[DOOR], tailgating_people=2, tailgating_window_s=60)
        if checked_in_at is not None:
            on_site(worker, checked_in_at)
        return [row for n, at in enumerate(crossed_at) for row in worker.handle(crossing(n, at))]

    assert len(tailgatings(NOW, NOW + 60)) == 1
    assert tailgatings(NOW, NOW + 61) == [], "one of them is out of the window"
    assert tailgatings(NOW + 600, NOW + 601, checked_in_at=NOW) == [], "a check-in lets one pass"
    assert len(tailgatings(NOW + 601, NOW + 602, checked_in_at=NOW)) == 1, "but not for ever"


@pytest.mark.parametrize(
    ("counted", "ways", "likely"),
    [
        # More than the list says: where most came in and did not leave. Fewer: where most left.
        (9, {"door": "in in in", "side": "in"}, "lobby/door"),
        (9, {"door": "in in in out out out", "side": "in"}, "lobby/side"),
        (0, {"door": "out out", "side": "in in"}, "lobby/door"),
    ],
)
def test_the_likely_door_is_the_one_that_explains_the_difference(
    counted: int, ways: dict[str, str], likely: str
) -> None:
    worker = logic(staff_baseline={"lab": 3}, mismatch_people=2, mismatch_s=1)
    passed = [(line, way) for line, directions in ways.items() for way in directions.split()]
    for n, (line, way) in enumerate(passed):
        list(worker.handle(crossing(n, NOW + n, line, way)))
    list(worker.handle(area(1, counted, NOW + 20)))
    list(worker.advance_time(SITE_PARTITION, NOW + 21))
    (mismatch,) = [row for row in worker.advance_time(SITE_PARTITION, NOW + 22) if isinstance(row, AreaMismatch)]
    assert (mismatch.counted, mismatch.expected, mismatch.door) == (counted, 3, likely)


# -- roll call --


def test_roll_call_holds_who_is_on_site_and_escapes_its_report() -> None:
    evil = Person(id="p2", name='=cmd|"/c calc"!A1', company="<script>alert(1)</script>")
    rows = [
        (visit(id="v1", state="on_site", area="lab"), Person(id="p1", name="Bo")),
        (visit(id="v2", state="overstayed", area="hall"), evil),
        (visit(id="v3", state="invited"), Person(id="p3", name="Cy")),
        (visit(id="v4", state="checked_in", area="lab"), None),
    ]
    marks = roll_call.build_entries(rows)
    assert [(mark.visit, mark.area, mark.state) for mark in marks] == [
        ("v2", "hall", "missing"),
        ("v1", "lab", "missing"),
        ("v4", "lab", "missing"),
    ]
    call = roll_call.RollCall(id="c", drill=True, started_at=NOW, started_by="ada", marks=marks)
    page = render_html(call, "Site", str)
    assert "<script>" not in page
    assert "Drill" in page
    assert "0 of 3 people safe" in page
    assert "\"'=cmd|" in render_csv(call, str)


def test_roll_call_holds_the_counts_of_the_cameras() -> None:
    areas = [
        msgspec.convert({"id": "lab", "name": "Lab", "doors": [{"camera": "lobby", "line": "door"}]}, Area),
        msgspec.convert({"id": "hall", "zones": [{"camera": name, "zone": "z"} for name in ("lobby", "gate")]}, Area),
    ]
    marks = roll_call.build_entries(
        (visit(id=f"v{n}", state="on_site", area=area), None) for n, area in enumerate(["lab", "lab", "shed", ""])
    )
    counted = {
        "lab": roll_call.CameraOccupancy(occupancy=9, uncertainty=1.2, last_door="Lobby, door", last_at=NOW),
        "hall": roll_call.CameraOccupancy(occupancy=3, uncertainty=0.0),
    }
    entrances = [msgspec.convert({"camera": "gate", "line": "way"}, Door)]
    cameras = {"lobby": "Lobby", "gate": "Gate"}
    places = roll_call.build_places(marks, areas, entrances, {"lab": 4, "hall": 5}, counted, cameras)
    assert [(row.title, row.cameras, row.listed, row.staff, row.counted, row.unlisted) for row in places] == [
        ("Lab", "Lobby", 2, 4, 9, 3),
        ("hall", "Lobby, Gate", 0, 5, 3, 0),
        # Without a known area only the entrances can be named; of an area that is gone, nothing.
        ("", "Gate", 1, 0, None, 0),
        ("shed", "", 1, 0, None, 0),
    ]
    call = roll_call.RollCall(id="c", drill=False, started_at=NOW, started_by="ada", marks=marks, places=places)
    after = roll_call.update_inside(call, {"lab": 1})
    assert [place.inside for place in after.places] == [1, 3, None, None]
    page, table = render_html(after, "Site", str), render_csv(after, str)
    assert "The cameras counted 3 more than visitors on the list and staff." in page
    assert f"<td>9 ± 1.2</td><td>3</td><td>Lobby</td><td>Lobby, door, out, {NOW}</td><td>1</td>" in page
    assert f'Lab,2,4,9 ± 1.2,3,Lobby,"Lobby, door, out, {NOW}",1' in table
    assert 'hall,0,5,3 ± 0,0,"Lobby, Gate",,3' in table
    assert table.count("missing") == 4


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"staff_baseline": {"attic": 1}}, "no area 'attic'"),
        ({"entrances": [{"camera": "lobby", "line": "roof"}]}, "no line 'roof'"),
        ({"night_check_out": "25:00"}, "night_check_out"),
    ],
)
def test_a_configuration_that_does_not_fit_gives_one_clear_error(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**rules)
