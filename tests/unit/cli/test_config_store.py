"""The one writer of the configuration file, without a supervisord."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crowdperf.cli.config import ConfigStore
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation
from crowdperf.supervision.config_patch import ConfigRequest, ConfigResponse, Edit

GATE = {"id": "gate", "p1": [0.5, 0.2], "p2": [0.5, 0.9]}
DOCUMENT = {
    "cameras": [
        {"id": "plaza", "url": "rtsp://viewer:s3cret@192.0.2.7/", "lines": [GATE]},
        {"id": "lobby", "url": "rtsp://192.0.2.8/"},
    ]
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


@pytest.fixture
def store(file: Path) -> ConfigStore:
    return ConfigStore(Installation(file.parent))


def edit(store: ConfigStore, mode: str, *path: str, value: Any = None, **more: Any) -> ConfigResponse:
    return store.apply(ConfigRequest(do="edit", edits=(Edit(mode=mode, path=path, value=value),), **more))


@pytest.mark.parametrize(
    ("mode", "path", "value", "message"),
    [
        ("create", ("cameras", "x"), {"url": "gopher://192.0.2.1/"}, "scheme"),
        ("create", ("cameras", "x"), {"url": "/etc/passwd"}, "media_roots"),
        ("create", ("cameras", "x"), {"url": "http://169.254.169.254/latest"}, "metadata"),
        ("create", ("cameras", "x"), {"url": "rtsp://u:p/w@192.0.2.1/"}, "%2F"),
        ("create", ("cameras", "../x"), {"url": "rtsp://192.0.2.1/"}, "id"),
        ("merge", ("cameras", "plaza"), {"colour": "red"}, "colour"),
        ("merge", ("cameras", "plaza"), {"target_fps": -1}, "target_fps"),
        ("merge", ("cameras", "plaza"), {"lines": 5}, "lines"),
        ("create", ("cameras", "plaza", "lines", "e"), {"p1": [0.0, 0.0], "p2": [0.0, 1.0]}, "never count"),
        ("create", ("cameras", "plaza", "zones", "z"), {"polygon": [[0, 0], [0.1, 0], [0.2, 0]]}, "never count"),
    ],
)
def test_what_would_not_be_valid_is_refused_and_leaves_no_trace(
    store: ConfigStore, file: Path, mode: str, path: tuple[str, ...], value: Any, message: str
) -> None:
    before = file.read_bytes()
    try:
        outcome = edit(store, mode, *path, value=value)
        detail = outcome.detail
        assert outcome.status == 400
    except ConfigError as error:
        detail = str(error)
    assert message in detail
    assert "Remedy" in detail
    assert file.read_bytes() == before
    assert store.apply(ConfigRequest(do="versions")).versions == ()


def test_only_the_programs_concerned_restart(store: ConfigStore) -> None:
    def counting(outcome: ConfigResponse) -> set[str]:
        """Of those that restart, the programs that counting needs."""
        assert "web" not in outcome.restarts, "it takes the change over while it runs"
        return {name for name in outcome.restarts if name.startswith(("capture", "tracking", "inference"))}

    assert counting(edit(store, "merge", "cameras", "plaza", value={"name": "North"})) == set(), "a name is for people"
    moved = edit(store, "merge", "cameras", "plaza", value={"lines": [GATE | {"p1": [0.4, 0.2]}]})
    assert counting(moved) == {"tracking-0"}
    gone = edit(store, "delete", "cameras", "lobby")
    assert counting(gone) == {"capture-lobby", "tracking-0"}
    assert not gone.running


def test_a_change_that_changes_nothing_makes_no_version(store: ConfigStore) -> None:
    edit(store, "merge", "cameras", "plaza", value={"name": "North"})
    again = edit(store, "merge", "cameras", "plaza", value={"name": "North"})
    assert (again.version, again.restarts) == (2, ())
    assert len(store.apply(ConfigRequest(do="versions")).versions) == 2


def test_an_edit_by_hand_is_a_version_of_its_own(store: ConfigStore, file: Path) -> None:
    edit(store, "merge", "cameras", "plaza", value={"name": "North"}, who="ada", comment="camera.change plaza")
    by_hand = json.loads(file.read_text())
    by_hand["site"] = {"name": "Riverside"}
    file.write_text(json.dumps(by_hand))
    edit(store, "merge", "cameras", "plaza", value={"name": "South"}, who="ada", comment="camera.change plaza")
    rows = store.apply(ConfigRequest(do="versions")).versions
    assert [row.who for row in rows] == ["", "ada", "", "ada"]
    back = store.apply(ConfigRequest(do="rollback", number=3, who="bob"))
    assert back.version == 5
    assert json.loads(file.read_text()) == by_hand


@pytest.mark.parametrize(
    "broken", [b'{"cameras": [', b'{"colour": 1}', b"\xff", b"[]", b"", None], ids=lambda text: repr(text)
)
def test_rollback_replaces_a_file_that_is_broken_or_missing(
    store: ConfigStore, file: Path, tmp_path: Path, broken: bytes | None
) -> None:
    edit(store, "delete", "cameras", "lobby")
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    with pytest.raises(ConfigError):
        edit(store, "delete", "cameras", "plaza")
    back = store.apply(ConfigRequest(do="rollback", number=1, who="bob"))
    assert (back.status, back.version, json.loads(file.read_text())) == (200, 3, DOCUMENT)
    assert "capture-lobby" in back.restarts, "compared with the version before the broken file"
    kept = tmp_path / "var" / "config" / "broken.json"
    assert (kept.read_bytes() if kept.exists() else b"") == (broken or b"")


@pytest.mark.parametrize("broken", [b'{"cameras": [', b"\xff", b"[]"])
def test_difference_to_a_broken_file_is_one_clear_error(store: ConfigStore, file: Path, broken: bytes) -> None:
    edit(store, "delete", "cameras", "lobby")
    file.write_bytes(broken)
    with pytest.raises(ConfigError, match=r"config\.json.*Remedy"):
        store.apply(ConfigRequest(do="diff", number=1))


def test_rollback_without_a_valid_version_says_so(store: ConfigStore, file: Path) -> None:
    file.write_bytes(b"{")
    refused = store.apply(ConfigRequest(do="rollback", number=1))
    assert (refused.status, "Remedy" in refused.detail, file.read_bytes()) == (404, True, b"{")


def test_a_change_of_what_somebody_else_has_changed_is_refused(store: ConfigStore) -> None:
    first = edit(store, "merge", "cameras", "plaza", value={"name": "North"})
    seen = first.revisions["plaza"]
    edit(store, "merge", "cameras", "plaza", value={"name": "South"}, expect={"plaza": seen})
    late = edit(store, "merge", "cameras", "plaza", value={"name": "West"}, expect={"plaza": seen})
    assert late.status == 412


def test_no_answer_holds_a_password(store: ConfigStore) -> None:
    first = edit(store, "merge", "cameras", "plaza", value={"url": "rtsp://viewer:n3w-one@192.0.2.7/"})
    shown = store.apply(ConfigRequest(do="show", number=2)).text + store.apply(ConfigRequest(do="diff", number=1)).text
    assert "***@192.0.2.7" in shown
    assert not any(secret in shown + repr(first) for secret in ("s3cret", "n3w-one"))


def test_a_change_that_cannot_be_rendered_is_taken_back(store: ConfigStore, file: Path) -> None:
    before = file.read_bytes()
    # A folder lies where the programs are to be written.
    (file.parent / "var" / "supervisor" / "programs.conf").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        edit(store, "merge", "cameras", "lobby", value={"name": "North"})
    assert file.read_bytes() == before
    assert [version.comment for version in store.apply(ConfigRequest(do="versions")).versions] == [
        "the file as it was found"
    ]
