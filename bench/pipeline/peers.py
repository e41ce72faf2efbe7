"""A whole site beside others that analyse the same clips on this machine, one after the other.

The peers have the same weights, input size, confidence and number of clips, and the easier task: they count lines, but
nothing is stored or shown. As fast as they can, their clips are read as they are wanted; the site's cameras are live:
it decodes what it has no time to analyse as well.

* Ultralytics' `YOLO.track` (ByteTrack) over its `LoadStreams`, in torch, and with its own OpenVINO export of the
  weights; supervision's LineZone or Ultralytics' ObjectCounter counts on its tracks.
* OpenCV's `VideoCapture` and a model of its own (`YOLO.predict`, torch) in as many processes as there are cores. It
  counts nothing.

On the scenes `mixed` and `busy` the peers are paced too: the clips give 10 frames a second as cameras do, and the
number of cameras that a peer sustains is found as the site's is.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import mixed
from bench.harness import Row
from bench.line_peers import make_counter
from bench.mixed import Footage
from bench.pipeline.cameras import MOST, bare_fps, most_sustained, search
from bench.site import Load, site
from bench.tally import WITHIN, tally, total
from crowdperf.demo.outlines import FPS
from crowdperf.models.loader import prepare_ultralytics
from crowdperf.models.registry import resolve_model

SIZE = (384, 640)
KINDS = {
    "track_torch": "YOLO.track over LoadStreams, torch, LineZone",
    "track_openvino": "YOLO.track over LoadStreams, OpenVINO, LineZone",
    "counter_openvino": "YOLO.track over LoadStreams, OpenVINO, ObjectCounter",
    "process_torch": "VideoCapture and YOLO.predict, a process per core",
}
COUNTERS = {"track_torch": "line_zone", "track_openvino": "line_zone", "counter_openvino": "object_counter"}
CAP_PROP_FRAME_COUNT = 7
"""OpenCV's name of a clip's number of frames, which is imported by a peer alone."""
WARM = 2
"""Frames of each clip that a peer analyses before it is measured."""


def rows(short: bool, scenes: str = "demo") -> list[Row]:
    """cameras_vs_best_peer, each peer's rate as fast as it can, and the cameras that each one sustains."""
    seconds = 8.0 if short else 30.0
    allowed = bare_fps() / FPS
    cameras, footage = int(allowed) + 2, mixed.footage_of(scenes)
    suffix = "" if scenes == "demo" else f"/{scenes}"
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder:
        weights = _weights(Path(folder))
        fast = {kind: measure(kind, weights, scenes, cameras, seconds) for kind in KINDS}
        rates = {kind: load.fps for kind, load in fast.items()}
        made = [
            Row(name=f"peer/{kind}{suffix}", unit="frames/s", **_of_peer(kind, load.fps, load))
            for kind, load in fast.items()
        ]
        if scenes == "demo":
            with site(footage, cameras) as running:
                running.start(cameras)
                load = running.measure(cameras, seconds)
            return [Row(name="cameras_vs_best_peer", unit="frames/s", **_beside(load.fps, load, rates)), *made]
        # What is slower as fast as it can is slower at a pace as well.
        kinds = sorted(COUNTERS, key=lambda kind: rates[kind])[-1 if short else 0 :]
        held = {kind: _sustained(kind, weights, scenes, rates[kind], seconds) for kind in kinds}
    with most_sustained(footage, seconds, max(1, int(allowed * 0.5)), int(allowed * MOST) + 2) as (_, best, load):
        pass
    paced = {kind: float(number) for kind, (number, _) in held.items()}
    return [
        Row(name=f"cameras_vs_best_peer/{scenes}", unit="cameras", **_beside(best, load, paced)),
        Row(name=f"frames_vs_best_peer/{scenes}", unit="frames/s", **_beside(load.fps, load, rates)),
        *(
            Row(name=f"peer_cameras/{kind}/{scenes}", unit="cameras", **_of_peer(kind, number, of))
            for kind, (number, of) in held.items()
        ),
        *made,
    ]


