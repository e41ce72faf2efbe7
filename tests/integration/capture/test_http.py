"""Live streams by HTTP: FLV and Motion JPEG, which have no end that is theirs and no size that is for ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.capturing import Camera, make_clip
from tests.support.live_http import MULTIPART, flv, fragmented_mp4, live_camera, multipart, pictures


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


@pytest.mark.parametrize(("kind", "write"), [("video/x-flv", flv), ("video/mp4", fragmented_mp4)])
def test_a_live_stream_that_is_cut_off_is_connected_to_again(
    camera: Callable[..., Camera], clip: Path, kind: str, write: Callable[[Path], bytes]
) -> None:
    """A duration of zero is none, and one without a bit rate is that of a first fragment."""
    stream = write(clip)
    with live_camera(kind, lambda: [stream]) as server:
        cam = camera(server.url)
        cam.run_until(lambda: cam.states().count("live") == 2 or "stopped" in cam.states())
    assert cam.states()[:4] == ["connecting", "live", "backing_off", "live"]
    assert cam.counter("ffmpeg_restarts_ended") >= 1


def test_motion_jpeg_in_parts_gives_every_picture(camera: Callable[..., Camera], clip: Path) -> None:
    parts = [multipart(picture) for picture in pictures(clip)]
    with live_camera(MULTIPART, lambda: parts, 0.1) as server:
        cam = camera(server.url)
        cam.run_until(lambda: cam.counter("frames_captured") >= len(parts))
        assert len(server.requests) == (2 if cam.config.backend == "ffmpeg" else 1), "a probe and a connection"
    assert [stamp.sequence for stamp in cam.tail.stamps[: len(parts)]] == list(range(1, len(parts) + 1))
    assert len(set(cam.tail.pictures[: len(parts)])) == len(parts)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
def test_a_size_that_changes_within_a_connection(camera: Callable[..., Camera], clip: Path, pix_fmt: str) -> None:
    small = [multipart(picture) for picture in pictures(clip)]
    wide = [multipart(picture) for picture in pictures(make_clip(clip.with_name("wide.mp4"), size="480x272"))]
    changed: list[bool] = []

    def stream() -> Iterator[bytes]:
        if not changed:
            yield from small
            changed.append(True)
        yield from itertools.cycle(wide)

    with live_camera(MULTIPART, stream, 0.1) as server:
        cam = camera(server.url, pix_fmt=pix_fmt)
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        first = cam.tail.stamps[-1].epoch
        cam.run_until(lambda: cam.tail.stamps[-1].epoch > first)
    assert cam.tail.reader is not None
    spec = cam.tail.reader.spec
    assert (spec.width, spec.height, spec.source_width, spec.source_height) == (480, 272, 480, 272)
    assert cam.counter("ffmpeg_restarts_ended") == cam.counter("ffmpeg_restarts_total") == 1
    assert "size changed" in cam.error()
    assert "480x272" in cam.error()
