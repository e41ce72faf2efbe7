"""`crowdperf replay` beside what it cannot beat: the detector alone on pictures that are in memory already.

What is between the two is decoding, tracking and counting. Both run in the same process, alternately.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from bench.harness import Row, compared
from crowdperf.cli import demo
from crowdperf.evaluation.camera_setup import CameraSetup, make_setup, select_camera
from crowdperf.evaluation.clip import BATCH_SIZE, Clip, ClipFrame, open_clip, read_frames
from crowdperf.evaluation.replay import replay_clip
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.config import Installation, load
from crowdperf.settings.environment import Paths, read_environment

ROOT = Path(__file__).resolve().parents[2]


def rows(short: bool) -> list[Row]:
    """Speed on the demo scene of one camera, all of whose frames are analysed."""
    data = Paths(ROOT / "var")
    if demo.main(["--out", str(data.data / "demo"), "--if-missing"], Installation(ROOT)):
        raise SystemExit("the demo scene cannot be rendered")
    config = load(ROOT / "config.json")
    setup = make_setup(
        config, read_environment(os.environ), select_camera(config, "plaza", "config.json"), "config", data, ROOT
    )
    clip = open_clip(data.data / "demo" / "demo_sparse.mp4")
    detector = load_detector(setup.inference, data.data / "cache")
    kept = list(itertools.islice(read_frames(clip, setup.build_ring_spec(clip)), 160))
    lengths, pairs = [], []
    for _ in range(3 if short else 7):
        replayed = replay_clip(clip, [setup], lambda _: detector)
        lengths.append(replayed.speed)
        pairs.append((replayed.outcomes[0].analysed / replayed.took_s, _alone(detector, kept, clip, setup)))
    suffix = "gpu" if detector.backend.device.startswith("cuda") else "cpu"
    return [
        compared(f"replay_speed/{suffix}", [(one, 1.0) for one in lengths], "real time", unit="x", better="higher"),
        compared(f"replay_vs_inference/{suffix}", pairs, "the detector alone", unit="frames/s", better="higher"),
    ]


def _alone(detector: Detector, kept: list[ClipFrame], clip: Clip, setup: CameraSetup) -> float:
    """Frames per second of the detector, in replay's batches."""
    spec = setup.build_ring_spec(clip)
    began = time.perf_counter()
    for first in range(0, len(kept), BATCH_SIZE):
        detector.detect([picture.data for picture in kept[first : first + BATCH_SIZE]], spec)
    return len(kept) / (time.perf_counter() - began)
