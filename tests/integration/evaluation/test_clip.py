"""Recordings through FFmpeg: every picture, its pixels and its own time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from crowdperf.capture import ffmpeg_args
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.network.url_policy import CheckedSource
from crowdperf.evaluation.clip import Clip, ClipError, build_clip_spec, open_clip, read_frames
from crowdperf.runtime.ffmpeg_binary import detect_features, find_ffmpeg


def ffmpeg(*words: str) -> None:
    subprocess.run([find_ffmpeg(), "-v", "error", "-y", *words], check=True)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures at 10 a second, then 20 at one in 0.3 s; the first one at 2.5 s, as when a recording was cut."""
    path = tmp_path_factory.mktemp("clip") / "uneven.mkv"
    times = "setpts='(2.5+if(lt(N,20),N/10,2+(N-20)*0.3))/TB'"
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10:duration=4", "-vf", f"settb=1/1000,{times}"),
        *("-fps_mode", "passthrough", "-c:v", "libx264", "-preset", "ultrafast", str(path)),
    )
    return path


def test_every_picture_has_its_own_time(uneven: Path) -> None:
    clip = open_clip(uneven)
    assert (clip.width, clip.height, clip.timed) == (160, 120, True)
    found = [picture.at_s for picture in read_frames(clip, build_clip_spec(clip))]
    expected = [n / 10 if n < 20 else 2 + (n - 20) * 0.3 for n in range(40)]
    assert found == pytest.approx(expected, abs=0.002)


def test_the_operator_s_rate_replaces_the_file_s_times(uneven: Path) -> None:
    clip = open_clip(uneven, fps=8.0)
    found = list(read_frames(clip, build_clip_spec(clip)))
    assert [picture.at_s for picture in found] == [n / 8 for n in range(40)]
    assert [picture.number for picture in found] == list(range(40))


def test_the_pixels_are_those_that_capture_gets(uneven: Path) -> None:
    clip = open_clip(uneven)
    spec = build_clip_spec(clip, analysis_width=96)
    binary = find_ffmpeg()
    options = SourceOptions(binary=binary, features=detect_features(binary), source=CheckedSource("file", str(uneven)))
    captured = subprocess.run(ffmpeg_args.build_capture_args(options, spec), capture_output=True, check=True).stdout
    replayed = np.concatenate([picture.data for picture in read_frames(clip, spec)])
    assert captured == replayed.tobytes()


def test_flags_that_make_a_pace_of_their_own_set_the_times(uneven: Path) -> None:
    clip = open_clip(uneven)
    found = list(read_frames(clip, build_clip_spec(clip), output_flags=("-r", "10")))
    assert len(found) > 60, "FFmpeg fills up to ten a second"
    assert found[-1].at_s == (len(found) - 1) / clip.fps


def test_a_cut_file_gives_what_is_there(uneven: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(uneven.read_bytes()[: uneven.stat().st_size // 2])
    clip = open_clip(cut)
    found = list(read_frames(clip, build_clip_spec(clip)))
    assert 0 < len(found) < 40


def test_what_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"no file .*none\.mp4.*Remedy"):
        open_clip(tmp_path / "none.mp4")
    text = tmp_path / "notes.mp4"
    text.write_text("not a film")
    with pytest.raises(ClipError, match=r"notes\.mp4.*no video that FFmpeg can read.*Remedy"):
        open_clip(text)
    sound = tmp_path / "sound.wav"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", str(sound))
    with pytest.raises(ClipError, match=r"sound\.wav.*no video"):
        open_clip(sound)
    with pytest.raises(ClipError, match="could not read"):
        list(read_frames(Clip(text, 160, 120, 10.0), build_clip_spec(Clip(text, 160, 120, 10.0))))
