"""The clips with truth that benches measure on: real ones, as `CROWDPERF_CLIPS` (default ../shared/clips) holds them,
and the rendered scenes of the demo, which are always there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from crowdperf.cli import demo as demo
from crowdperf.demo import ground_truth as truth
from crowdperf.demo.scenes import SCENES
from crowdperf.evaluation import clip as footage
from crowdperf.evaluation.clip import CLIP_START_S, ClipDetections, detect_clip
from crowdperf.evaluation.matching import Passage
from crowdperf.messaging.schema import FrameDetections, LineCrossed
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.base import ClassName
from crowdperf.settings.camera import Line
from crowdperf.settings.config import Installation
from crowdperf.settings.engine import Analysis, Inference, Tracking
from crowdperf.tracking.pipeline import CameraPipeline
from tests.support.matching import match_crossings

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "var" / "demo"
WAYS = {"neg_to_pos": "in", "pos_to_neg": "out"}
VEHICLES: list[ClassName] = ["bicycle", "car", "motorcycle", "bus", "truck"]
MATCH_FRAMES = 15
"""A counted crossing may be so many of the clip's frames away from its true one."""


class Scene(NamedTuple):
    """A clip with its lines and what truly crossed them."""

    name: str
    file: str
    width: int
    height: int
    fps: float
    """The clip's true rate."""
    analysis_width: int
    rates: tuple[int, ...]
    """Of how many frames one is analysed."""
    lines: tuple[Line, ...]
    truth: list[Passage]

    @property
    def footage(self) -> footage.Clip:
        """Return the recording."""
        return footage.Clip(folder() / self.file, self.width, self.height, self.fps)


def folder() -> Path:
    """Return where the clips are, whether or not they are there."""
    return Path(os.environ.get("CROWDPERF_CLIPS", ROOT.parent / "shared" / "clips"))


def scenes() -> Iterator[Scene]:
    """Yield every scene whose clip is there."""
    if not (folder() / "vtest.avi").is_file():
        return
    hand = json.loads((folder() / "hand_counts.json").read_text())
    vtest = _annotated("vtest", (768, 576), 7.0, "bottom_centre")
    yield Scene("vtest", "vtest.avi", 768, 576, 7.0, 640, (1, 2, 3), *vtest)
    town = _annotated("towncentre_a", (1920, 1080), 30.0, "centre")
    yield Scene("towncentre", "towncentre_a.mp4", 1920, 1080, 30.0, 1280, (3, 4, 6), *town)
    yield Scene("towncentre_640", "towncentre_a.mp4", 1920, 1080, 30.0, 640, (3, 4, 6), *town)
    road = Line(id="road", p1=[0, 420 / 720], p2=[1000 / 1280, 420 / 720], classes=VEHICLES)
    frames = hand["highway_canersu.mp4"]["events_about_frame"]
    passed = [Passage(frame / 29.97, "road", "in") for frame in frames]
    yield Scene("highway", "highway_canersu.mp4", 1280, 720, 29.97, 640, (2, 3, 6), (road,), passed)
    visits = hand["intel_one_by_one.mp4"]["visits_first_last_visible"]
    left = [Passage(last / 10, "exit", "out") for _, last in visits]
    exit_ = Line(id="exit", p1=[560 / 768, 0], p2=[560 / 768, 1])
    yield Scene("one_by_one", "intel_one_by_one.mp4", 768, 432, 10.0, 640, (1, 2, 3), (exit_,), left)


def demo_scenes() -> Iterator[Scene]:
    """Yield the scenes of the demo, rendered if missing. Their truth is the script's, exact to the frame."""
    if demo.main(["--out", str(DEMO), "--if-missing"], Installation()):
        raise SystemExit("the demo scenes cannot be rendered")
    for name in SCENES:
        video, written = demo.get_scene_files(DEMO, name)
        facts = truth.decode_truth(written.read_bytes())
        passed = [Passage(one.time_s, one.line, one.direction) for one in facts.crossings]
        # An absolute path: the folder of the real clips does not matter to it.
        yield Scene(name, str(video), facts.width, facts.height, facts.fps, 640, (1,), facts.lines, passed)


def errors(scene: Scene, frames: list[FrameDetections], every: int = 1) -> tuple[float, float, float]:
    """Count error, recall and precision with the default configuration at one of `every` frames.

    The count error is the sum over lines and directions of |counted - true|, as a share of the true crossings.
    """
    pipeline = CameraPipeline("clip", Tracking(), scene.lines, (), scene.fps / every)
    crossed = [event for frame in frames for event in pipeline.step(frame)[1] if isinstance(event, LineCrossed)]
    counted = [Passage(event.ts - CLIP_START_S, event.line, event.direction) for event in crossed]
    true, found = (Counter((one.line, one.direction) for one in side) for side in (scene.truth, counted))
    wrong = sum(abs(true[key] - found[key]) for key in true | found)
    pairs = match_crossings(scene.truth, counted, max(MATCH_FRAMES + 0.5, 1.5 * every) / scene.fps)
    return wrong / len(scene.truth), pairs.recall, pairs.precision


def detector() -> Detector:
    """Return the default detector of this machine."""
    return load_detector(Inference(), Path(tempfile.gettempdir()) / "crowdperf-bench-cache")


def detections(scene: Scene, model: Detector, every: int = 1) -> list[FrameDetections]:
    """Return one of `every` frames of a scene; `sequence` is the clip's frame number plus one."""
    return detect(scene, model, every).frames


def detect(scene: Scene, model: Detector, every: int = 1, analysis: Analysis = "whole") -> ClipDetections:
    """Return what is found in one of `every` frames of a scene, in whole pictures or in regions."""
    spec = footage.build_clip_spec(scene.footage, scene.analysis_width)
    pictures = footage.read_frames(scene.footage, spec)
    return detect_clip(pictures, spec, model, lambda sequence, _: (sequence - 1) % every == 0, analysis=analysis)


def _annotated(
    name: str, size: tuple[int, int], fps: float, anchor: Literal["bottom_centre", "centre"]
) -> tuple[tuple[Line, ...], list[Passage]]:
    rows = json.loads((folder() / "gt" / f"{name}.json").read_text())["lines"]
    lines = tuple(
        Line(
            id=row["name"].lower(),
            p1=[row["p1"][0] / size[0], row["p1"][1] / size[1]],
            p2=[row["p2"][0] / size[0], min(1.0, row["p2"][1] / size[1])],
            anchor=anchor,
            classes=["person"],
        )
        for row in rows
    )
    truth = [
        Passage(event["frame"] / fps, row["name"].lower(), WAYS[event["dir"]])
        for row in rows
        for event in row["events"]
    ]
    return lines, truth
