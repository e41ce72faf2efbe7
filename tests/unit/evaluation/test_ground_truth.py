"""Truth files, what they are compared with, and whether an audit still speaks of its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crowdperf.evaluation.camera_setup import select_camera
from crowdperf.evaluation.clip import Clip
from crowdperf.evaluation.ground_truth import TruthError, find_picture, read_truth
from crowdperf.evaluation.report import format_clock, render_page, render_table
from crowdperf.evaluation.score import judge_line
from crowdperf.settings.base import ConfigError, compute_fingerprint
from crowdperf.settings.camera import Line
from crowdperf.settings.config import parse
from tests.unit.evaluation.test_comparison import crossing, outcome, setup

CLIP = Clip(Path("hall.mkv"), 640, 360, 10.0)
TIMES = [index / 10 for index in range(100)]


def truth(tmp_path: Path, content: object, name: str = "truth.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def crossings(path: Path) -> list[tuple]:
    return [tuple(one) for one in read_truth(path, CLIP).get_crossings(TIMES)]


def test_json_with_times_clocks_and_pictures(tmp_path: Path) -> None:
    rows = [
        {"time": "0:04.5", "line": "door", "direction": "out"},
        {"time_s": 1.5, "line": "door", "direction": "in", "class": "person"},
        {"picture": 20, "time_s": 99.0, "line": "gate", "direction": "in"},
    ]
    assert crossings(truth(tmp_path, {"crossings": rows})) == [
        (1.5, "door", "in", "person"),
        (2.0, "gate", "in", ""),
        (4.5, "door", "out", ""),
    ]


def test_csv_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    text = "\ufefftime,line,direction,class\r\n0:00:03.25,door,in,\r\n7,door,out,bus\r\n"
    assert crossings(truth(tmp_path, text, "truth.csv")) == [(3.25, "door", "in", ""), (7.0, "door", "out", "bus")]


def test_lines_in_pixels_with_changes_of_side(tmp_path: Path) -> None:
    events = [{"frame": 30, "id": 4, "dir": "neg_to_pos"}, {"frame": 10, "id": 5, "dir": "pos_to_neg"}]
    line = {"name": "V320", "p1": [320, 0], "p2": [320, 360], "events": events}
    path = truth(tmp_path, {"anchor": "box centre", "lines": [line]})
    assert crossings(path) == [(1.0, "v320", "out", ""), (3.0, "v320", "in", "")]
    (drawn,) = read_truth(path, CLIP).lines
    assert (drawn.id, drawn.p1, drawn.p2, drawn.anchor) == ("v320", [0.5, 0.0], [0.5, 1.0], "centre")
    assert read_truth(path, CLIP).replace_lines(setup()).tracked.lines == (drawn,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no truth file"),
        ("[]", "is no truth file"),
        ("5", "is no truth file"),
        ({"crossings": 5}, "is no truth file"),
        ({"lines": []}, "is no truth file"),
        ({"lines": [{"name": "a"}]}, "has no 'crossings'"),
        ({"crossings": [{"time_s": 1, "direction": "in"}]}, "crossing 1 names no line"),
        ({"crossings": [{"time_s": 1, "line": "door", "direction": "left"}]}, "'left'. Remedy: write in or out"),
        ({"crossings": [{"time_s": "soon", "line": "door", "direction": "in"}]}, "the time is 'soon'"),
        ({"crossings": [{"time_s": "nan", "line": "door", "direction": "in"}]}, "the time is 'nan'"),
        ({"crossings": [{"line": "door", "direction": "in"}]}, "the time is None"),
        ({"crossings": [{"picture": -1, "line": "door", "direction": "in"}]}, "no picture -1"),
        ({"crossings": [{"picture": 100, "line": "door", "direction": "in"}]}, "picture 100 is not in the clip"),
        ({"crossings": [{"time": "1:00", "line": "door", "direction": "in"}]}, "second 60 is not in the clip"),
        ({"crossings": [{"time": 1, "line": "door", "direction": "in", "class": "dog"}]}, "no class 'dog'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(TruthError, match=r"truth\.json") as raised:
        crossings(truth(tmp_path, content))
    assert message in str(raised.value)
    assert "Remedy" in str(raised.value)


def test_a_csv_without_its_columns(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="name the columns"):
        read_truth(truth(tmp_path, "door;in;3.5\n", "truth.csv"), CLIP)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match="cannot read the truth file"):
        read_truth(tmp_path / "none.json", CLIP)


def test_lines_that_are_judged(tmp_path: Path) -> None:
    named = read_truth(truth(tmp_path, {"crossings": [{"time": 1, "line": "door", "direction": "in"}]}), CLIP)
    nothing = read_truth(truth(tmp_path, {"crossings": []}), CLIP)
    assert [line.id for line in named.select_lines(setup(), [])] == ["door"]
    assert [line.id for line in nothing.select_lines(setup(), ["door"])] == ["door"]
    with pytest.raises(TruthError, match="speaks of no line"):
        nothing.select_lines(setup(), [])
    with pytest.raises(TruthError, match=r"'gate' is none of camera 'hall' in a\.json, which has door"):
        named.select_lines(setup(), ["gate"])
    with pytest.raises(TruthError, match="draws no lines"):
        named.replace_lines(setup())


def test_a_verdict_names_every_mistake(tmp_path: Path) -> None:
    rows = [
        {"time": 1.0, "line": "door", "direction": "in", "class": "person"},
        {"time": 3.0, "line": "door", "direction": "in", "class": "bicycle"},
        {"time": 5.0, "line": "door", "direction": "out"},
        {"time": 7.0, "line": "door", "direction": "in", "class": "bus"},
    ]
    line = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9], classes=["person", "bicycle"])
    counted = outcome(crossing(1.2), crossing(3.0), crossing(5.0, "in"))
    true = read_truth(truth(tmp_path, {"crossings": rows}), CLIP).get_crossings(TIMES)
    verdict = judge_line(line, counted, true, 1.0)
    assert [one.at for one in verdict.missed] == [5.0], "a bus is none of this line's"
    assert [one.at_s for one in verdict.surplus] == [5.0]
    assert [(one.class_name, other.event.class_name) for one, other in verdict.other_class] == [("bicycle", "person")]
    assert (verdict.total.true, verdict.total.counted, verdict.total.matched) == (3, 3, 2)


def test_a_fingerprint_follows_what_counts() -> None:
    line = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9])
    renamed = Line(id="door", name="Main door", p1=[0.5, 0.1], p2=[0.5, 0.9])
    spelled_out = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9], hysteresis=0.005, in_side="positive")
    moved = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.8])
    turned = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9], in_side="negative")
    assert compute_fingerprint(line) == compute_fingerprint(renamed) == compute_fingerprint(spelled_out)
    assert len({compute_fingerprint(one) for one in (line, moved, turned)}) == 3


def test_which_camera_is_meant() -> None:
    two = parse(b'{"cameras": [{"id": "a", "url": "a.mp4"}, {"id": "b", "url": "b.mp4"}]}')
    assert select_camera(two, "b", "x.json").id == "b"
    with pytest.raises(ConfigError, match=r"x\.json: which camera\? It has: a, b\. Remedy: .*--camera"):
        select_camera(two, None, "x.json")
    with pytest.raises(ConfigError, match=r"no camera 'c' \(known: a, b\)"):
        select_camera(two, "c", "x.json")
    with pytest.raises(ConfigError, match="none"):
        select_camera(parse(b"{}"), None, "x.json")


def test_the_picture_of_a_moment() -> None:
    assert [find_picture(TIMES, at) for at in (0.0, 0.05, 0.1, 0.25, 99.0)] == [0, 0, 1, 2, 99]


def test_a_report_escapes_what_files_say() -> None:
    text = render_page("<b>.mp4", [render_table(["<i>", "n"], [["&", 3]], 1)])
    assert "<b>.mp4" not in text
    assert "&lt;i&gt;" in text
    assert "<td>&amp;</td><td class=n>3</td>" in text


@pytest.mark.parametrize(
    ("at_s", "shown"), [(0, "0:00.0"), (59.96, "1:00.0"), (83.42, "1:23.4"), (3723.04, "1:02:03.0")]
)
def test_clocks(at_s: float, shown: str) -> None:
    assert format_clock(at_s) == shown