def _of_peer(kind: str, value: float, load: Load) -> dict[str, Any]:
    """Return what a peer's row says besides its name and unit."""
    counts = load.counts if kind in COUNTERS else None
    return {"value": value, "limit_or_peer": KINDS[kind], "better": "higher", "counts": counts}


def _beside(value: float, load: Load, peers: dict[str, float]) -> dict[str, Any]:
    """Return what the site's row says besides its name and unit: it stands beside the best of the peers."""
    best = max(peers, key=lambda kind: peers[kind])
    ratio = value / max(1.0, peers[best])
    return {"value": value, "limit_or_peer": KINDS[best], "ratio": ratio, "better": "higher", "counts": load.counts}


def _sustained(kind: str, weights: Path, scenes: str, fps: float, seconds: float) -> tuple[int, Load]:
    """Return how many cameras a peer sustains whose frames per second are known."""
    first = max(1, int(fps / FPS))
    return search(lambda cameras: measure(kind, weights, scenes, cameras, seconds, paced=True), first, 2 * first + 2)


def _weights(folder: Path) -> Path:
    """Return a copy that Ultralytics may export beside."""
    return Path(shutil.copy(resolve_model("crowdperf-person-vehicle-n", "person", "torch").path, folder / "model.pt"))


def measure(kind: str, weights: Path, scenes: str, cameras: int, seconds: float, paced: bool = False) -> Load:
    """Measure a peer, all its processes together, once each of them has analysed its first frames.

    Args:
        kind: a key of `KINDS`.
        weights: of the model.
        scenes, cameras: what is played, and how many of it.
        seconds: how long.
        paced: whether the clips give `FPS` frames a second, rather than as many as are wanted.
    """
    many = min((os.cpu_count() or 1) if kind == "process_torch" else 1, cameras)
    words = [sys.executable, "-m", "bench.pipeline.peers", kind, str(weights), scenes, str(cameras)]
    children = [
        subprocess.Popen(
            [*words, str(share), str(many), "paced" if paced else "fast"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in range(many)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            if "ready" not in (line.strip() for line in child.stdout):
                raise RuntimeError(f"the peer {kind} has ended with status {child.wait()}")
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{seconds}\n")
            child.stdin.flush()
        parts = []
        for child in children:
            assert child.stdout is not None
            parts.append(msgspec.json.decode(child.stdout.readline(), type=Load))
    finally:
        for child in children:
            child.kill()
            child.wait()
    load = join(parts)
    print(
        f"{kind}, {cameras} clips{' at a pace' if paced else ''}: {load.fps:.1f} frames/s, {load.drop_share:.2%} not "
        f"analysed, {load.lag_s * 1e3:.0f} ms behind, counted {load.counts.counted} of {load.counts.true}, "
        f"{load.counts.matched} matched",
        file=sys.stderr,
    )
    return load


def join(parts: Sequence[Load]) -> Load:
    """Return the load of processes that were measured at the same time."""
    return Load(
        seconds=max(part.seconds for part in parts),
        analysed=sum(part.analysed * max(one.seconds for one in parts) / part.seconds for part in parts),
        dropped=sum(part.dropped for part in parts),
        min_camera_share=min(part.min_camera_share for part in parts),
        lag_s=max(part.lag_s for part in parts),
        counts=total(part.counts for part in parts),
    )


class Pace:
    """When the clips of a process give their frames: the first few at once, then none until it is measured."""

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._going = threading.Event()
        self._began = 0.0

    def go(self) -> None:
        """Let the frames come."""
        self._began = time.monotonic()
        self._going.set()

    def wait(self, frame: int) -> None:
        """Wait until a frame is due; `fps` of infinity gives every frame at once."""
        if frame > WARM:
            self._going.wait()
            time.sleep(max(0.0, self._began + (frame - WARM) / self._fps - time.monotonic()))


def make_capture(pace: Pace, opened: Callable[[str], Any]) -> type:
    """Return a class in place of OpenCV's `VideoCapture` that plays its clip again and again, at a pace.

    Args:
        pace: of the clips.
        opened: OpenCV's own class.
    """

    class Capture:
        def __init__(self, path: str) -> None:
            self._path, self._inner, self._frame = path, opened(path), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def get(self, what: int) -> float:
            # Of a camera the number of frames is not known, and LoadStreams reads on after the clip's end.
            return 0.0 if what == CAP_PROP_FRAME_COUNT else float(self._inner.get(what))

        def grab(self) -> bool:
            pace.wait(self._frame)
            self._frame += 1
            if self._inner.grab():
                return True
            self._inner = opened(self._path)
            return bool(self._inner.grab())

        def read(self) -> tuple[bool, Any]:
            return self._inner.retrieve() if self.grab() else (False, None)

    return Capture


def _peer(kind: str, weights: Path, clips: list[Footage], threads: int, paced: bool) -> None:
    """Print when it is warm, read for how long to go on, print the load of that time."""
    prepare_ultralytics(weights.parent)
    import cv2
    import torch
    import ultralytics

    pace = Pace(FPS if paced else float("inf"))
    cv2.VideoCapture = make_capture(pace, cv2.VideoCapture)  # type: ignore[misc, assignment]
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(1)
    options: dict[str, Any] = {"imgsz": SIZE, "conf": 0.1, "iou": 0.7, "device": "cpu", "verbose": False}
    if kind == "process_torch":
        results = _predict(ultralytics.YOLO(weights), clips, options)
    else:
        model = ultralytics.YOLO(weights)
        if kind.endswith("openvino"):
            model = ultralytics.YOLO(model.export(format="openvino", imgsz=SIZE, batch=len(clips)), task="detect")
        listed = weights.with_suffix(".streams")
        listed.write_text("\n".join(str(clip.path) for clip in clips))
        results = model.track(str(listed), stream=True, stream_buffer=True, tracker="bytetrack.yaml", **options)
    counters = [
        make_counter(COUNTERS[kind], clip.lines, (clip.width, clip.height), weights) if kind in COUNTERS else None
        for clip in clips
    ]
    passed: list[list[Any]] = [[] for _ in clips]
    seen = 0

    def step() -> None:
        nonlocal seen
        frame, index = divmod(seen, len(clips))
        result, counter = next(results), counters[index]
        if counter is not None:
            passed[index] += counter(result, frame)
        seen += 1

    while seen < WARM * len(clips):
        step()
    print("ready", flush=True)
    seconds = float(sys.stdin.readline())
    pace.go()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        step()
    took = time.perf_counter() - began
    print(msgspec.json.encode(_load(took, clips, seen, passed, paced)).decode(), flush=True)


def _load(took: float, clips: list[Footage], seen: int, passed: list[list[Any]], paced: bool) -> Load:
    """Return the load of a process that has analysed `seen` frames, of each clip in turn."""
    rounds = seen // len(clips)
    analysed = seen - WARM * len(clips)
    due = took * FPS
    # A batch is in the works when the time is up.
    dropped = max(0.0, (due - 1) * len(clips) - analysed) if paced else 0.0
    counts = [
        tally(clip.truth, found, clip.frames, WARM, rounds - WITHIN)
        for clip, found in zip(clips, passed)
        if rounds - WITHIN > WARM
    ]
    return Load(
        seconds=took,
        analysed=analysed,
        dropped=dropped,
        min_camera_share=(rounds - WARM + 1) / due if paced else 1.0,
        lag_s=max(0.0, (due - (rounds - WARM)) / FPS) if paced else 0.0,
        counts=total(counts),
    )


def _predict(model: Any, clips: list[Footage], options: dict[str, Any]) -> Iterator[Any]:
    """Yield a frame of each clip in turn, for ever."""
    import cv2

    readers = [cv2.VideoCapture(str(clip.path)) for clip in clips]
    for reader in itertools.cycle(readers):
        yield model.predict(reader.read()[1], **options)


if __name__ == "__main__":
    name, file, scenes, cameras, share, shares, pace = sys.argv[1:]
    footage = mixed.footage_of(scenes)
    played = [footage[index % len(footage)] for index in range(int(share), int(cameras), int(shares))]
    _peer(name, Path(file), played, 1 if int(shares) > 1 else 0, pace == "paced")
