"""What the cameras of a whole site play: clips with truth, nearly empty video, and both in turn.

Everything is played at `FPS`. Real clips are encoded once at that rate, and the empty video is rendered once, both to
`CACHE`, as the scenes of the demo are.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av

from bench import clips, quiet
from crowdperf.demo import ground_truth
from crowdperf.demo.outlines import FPS
from crowdperf.demo.scenes import SCENES
from crowdperf.demo.stage import find_encoder, write_clip
from crowdperf.evaluation.matching import Passage
from crowdperf.primitives.atomic_file import replace_file
from crowdperf.settings.camera import Line, Zone

CACHE = clips.ROOT / "var" / "bench"
SETS = ("demo", "mixed", "busy", "forty")
"""The demo's two scenes; busy and nearly empty clips in turn; the busy ones alone; one camera in ten busy."""
BUSY = ("vtest", "demo_sparse", "one_by_one", "demo_dense", "highway", "towncentre")
FORTY_BUSY = 4
FORTY_QUIET = 9
"""Nearly empty cameras for each busy one."""


class Footage(NamedTuple):
    """What a camera plays again and again, and what truly crosses its lines each time."""

    name: str
    path: Path
    width: int
    height: int
    frames: int
    lines: tuple[Line, ...]
    zones: tuple[Zone, ...]
    truth: list[Passage]
    """Seconds from the clip's first frame, at `FPS`."""


def footage_of(name: str) -> list[Footage]:
    """Return what the cameras of a set play, in their order; the next camera begins with the first again."""
    if name == "demo":
        return [_demo(scene) for scene in clips.demo_scenes()]
    busy = _busy()
    if name == "busy":
        return busy
    empty = [_quiet(number) for number in range(quiet.COUNT)]
    return compose(busy, empty, 1) if name == "mixed" else compose(busy[:FORTY_BUSY], empty, FORTY_QUIET)


def compose(busy: Sequence[Footage], empty: Sequence[Footage], each: int) -> list[Footage]:
    """Return every busy clip, followed by `each` empty ones: the first cameras of the list have the same share."""
    rest = itertools.cycle(empty)
    return [clip for one in busy for clip in (one, *itertools.islice(rest, each))]


def _busy() -> list[Footage]:
    """Every clip with true crossings; the demo's alone where the real clips are not there."""
    found = {scene.name: _demo(scene) for scene in clips.demo_scenes()}
    found |= {scene.name: _paced(scene) for scene in clips.scenes() if scene.name in BUSY}
    missing = [name for name in BUSY if name not in found]
    if missing:
        print(f"left out of the busy clips, since {clips.folder()} has none: {', '.join(missing)}", file=sys.stderr)
    return [found[name] for name in BUSY if name in found]


def _demo(scene: clips.Scene) -> Footage:
    zones = SCENES[scene.name].zones
    return _open(scene.name, Path(scene.file), scene.lines, zones, scene.truth)


def _paced(scene: clips.Scene) -> Footage:
    """One of so many frames of a real clip, in its order, at `FPS`."""
    every = max(1, round(scene.fps / FPS))
    path = CACHE / f"{scene.name}.mp4"
    if not path.is_file():
        chosen = f"select='not(mod(n,{every}))',setpts=N/{FPS}/TB"
        argv = [find_encoder(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-i", str(scene.footage.path)]
        argv += ["-vf", chosen, "-r", str(FPS), "-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]
        argv += ["-bf", "0", "-g", str(FPS), "-keyint_min", str(FPS), "-sc_threshold", "0", "-pix_fmt", "yuv420p"]
        CACHE.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as part:
            subprocess.run([*argv, "-f", "mp4", str(part)], check=True)
    truth = [one._replace(at=round(one.at * scene.fps) // every / FPS) for one in scene.truth]
    return _open(scene.name, path, scene.lines, (), truth)


def _quiet(number: int) -> Footage:
    """A nearly empty scene, rendered if missing."""
    scene = quiet.make_scenes()[number]
    path = CACHE / f"{scene.name}.v{quiet.VERSION}.mp4"
    stage = quiet.QuietStage(scene)
    if not path.is_file():
        print(f"rendering {path}", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        write_clip((stage.render_frame(index) for index in range(scene.frames)), path)
    crossings = ground_truth.compute_truth(stage, number).crossings
    passed = [Passage(one.time_s, one.line, one.direction) for one in crossings]
    return _open(scene.name, path, scene.lines, scene.zones, passed)


def _open(name: str, path: Path, lines: tuple[Line, ...], zones: tuple[Zone, ...], truth: list[Passage]) -> Footage:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        return Footage(name, path, video.width, video.height, video.frames, lines, zones, truth)
