"""What rules make of events, without Redis: `list(logic.handle(event))` and `logic.due`."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from crowdperf.messaging.schema import AlertChanged, AlertRaised, AnyEvent
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import parse
from crowdperf.storage.alerts import AlertUpdate
from crowdperf.workers.notify.logic import AlertLogic, Notification
from crowdperf.workers.notify.mqtt_state import Reading
from tests.support.alerting import NOW, breach, crossing, gap, make_config, state, zone

HOOK = {"type": "webhook", "id": "hook", "url": "https://hooks.example/x"}
BOSS = {"type": "email", "id": "boss", "host": "mail.example", "sender": "a@b.example", "to": ["c@d.example"]}
CROWD = {"id": "crowd", "name": "Too many", "event": "ZoneChanged", "channels": ["hook"]}


class Bench:
    """A logic, and all its effects so far."""

    def __init__(self, rule: dict[str, Any], **alerts: Any) -> None:
        channels = alerts.pop("channels", [HOOK, BOSS])
        self.logic = AlertLogic(make_config({"rules": [rule], "channels": channels, **alerts}))
        self.effects: list[Struct] = []

    def take(self, *events: AnyEvent) -> Bench:
        for event in events:
            self.effects += self.logic.handle(event)
        return self

    def at(self, now: float, camera: str = "plaza") -> Bench:
        self.effects += self.logic.advance_time(camera, now)
        return self

    def kinds(self) -> list[str]:
        names = {AlertRaised: "raised", Notification: "notified"}
        return [
            names.get(type(row)) or row.state  # type: ignore[attr-defined]
            for row in self.effects
            if isinstance(row, (AlertRaised, AlertChanged, Notification))
        ]

    def notifications(self) -> list[Notification]:
        return [row for row in self.effects if isinstance(row, Notification)]


def test_a_zone_over_its_limit_raises_tells_and_closes() -> None:
    bench = Bench(CROWD).take(zone(1, 4, NOW), zone(2, 5, NOW + 1)).at(NOW + 1.2)
    assert bench.kinds() == ["raised", "notified"]
    assert bench.notifications()[0].channel == "hook"
    assert bench.notifications()[0].alert.detail == "Plaza: 5 in Square, more than 4"
    bench.take(zone(3, 6, NOW + 2), zone(4, 4, NOW + 9)).at(NOW + 10)
    assert bench.kinds() == ["raised", "notified", "closed"]


def test_alert_that_ended_before_delivery_is_still_sent() -> None:
    events = [zone(1, 5, NOW), zone(2, 1, NOW + 0.1), zone(3, 5, NOW + 0.2), zone(4, 1, NOW + 0.3)]
    bench = Bench({**CROWD, "dedupe_s": 0}).take(*events).at(NOW + 1).at(NOW + 2)
    assert len({row.id for row in bench.notifications()}) == len(bench.notifications()) == 2


def test_the_same_events_give_the_same_ids() -> None:
    runs = [Bench(CROWD).take(zone(1, 5, NOW), zone(2, 4, NOW + 5)).at(NOW + 6).effects for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0]


def test_state_and_restore_change_nothing_at_any_point() -> None:
    events = [zone(1, 5, NOW), zone(2, 6, NOW + 1), zone(3, 2, NOW + 5), zone(4, 7, NOW + 20), zone(5, 1, NOW + 900)]
    whole = Bench(CROWD)
    for event in events:
        whole.take(event).at(event.ts + 0.5)
    for cut in range(1, len(events)):
        parts = Bench(CROWD)
        for index, event in enumerate(events):
            if index == cut:
                stored = parts.logic.dump_state("plaza")
                parts.logic.clear()
                parts.logic.restore("plaza", stored)
            parts.take(event).at(event.ts + 0.5)
        assert parts.effects == whole.effects


def test_what_is_over_soon_raises_nothing() -> None:
    rule = {**CROWD, "min_duration_s": 10}
    bench = Bench(rule).take(zone(1, 5, NOW)).at(NOW + 9).take(zone(2, 3, NOW + 9.5)).at(NOW + 30)
    assert bench.kinds() == []
    bench.take(zone(3, 5, NOW + 40)).at(NOW + 49).at(NOW + 50.1)
    assert bench.kinds() == ["raised", "notified"]


def test_repeat_within_the_dedupe_time_sends_nothing() -> None:
    rule = {**CROWD, "dedupe_s": 60}
    bench = Bench(rule).take(zone(1, 5, NOW)).at(NOW + 1).take(zone(2, 1, NOW + 5), zone(3, 5, NOW + 50)).at(NOW + 51)
    assert bench.kinds() == ["raised", "notified", "closed", "open"]
    assert {row.alert.id for row in bench.effects if isinstance(row, AlertUpdate)} == {f"crowd:{zone(1, 5, NOW).id}"}
    bench.take(zone(4, 1, NOW + 52)).at(NOW + 113).take(zone(5, 5, NOW + 114)).at(NOW + 115)
    assert bench.kinds()[4:] == ["closed", "raised", "notified"]


def test_what_happens_while_it_is_open_is_counted_not_told() -> None:
    rule = {"id": "door", "event": "LineCrossed", "lines": ["door"], "channels": ["hook"], "close_after_s": 60}
    bench = Bench(rule)
    for n in range(5):
        bench.take(crossing(n, NOW + n)).at(NOW + n)
    assert bench.kinds() == ["raised", "notified"]
    assert [row.alert.count for row in bench.effects if isinstance(row, AlertUpdate)][-1] == 5
    assert bench.at(NOW + 63).kinds() == ["raised", "notified"]
    assert bench.at(NOW + 65).kinds() == ["raised", "notified", "closed"]


def test_the_rate_limit_holds_back_and_says_so_later() -> None:
    rule = {**CROWD, "max_per_hour": 2, "dedupe_s": 0}
    bench = Bench(rule)
    for n in range(4):
        start = NOW + 100 * n
        bench.take(zone(2 * n, 5, start)).at(start + 1).take(zone(2 * n + 1, 0, start + 5)).at(start + 6)
    assert len(bench.notifications()) == 2
    assert bench.kinds().count("raised") == 4
    bench.take(zone(90, 5, NOW + 4000)).at(NOW + 4001)
    assert "2 earlier alerts" in bench.notifications()[-1].note


def test_quiet_hours_delay_a_warning_but_no_critical_alert() -> None:
    # NOW is 10:46:40 in Berlin.
    quiet = [{"start": "10:00", "end": "11:00"}]
    bench = Bench(CROWD, quiet_hours=quiet).take(zone(1, 5, NOW)).at(NOW + 1)
    assert bench.kinds() == ["raised"]
    assert bench.at(NOW + 3600).kinds() == ["raised", "notified"]
    assert Bench({**CROWD, "severity": "critical"}, quiet_hours=quiet).take(zone(1, 5, NOW)).at(NOW + 1).notifications()
    over = Bench(CROWD, quiet_hours=quiet).take(zone(1, 5, NOW), zone(2, 1, NOW + 60)).at(NOW + 3600)
    assert over.kinds() == ["raised", "closed"], "what was over before they ended wakes nobody up"


def test_a_rules_schedule_decides_when_it_holds() -> None:
    assert Bench({**CROWD, "schedule": [{"start": "18:00", "end": "08:00"}]}).take(zone(1, 5, NOW)).effects == []
    assert Bench({**CROWD, "schedule": [{"start": "08:00", "end": "18:00"}]}).take(zone(1, 5, NOW)).effects != []


def escalating() -> Bench:
    steps = [{"after_s": 600, "channels": ["boss"]}, {"after_s": 1800, "channels": ["boss", "hook"]}]
    return Bench({**CROWD, "escalate": steps}).take(zone(1, 5, NOW)).at(NOW + 1)


def answer(bench: Bench, to: Any, ts: float) -> AlertChanged:
    alert = bench.notifications()[0].alert
    return AlertChanged(id="answer", camera="plaza", ts=ts, alert=alert.id, rule=alert.rule, state=to, by="ada")


def test_what_nobody_acknowledges_goes_further_up_once_per_step() -> None:
    bench = escalating().at(NOW + 599).at(NOW + 601).at(NOW + 700).at(NOW + 1801).at(NOW + 9000)
    assert [(row.stage, row.channel) for row in bench.notifications()] == [
        (0, "hook"),
        (1, "boss"),
        (2, "boss"),
        (2, "hook"),
    ]
    assert len({(row.id, row.channel) for row in bench.notifications()}) == 4
    stages = [row.alert.escalated for row in bench.effects if isinstance(row, AlertUpdate)]
    assert stages[-2:] == [1, 2], "the alert itself says how far it went"
    assert [row.escalated for row in bench.effects if isinstance(row, AlertChanged)] == [1, 2], (
        "and every browser hears"
    )


def test_disabled_rule_raises_nothing_and_closes_its_alerts() -> None:
    bench = Bench(CROWD).take(zone(1, 5, NOW)).at(NOW + 1)
    off = Bench({**CROWD, "enabled": False})
    off.logic.restore("plaza", bench.logic.dump_state("plaza"))
    off.at(NOW + 2).take(zone(2, 9, NOW + 3)).at(NOW + 4)
    assert off.kinds() == ["closed"]
    assert zone(3, 9, NOW).__class__ not in off.logic.event_types, "and asks for no event"


def test_who_acknowledges_stops_the_escalation() -> None:
    bench = escalating()
    bench.take(answer(bench, "acknowledged", NOW + 300)).at(NOW + 601)
    assert len(bench.notifications()) == 1
    bench.take(zone(2, 1, NOW + 700))
    assert bench.kinds()[-1] == "closed", "an acknowledged alert still closes when its cause ends"


def test_an_alert_that_a_person_closed_stays_closed() -> None:
    bench = escalating()
    bench.take(answer(bench, "closed", NOW + 300)).at(NOW + 5000).take(zone(2, 1, NOW + 5001))
    assert bench.kinds() == ["raised", "notified"]


def test_a_camera_that_is_away_for_long_enough() -> None:
    rule = {"id": "away", "event": "CameraChanged", "min_duration_s": 60, "channels": ["hook"]}
    bench = Bench(rule).take(state(1, "stalled", NOW)).at(NOW + 30).take(state(2, "backing_off", NOW + 31)).at(NOW + 61)
    assert bench.notifications()[0].alert.detail == "Plaza is backing off"
    assert bench.take(state(3, "live", NOW + 90)).kinds() == ["raised", "notified", "closed"]
    assert Bench(rule).take(state(1, "stalled", NOW), state(2, "live", NOW + 5)).at(NOW + 100).effects == []


def test_a_broken_limit_ends_with_the_last_of_several() -> None:
    rule = {"id": "loiter", "event": "Alert", "breaches": ["loitering"], "channels": ["hook"]}
    bench = Bench(rule).take(breach(1, "opened", NOW), breach(2, "opened", NOW + 1)).at(NOW + 2)
    assert bench.notifications()[0].alert.detail == "Plaza: somebody has been in Square for 9 s, longer than 5 s"
    bench.take(breach(1, "closed", NOW + 3))
    assert bench.kinds() == ["raised", "notified"]
    bench.take(breach(2, "closed", NOW + 4))
    assert bench.kinds() == ["raised", "notified", "closed"]
    assert Bench({**rule, "breaches": ["wrong_way"]}).take(breach(1, "opened", NOW)).effects == []


def test_a_gap_shorter_than_the_rule_asks_for_is_none() -> None:
    rule = {"id": "gap", "event": "CameraGap", "min_duration_s": 5, "channels": ["hook"]}
    assert Bench(rule).take(gap(4, NOW)).effects == []
    assert Bench(rule).take(gap(6, NOW)).at(NOW + 1).kinds() == ["raised", "notified"]


@pytest.mark.parametrize(
    "rule",
    [
        {**CROWD, "cameras": ["gate"]},
        {**CROWD, "above": 9},
        {"id": "cars", "event": "LineCrossed", "classes": ["car"]},
        {"id": "cams", "event": "CameraChanged"},
    ],
)
def test_a_filter_that_does_not_fit_lets_nothing_through(rule: dict[str, Any]) -> None:
    assert Bench(rule).take(zone(1, 5, NOW), crossing(2, NOW)).effects == []


def test_an_event_from_long_ago_is_recorded_and_wakes_nobody_up() -> None:
    bench = Bench(CROWD, max_age_s=3600).take(zone(1, 5, NOW)).at(NOW + 4000)
    assert bench.kinds() == ["raised"]


def test_a_rule_that_was_removed_leaves_no_open_alert() -> None:
    bench = Bench(CROWD).take(zone(1, 5, NOW)).at(NOW + 1)
    after = Bench({**CROWD, "id": "other"})
    after.logic.restore("plaza", bench.logic.dump_state("plaza"))
    assert after.at(NOW + 2).kinds() == ["closed"]
    assert after.at(NOW + 3).kinds() == ["closed"]


def test_readings_count_today_and_restart_at_midnight() -> None:
    mqtt = {"type": "mqtt", "id": "broker", "host": "broker.example"}
    bench = Bench(CROWD, channels=[HOOK, mqtt]).take(crossing(1, NOW), crossing(2, NOW + 1), zone(3, 2, NOW + 2))
    readings = [row for row in bench.effects if isinstance(row, Reading)]
    assert [(row.path, row.value) for row in readings] == [
        ("plaza/line/door/in", 1),
        ("plaza/line/door/in", 2),
        ("plaza/zone/square/occupancy", 2),
    ]
    assert [(row.path, row.value) for row in bench.logic.advance_time("plaza", NOW + 86_400)] == [
        ("plaza/line/door/in", 0)
    ]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("alerts", "message"),
    [
        ({"rules": [{**CROWD, "channels": ["nobody"]}]}, "no channel 'nobody'"),
        ({"rules": [CROWD, CROWD], "channels": [HOOK]}, "used twice"),
        ({"rules": [{**CROWD, "channels": [], "zones": ["attic"]}]}, "no zone 'attic'"),
        ({"rules": [{**CROWD, "channels": [], "cameras": ["attic"]}]}, "no camera 'attic'"),
        ({"rules": [{**CROWD, "channels": [], "lines": ["door"]}]}, "does not fit the event ZoneChanged"),
        ({"rules": [{"id": "x", "event": "CameraChanged", "states": ["asleep"]}]}, "no state 'asleep'"),
        ({"channels": [{**HOOK, "url": "ftp://x"}]}, "not http"),
        ({"channels": [{**HOOK, "url": "https://user:geheim@x.example/"}]}, "not http"),
        ({"channels": [{**HOOK, "url_env": "HOOK"}]}, "either url or url_env"),
        ({"channels": [{**BOSS, "to": []}]}, "is empty"),
        ({"channels": [{**HOOK, "colour": 1}]}, "colour"),
        ({"allow_private": ["10.0.0.0/99"]}, "not a network"),
        ({"quiet_hours": [{"start": "25:00"}]}, "quiet_hours"),
    ],
)
def test_a_configuration_that_does_not_fit_gives_one_clear_error(alerts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        make_config(alerts)
    assert "Remedy" in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_a_site_without_alerts_is_valid() -> None:
    assert parse(b"{}").alerts.rules == []
