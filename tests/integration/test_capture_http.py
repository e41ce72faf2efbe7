"""Live streams by HTTP: FLV and Motion JPEG, which have no end that is theirs and no size that is for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.capturing import Camera, make_clip
from tests.support.live_http import flv, live_camera


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(params=["ffmpeg", "pyav"])
def camera(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Camera]]:
    made: list[Camera] = []

    def make(url: str, **changes: Any) -> Camera:
        made.append(Camera(url, tmp_path, **{"backend": request.param, **changes}))
        return made[-1]

    yield make
    for each in made:
        each.tail.close()
        each.capture.close()


def test_a_live_flv_that_is_cut_off_is_connected_to_again(camera: Callable[..., Camera], clip: Path) -> None:
    """Its duration of zero is none: it is neither paced like a recording nor at its end."""
    stream = flv(clip)
    with live_camera("video/x-flv", lambda: [stream]) as server:
        cam = camera(server.url)
        cam.run_until(lambda: cam.states().count("live") == 2 or "stopped" in cam.states())
    assert cam.states()[:4] == ["connecting", "live", "backing_off", "live"]
    assert cam.counter("ffmpeg_restarts_ended") >= 1
