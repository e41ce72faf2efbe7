"""Lines and zones that can never count are named, and none that can is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.cli.check import collect_findings
from crowdperf.counting.validation import find_problems, validate_line, validate_zone
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.config import Installation
from tests.support.sequences import count, sample, totals

LINES = {
    "a piece without length": ([[0.5, 0.2], [0.5, 0.2], [0.5, 0.8]], "no length"),
    "a line of a few pixels": ([[0.5, 0.5], [0.505, 0.505]], "no length"),
    "along the upper edge, with a bend": ([[0.0, 0.01], [0.5, 0.02], [1.0, 0.01]], "edge of the picture"),
    "in a corner": ([[0.0, 0.03], [0.01, 0.0]], "edge of the picture"),
    "a figure of eight": ([[0.2, 0.2], [0.8, 0.8], [0.8, 0.2], [0.2, 0.8]], "crosses itself"),
    "a zigzag": ([[0.2, 0.2], [0.5, 0.5], [0.3, 0.8], [0.8, 0.9]], ""),
    "half along the edge, half through the picture": ([[0.0, 0.01], [0.5, 0.01], [0.5, 0.9]], ""),
}
ZONES = {
    "no area": ([[0.2, 0.5], [0.5, 0.5], [0.8, 0.5]], "no area"),
    "one point three times": ([[0.2, 0.5], [0.2, 0.5], [0.2, 0.5]], "no area"),
    "a few pixels": ([[0.5, 0.5], [0.51, 0.5], [0.51, 0.51]], "no area"),
    "a bow tie": ([[0.2, 0.2], [0.8, 0.8], [0.8, 0.2], [0.2, 0.8]], "crosses itself"),
    "a strip at the upper edge": ([[0.0, 0.0], [1.0, 0.0], [1.0, 0.04], [0.0, 0.04]], "upper edge"),
    "a strip at the left edge": ([[0.0, 0.0], [0.01, 0.0], [0.01, 1.0], [0.0, 1.0]], "edge of the picture"),
    "the whole picture": ([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], ""),
    "a strip at the lower edge": ([[0.0, 0.95], [1.0, 0.95], [1.0, 1.0], [0.0, 1.0]], ""),
    "an L": ([[0.2, 0.2], [0.8, 0.2], [0.8, 0.4], [0.4, 0.4], [0.4, 0.8], [0.2, 0.8]], ""),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name: str) -> None:
    points, why = LINES[name]
    problem = validate_line(Line(id="door", points=points))
    assert why in problem
    assert bool(why) == bool(problem)
    assert not problem or ("'door'" in problem and "Remedy: " in problem)


@pytest.mark.parametrize("name", ZONES)
def test_zones(name: str) -> None:
    polygon, why = ZONES[name]
    problem = validate_zone(Zone(id="hall", polygon=polygon))
    assert why in problem
    assert bool(why) == bool(problem)
    assert not problem or ("'hall'" in problem and "Remedy: " in problem)


def test_too_few_frames_a_second_for_a_walk_through_the_picture() -> None:
    line, zone = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9]), Zone(id="hall", polygon=ZONES["an L"][0])
    assert [problem.shape for problem in find_problems([line], [zone], 0.5)] == ["door", "hall"]
    assert list(find_problems([line], [zone], 1.0)) == []


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans())
def test_whatever_is_refused_for_the_edge_could_not_have_counted(x: float, tilt: float, upright: bool) -> None:
    """A box that needs room on both sides cannot be seen beyond such a line, wherever it stands."""
    ends = [[x, 0.0], [tilt, 1.0]] if upright else [[0.0, x], [1.0, tilt]]
    line = Line(id="door", p1=ends[0], p2=ends[1])
    if "edge" not in validate_line(line, 1.0):
        return
    places = [(u, v) for u in (0.03, 0.5, 0.97) for v in (0.06, 0.5, 0.99)]
    for there in places:
        for back in places:
            frames = [[sample(1, *place, h=0.05)] for place in (there, there, back, back)]
            assert totals(count(frames, line)) == (0, 0)


def test_check_names_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("site")
    file = folder / "config.json"
    lines = [{"id": "edge", "p1": [0.0, 0.01], "p2": [1.0, 0.01]}, {"id": "door", "p1": [0.5, 0.1], "p2": [0.5, 0.9]}]
    file.write_bytes(msgspec.json.encode({"cameras": [{"id": "lobby", "url": "rtsp://192.0.2.1/", "lines": lines}]}))
    found = [finding.text for finding in collect_findings(Installation(folder)) if not finding.ok]
    assert [text for text in found if "can never count" in text and "'edge'" in text and "lobby" in text]
    assert not [text for text in found if "'door'" in text]
