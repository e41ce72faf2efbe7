"""A client's pace: down where its connection is slow, up again where it is not, and never far ahead of what it has."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.web.live.rate_control import (
    ENCODED_WIDTHS,
    MAX_AHEAD_BYTES,
    MAX_AHEAD_S,
    MAX_CALM_S,
    MIN_WIDTH_SHARE,
    QUALITY_STEPS,
    PictureFormat,
    RateController,
    choose_format,
)

BOTTOM = len(QUALITY_STEPS) - 1
FULL_BYTES = 30_000
TURN_S = 0.05
FULL_RATE = 10


class Link:
    """Simulate a connection of limited bandwidth that carries the pictures of some tiles in order.

    Args:
        tiles: Number of tiles.
        bytes_s: Bandwidth, bytes per second.
        confirms: Whether the client confirms its pictures.
        delay_s: Seconds between the end of a transfer and its arrival.
    """

    def __init__(self, tiles: int, bytes_s: float, confirms: bool = True, delay_s: float = 0.02) -> None:
        self.now = 100.0
        self.bytes_s = bytes_s
        self.delay_s = delay_s
        self.pace = RateController(self.now)
        self.confirms = confirms
        self.steps: list[int] = []
        self.most_ahead = 0
        self.delivered = 0
        self.ages: list[float] = []
        self._given = [float("-inf")] * tiles
        self._waiting: dict[int, int] = {}
        self._wire: deque[tuple[float, int]] = deque()
        self._far: deque[tuple[float, float, int]] = deque()
        self._paid = 0.0
        self._on_wire = 0
        if confirms:
            self.pace.record_confirmed(self.now, 0)

    def run(self, seconds: float) -> Link:
        """Simulate so many seconds."""
        for _ in range(round(seconds / TURN_S)):
            self._turn()
            self.steps.append(self.pace.step)
            self.now += TURN_S
        return self

    def _turn(self) -> None:
        step = QUALITY_STEPS[self.pace.step]
        for tile, given_at in enumerate(self._given):
            if self.now - given_at >= step.interval_s - TURN_S / 2:
                self._given[tile] = self.now
                self.pace.record_ready(self.now, tile in self._waiting)
                self._waiting[tile] = round(FULL_BYTES * step.scale**2 * step.quality / 78)
        self._carry()
        # Without confirmations the sender is held up by the socket's buffers alone.
        while self._waiting and self.pace.has_room(self.now) and (self.confirms or self._on_wire < 400_000):
            size = self._waiting.pop(next(iter(self._waiting)))
            self.pace.record_sent(self.now, size)
            self._wire.append((self.now, size))
            self._on_wire += size
            self.most_ahead = max(self.most_ahead, self._on_wire)

    def _carry(self) -> None:
        """Move the bytes of one turn, and deliver what arrives."""
        self._paid = self._paid + self.bytes_s * TURN_S if self._wire else 0.0
        while self._wire and self._wire[0][1] <= self._paid:
            sent_at, size = self._wire.popleft()
            self._paid -= size
            self._on_wire -= size
            self._far.append((self.now + self.delay_s, sent_at, size))
        while self._far and self._far[0][0] <= self.now:
            _, sent_at, size = self._far.popleft()
            self.delivered += size
            self.ages.append(self.now - sent_at)
            if self.confirms:
                self.pace.record_confirmed(self.now, len(self.ages))


def test_a_quick_connection_keeps_full_quality() -> None:
    link = Link(12, 1e8).run(120)
    assert set(link.steps) == {0}
    assert link.pace.skipped_total == 0


@pytest.mark.parametrize("confirms", [True, False])
def test_slow_connection_steps_down_and_recovers(confirms: bool) -> None:
    link = Link(4, 40_000, confirms).run(30)
    assert link.pace.step >= BOTTOM - 1, "it may be on trial one step up"
    before = link.delivered
    link.run(20)
    assert (link.delivered - before) / 20 < 0.1 * 4 * FULL_BYTES * FULL_RATE, "far less than full quality"
    link.bytes_s = 1e8
    link.run(60)
    assert link.pace.step == 0


def test_what_a_slow_client_sees_is_of_now() -> None:
    link = Link(4, 100_000).run(30)
    assert sorted(link.ages[-100:])[50] < 1.0
    assert max(link.ages[-100:]) < 2.5
    assert link.most_ahead < MAX_AHEAD_BYTES + FULL_BYTES


def test_connection_between_two_steps_does_not_oscillate() -> None:
    """60 % of what step 1 needs: tried again and again, each time after longer."""
    link = Link(4, 0.6 * 4 * FULL_BYTES * FULL_RATE * 55 / 78).run(300)
    ups = [at for at, (a, b) in enumerate(pairwise(link.steps)) if b < a]
    gaps = [(b - a) * TURN_S for a, b in pairwise(ups)]
    assert len(ups) < 30
    assert max(gaps) > 25


def test_one_hiccup_costs_little() -> None:
    link = Link(4, 1e8).run(20)
    link.bytes_s, quick = 20_000, link.bytes_s
    link.run(2)
    link.bytes_s = quick
    link.run(30)
    assert link.pace.step == 0


def test_a_stalled_client_is_sent_no_more() -> None:
    link = Link(4, 0).run(60)
    assert link.delivered == 0
    assert link.most_ahead <= MAX_AHEAD_BYTES + FULL_BYTES
    assert link.pace.step == BOTTOM
    assert link.pace.skipped_total > 0


def test_a_long_way_is_no_slow_one() -> None:
    """300 ms to a client whose line is wide: half a second of pictures is on the way, and nothing is skipped."""
    link = Link(4, 1e8, delay_s=0.3).run(30)
    assert link.pace.step <= 1


def test_who_confirms_more_than_was_sent_talks_nonsense() -> None:
    pace = RateController(0.0)
    pace.record_sent(0.0, 10)
    with pytest.raises(ValueError, match="seen is 2, but 1 pictures were sent"):
        pace.record_confirmed(0.1, 2)


@given(st.integers(1, 9), st.floats(5_000, 1e8), st.floats(0.0, 0.2), st.booleans())
def test_each_connection_ends_where_it_fits_and_recovers(
    tiles: int, bytes_s: float, delay_s: float, confirms: bool
) -> None:
    link = Link(tiles, bytes_s, confirms, delay_s).run(60)
    assert all(abs(b - a) <= 1 for a, b in pairwise(link.steps)), "one step at a time"
    if confirms:
        assert link.most_ahead < MAX_AHEAD_BYTES + FULL_BYTES
    floor = (
        tiles
        * FULL_BYTES
        * QUALITY_STEPS[BOTTOM].scale ** 2
        * QUALITY_STEPS[BOTTOM].quality
        / 78
        / QUALITY_STEPS[BOTTOM].interval_s
    )
    if bytes_s < floor:
        assert link.pace.step >= BOTTOM - 1, "it may be on trial one step up"
    link.bytes_s, link.delay_s = 1e9, 0.02
    link.run(MAX_CALM_S + 60)
    assert link.pace.step == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "skip", "send", "seen"]), st.floats(0, 5), st.integers(0, 10**6)),
        max_size=200,
    )
)
def test_any_sequence_leaves_it_sound(calls: list[tuple[str, float, int]]) -> None:
    now, sent = 0.0, 0
    pace = RateController(now)
    for name, seconds, number in calls:
        now += seconds
        if name == "send" and pace.has_room(now):
            pace.record_sent(now, number)
            sent += 1
        elif name == "seen":
            pace.record_confirmed(now, number % (sent + 1))
        elif name in ("offer", "skip"):
            pace.record_ready(now, name == "skip")
        assert 0 <= pace.step <= BOTTOM
    pace.record_confirmed(now, sent)
    assert pace.has_room(now), "who has confirmed everything may have more"


@given(st.integers(0, 4000))
def test_forms_are_few_and_fit_the_tile(width: int) -> None:
    forms = [choose_format(width, step) for step in range(len(QUALITY_STEPS))]
    assert all(form.width in (0, *ENCODED_WIDTHS) for form in forms)
    sizes = [form.width or 10_000 for form in forms]
    assert sizes == sorted(sizes, reverse=True), "a lower step is never wider"
    assert [form.quality for form in forms] == sorted((form.quality for form in forms), reverse=True)
    if 0 < width <= ENCODED_WIDTHS[-1]:
        assert forms[0].width >= MIN_WIDTH_SHARE * width, "never blurred at full quality"
    if not width:
        assert forms[0] == PictureFormat()


def test_half_a_second_is_the_most_that_is_on_the_way() -> None:
    pace = RateController(0.0)
    pace.record_confirmed(0.0, 0)
    pace.record_sent(0.0, 10)
    assert pace.has_room(MAX_AHEAD_S - 0.01)
    assert not pace.has_room(MAX_AHEAD_S)
    pace.record_confirmed(MAX_AHEAD_S, 1)
    assert pace.has_room(MAX_AHEAD_S)
