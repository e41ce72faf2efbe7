"""Changes of the configuration's document: pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.primitives.redaction import redact_config, redact_url
from crowdperf.settings.camera import Camera, Line, Zone
from crowdperf.supervision.config_patch import (
    Edit,
    EditError,
    apply_edits,
    compute_revision,
    omit_defaults,
)
from crowdperf.supervision.config_versions import ConfigHistory

URL = "rtsp://viewer:s3cret@192.0.2.7/stream?token=t0ken"
GATE = {"id": "gate", "p1": [0.5, 0.2], "p2": [0.5, 0.9], "cooldown_s": 3}
DOCUMENT: dict[str, Any] = {
    "site": {"name": "Plaza"},
    "cameras": [{"id": "plaza", "url": URL, "lines": [GATE]}, {"id": "lobby", "url": "rtsp://192.0.2.8/"}],
}


def edited(mode: str, *path: str, value: Any = None) -> dict[str, Any]:
    before = msgspec.json.encode(DOCUMENT)
    after = apply_edits(DOCUMENT, [Edit(mode=mode, path=path, value=value)])
    assert msgspec.json.encode(DOCUMENT) == before, "the document given is left alone"
    return after


def plaza(document: dict[str, Any]) -> dict[str, Any]:
    return document["cameras"][0]


def test_what_was_not_written_stays_unwritten() -> None:
    after = edited("merge", "cameras", "plaza", value={"name": "Plaza north"})
    assert plaza(after) == {**plaza(DOCUMENT), "name": "Plaza north"}
    assert after["site"] == DOCUMENT["site"]


def test_null_takes_a_setting_away() -> None:
    assert "lines" not in plaza(edited("merge", "cameras", "plaza", value={"lines": None}))


def test_shape_keeps_other_fields_and_its_course_is_whole() -> None:
    moved = {"id": "gate", "points": [[0.1, 0.1], [0.5, 0.5], [0.9, 0.1]]}
    (line,) = plaza(edited("merge", "cameras", "plaza", value={"lines": [moved]}))["lines"]
    assert line == {"id": "gate", "cooldown_s": 3, "points": moved["points"]}
    (zone,) = plaza(edited("merge", "cameras", "plaza", value={"lines": [{"id": "other", "p1": [0, 0]}]}))["lines"]
    assert zone == {"id": "other", "p1": [0, 0]}, "the list is replaced"


@pytest.mark.parametrize(
    ("mode", "path", "value", "status"),
    [
        ("create", ("cameras", "plaza"), {}, 409),
        ("merge", ("cameras", "nobody"), {}, 404),
        ("delete", ("cameras", "nobody"), None, 404),
        ("create", ("cameras", "nobody", "lines", "x"), {}, 404),
        ("replace", ("cameras", "plaza", "lines", "x"), {}, 404),
        ("merge", ("cameras", "plaza"), {"id": "other"}, 400),
        ("merge", ("cameras", "plaza"), 5, 400),
        ("merge", ("cameras", "plaza"), {"url": "rtsp://***@192.0.2.9/stream?***"}, 400),
        ("create", ("cameras", "new"), {"url": "rtsp://***@192.0.2.7/stream?***"}, 400),
    ],
)
def test_what_does_not_fit_is_refused(mode: str, path: tuple[str, ...], value: Any, status: int) -> None:
    with pytest.raises(EditError, match="Remedy") as refused:
        edited(mode, *path, value=value)
    assert refused.value.status == status
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_a_redacted_url_that_comes_back_keeps_the_password(mode: str) -> None:
    shown = plaza(redact_config(DOCUMENT))
    assert "s3cret" not in str(shown)
    assert "t0ken" not in str(shown)
    assert plaza(edited(mode, "cameras", "plaza", value=shown))["url"] == URL


def test_shapes_are_added_replaced_and_removed() -> None:
    door = {"id": "door", "p1": [0.1, 0.5], "p2": [0.9, 0.5]}
    assert plaza(edited("create", "cameras", "plaza", "lines", "door", value=door))["lines"] == [GATE, door]
    assert plaza(edited("replace", "cameras", "plaza", "lines", "gate", value=door | {"id": "gate"}))["lines"] == [
        door | {"id": "gate"}
    ]
    assert plaza(edited("delete", "cameras", "plaza", "lines", "gate"))["lines"] == []
    assert edited("create", "cameras", "lobby", "zones", "z", value={"id": "z"})["cameras"][1]["zones"] == [{"id": "z"}]


POINT = st.lists(st.floats(0, 1), min_size=2, max_size=2)
LINES = st.builds(
    lambda points, name, cooldown: Line(id="l", points=points, name=name, cooldown_s=cooldown),
    st.lists(POINT, min_size=2, max_size=5),
    st.text(max_size=5),
    st.sampled_from([1.0, 2.5]),
) | st.builds(lambda p1, p2: Line(id="l", p1=p1, p2=p2), POINT, POINT)
ZONES = st.builds(lambda corners: Zone(id="z", polygon=corners, limit=3), st.lists(POINT, min_size=3, max_size=5))


@given(st.lists(LINES, max_size=2), st.lists(ZONES, max_size=2), st.booleans())
def test_a_sparse_camera_is_the_same_camera(lines: list[Line], zones: list[Zone], enabled: bool) -> None:
    camera = Camera(id="c", url="rtsp://h/", lines=lines, zones=zones, enabled=enabled)
    text = omit_defaults(camera)
    assert msgspec.convert(text, Camera) == camera
    assert "backend" not in text, "what equals its default is left out"


def test_revision_follows_the_camera_and_hides_its_password() -> None:
    camera = Camera(id="c", url=URL)
    assert compute_revision(camera) == compute_revision(msgspec.structs.replace(camera, url=redact_url(URL)))
    assert compute_revision(camera) == compute_revision(
        msgspec.structs.replace(camera, url=URL.replace("s3cret", "other"))
    )
    assert compute_revision(camera) != compute_revision(msgspec.structs.replace(camera, name="x"))


def test_versions_are_numbered_kept_and_their_owners_alone(tmp_path: Path) -> None:
    versions = ConfigHistory(tmp_path / "config")
    assert versions.list_versions() == []
    versions.add(b"one", 1.0, "", "found")
    versions.add(b"two", 2.0, "ada", "camera.change plaza")
    assert [(row.number, row.who) for row in versions.list_versions()] == [(1, ""), (2, "ada")]
    assert versions.read_file(1) == b"one"
    assert versions.read_file(3) is None
    assert versions.find_current(b"two").number == 2
    assert versions.find_current(b"one") is None, "an editor was at it"
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "config").glob("0*")} == {0}
