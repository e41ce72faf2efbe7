"""Evidence on disk: metadata inside the JPEG, paths that follow from the request, retention by whole days."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.storage.evidence import (
    EvidenceBox,
    EvidenceMetadata,
    add_metadata,
    expire,
    get_picture_path,
    read_metadata,
    save_picture,
)

JPEG = bytes(cv2.imencode(".jpg", np.full((40, 60, 3), 99, np.uint8))[1])
NOON = 1_700_000_000.0
DAY = 86_400


def about(count: int = 1, camera: str = "gate") -> EvidenceMetadata:
    boxes = [
        EvidenceBox(class_name="person", score=0.9, box=(0.1, 0.2, 0.3, 0.4), subject=not index)
        for index in range(count)
    ]
    return EvidenceMetadata(id="e1", camera=camera, ts=NOON, epoch=3, sequence=77, exact=True, boxes=boxes)


@given(st.text(max_size=50), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**63))
def test_metadata_comes_out_as_it_went_in(name: str, ts: float, epoch: int) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    known = EvidenceMetadata(id=name, camera="gate", ts=ts, epoch=epoch, sequence=1, exact=False)
    assert read_metadata(add_metadata(JPEG, known)) == known


def test_the_picture_stays_a_picture() -> None:
    marked = add_metadata(JPEG, about())
    assert np.array_equal(cv2.imdecode(np.frombuffer(marked, np.uint8), cv2.IMREAD_COLOR)[0, 0], [99, 99, 99])
    assert read_metadata(marked) == about()


def test_a_crowd_that_no_comment_holds_leaves_its_weakest_out() -> None:
    read = read_metadata(add_metadata(JPEG, about(4000)))
    assert read is not None
    assert 100 < len(read.boxes) < 4000
    assert read.boxes[0].subject


def test_other_pictures_have_no_metadata() -> None:
    assert read_metadata(JPEG) is None
    assert read_metadata(b"") is None
    assert read_metadata(b"\xff\xd8\xff\xfe\x00\x10crowdperf {nonsense") is None


def test_the_path_follows_from_the_request(tmp_path: Path) -> None:
    first = get_picture_path(tmp_path, "gate", "gate:1:2:helmets", NOON, "full")
    assert first.parent == tmp_path / "gate" / "2023-11-14"
    assert first == get_picture_path(tmp_path, "gate", "gate:1:2:helmets", NOON + 1, "full")
    assert first != get_picture_path(tmp_path, "gate", "gate:1:3:helmets", NOON, "full")
    assert get_picture_path(tmp_path, "gate", "../../x", NOON, "crop").parent == first.parent


def test_pictures_are_for_this_user_only(tmp_path: Path) -> None:
    path = get_picture_path(tmp_path / "evidence", "gate", "e1", NOON, "full")
    save_picture(path, b"12345")
    save_picture(path, b"123")
    assert path.read_bytes() == b"123"
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_retention_removes_old_days_then_the_oldest(tmp_path: Path) -> None:
    paths = []
    for camera, days_ago in (("gate", 40), ("gate", 3), ("lobby", 2), ("gate", 1)):
        paths.append(get_picture_path(tmp_path, camera, "e", NOON - days_ago * DAY, "full"))
        save_picture(paths[-1], b"0" * 1000)
    assert expire(tmp_path, NOON - 30 * DAY, 10**9) == (1, [])
    assert [path.exists() for path in paths] == [False, True, True, True]
    assert expire(tmp_path, NOON - 30 * DAY, 1500) == (2, [])
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert expire(tmp_path, NOON - 30 * DAY, 1500) == (0, [])
    assert not (tmp_path / "lobby").exists()
    assert expire(tmp_path / "none", NOON, 1) == (0, [])


@pytest.mark.parametrize("method", ["iterdir", "rmtree"])
def test_a_day_that_cannot_be_read_or_removed_keeps_no_other(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [get_picture_path(tmp_path, "gate", "e", NOON - days_ago * DAY, "full") for days_ago in (60, 50, 1)]
    for path in paths:
        save_picture(path, b"0" * 1000)
    original = getattr(Path if method == "iterdir" else shutil, method)

    def refuse(day: Path) -> Any:
        if day == paths[0].parent:
            raise PermissionError(13, "Permission denied", str(day))
        return original(day)

    monkeypatch.setattr(Path if method == "iterdir" else shutil, method, refuse)
    removed, errors = expire(tmp_path, NOON - 30 * DAY, 10**9)
    assert (removed, [error.filename for error in errors]) == (1, [str(paths[0].parent)])
    assert [path.exists() for path in paths] == [True, False, True]
