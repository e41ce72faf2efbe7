"""The connection's state machine: sequences by hand and at random."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.capture.connection import FIRST_WAIT_S, MAX_WAIT_S, STABLE_S, ConnectionState


def machine(random: float = 1.0, stall_s: float = 5.0) -> ConnectionState:
    return ConnectionState(stall_s, lambda: random, 0.0)


def wait_of(m: ConnectionState, now: float) -> float:
    """Seconds from `now` until it is due."""
    low, high = now, now + 2 * MAX_WAIT_S
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if m.is_due(middle) else (middle, high)
    return high - now


def test_the_good_case() -> None:
    m = machine()
    assert m.is_due(0.0)
    m.start_connecting(0.0)
    assert m.state == "connecting"
    m.record_frame(0.4)
    assert (m.state, m.changed_at) == ("live", 0.4)
    m.record_frame(0.5)
    assert m.changed_at == 0.4
    assert not m.check_stalled(5.4)


def test_waits_double_to_ten_seconds_and_reset_when_stable() -> None:
    m = machine()
    waits = []
    now = 0.0
    for _ in range(8):
        m.start_connecting(now)
        m.schedule_retry(now, "refused")
        waits.append(round(wait_of(m, now), 3))
        now += waits[-1]
    assert waits == [0.5, 1, 2, 4, 8, 10, 10, 10]
    m.start_connecting(now)
    m.record_frame(now)
    m.schedule_retry(now, "again")
    assert wait_of(m, now) == pytest.approx(10), "one frame is no stable connection"
    m.start_connecting(now)
    m.record_frame(now)
    m.record_frame(now + STABLE_S)
    m.schedule_retry(now + STABLE_S, "again")
    assert wait_of(m, now + STABLE_S) == pytest.approx(FIRST_WAIT_S)


def test_jitter_spreads_over_half_the_wait() -> None:
    for chance, wait in ((0.0, 0.25), (1.0, 0.5)):
        m = machine(chance)
        m.schedule_retry(0.0, "")
        assert wait_of(m, 0.0) == pytest.approx(wait)


def test_a_stall_is_noticed_while_live_and_while_connecting() -> None:
    for live in (True, False):
        m = machine()
        m.start_connecting(0.0)
        if live:
            m.record_frame(0.0)
        assert not m.check_stalled(4.99)
        assert m.check_stalled(5.0)
        assert m.state == "stalled"
        assert "no frame for 5 s" in m.detail
        m.schedule_retry(5.1, m.detail)
        assert m.state == "backing_off"


def test_opening_is_no_part_of_a_stall() -> None:
    m = machine()
    m.start_connecting(0.0)
    m.mark_opened(7.0)
    assert not m.check_stalled(11.99)
    assert m.check_stalled(12.0)


def test_three_short_reads_in_a_row_restart() -> None:
    m = machine()
    m.start_connecting(0.0)
    assert [m.record_short_read(1.0), m.record_short_read(2.0)] == [False, False]
    m.record_frame(2.5)
    assert [m.record_short_read(3.0), m.record_short_read(4.0), m.record_short_read(5.0)] == [False, False, True]


def test_misconfigured_camera_is_retried_and_reported() -> None:
    m = machine()
    m.schedule_retry(0.0, "404", misconfigured=True)
    assert m.state == "misconfigured"
    assert m.is_due(MAX_WAIT_S)
    m.start_connecting(MAX_WAIT_S)
    assert (m.state, m.detail) == ("misconfigured", "404")
    m.record_frame(MAX_WAIT_S)
    assert (m.state, m.detail) == ("live", "")


def test_stopped_is_final() -> None:
    m = machine()
    m.stop(1.0, "the file has been played to its end")
    assert m.state == "stopped"
    assert not m.is_due(1e9)


STEPS = st.lists(
    st.tuples(st.sampled_from(["connect", "frame", "short", "stalled", "lost", "bad"]), st.floats(0, 30)), max_size=60
)


@given(STEPS, st.floats(0, 1))
def test_no_sequence_makes_it_give_up_or_wait_longer(steps: list[tuple[str, float]], chance: float) -> None:
    m = machine(chance)
    now = 0.0
    for name, passed in steps:
        now += passed
        if name == "connect":
            m.start_connecting(now)
        elif name == "frame":
            m.record_frame(now)
            assert m.state == "live"
        elif name == "short":
            m.record_short_read(now)
        elif name == "stalled":
            assert m.check_stalled(now) == (m.state == "stalled")
        else:
            m.schedule_retry(now, name, misconfigured=name == "bad")
            assert not m.is_due(now)
        assert m.state != "stopped"
        assert m.is_due(now + MAX_WAIT_S)
