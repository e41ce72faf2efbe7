"""A whole site at full load beside others that analyse the same clips on this machine, one after the other.

The peers have the same weights, input size, confidence and number of clips, and the easier task: their clips are read
as fast as they are wanted, and nothing is counted, stored or shown. The site's cameras are live: it decodes what it has
no time to analyse as well.

* Ultralytics' `YOLO.track` over its `LoadStreams`, in torch, and with its own OpenVINO export of the weights.
* OpenCV's `VideoCapture` and a model of its own (`YOLO.predict`, torch) in as many processes as there are cores.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.harness import Row
from bench.pipeline.cameras import bare_fps
from bench.site import FPS, clip, site
from crowdperf.models.loader import prepare_ultralytics
from crowdperf.models.registry import resolve_model

SIZE = (384, 640)
KINDS = {
    "track_torch": "YOLO.track over LoadStreams, torch",
    "track_openvino": "YOLO.track over LoadStreams, OpenVINO",
    "process_torch": "VideoCapture and YOLO.predict, a process per core",
}


def rows(short: bool) -> list[Row]:
    """cameras_vs_best_peer and each peer's rate."""
    seconds = 8.0 if short else 30.0
    cameras = int(bare_fps() / FPS) + 2
    with site(cameras) as running:
        running.start(cameras)
        load = running.measure(cameras, seconds)
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder:
        weights = _weights(Path(folder))
        found = {kind: rate(kind, weights, cameras, seconds) for kind in KINDS}
    best = max(found, key=lambda kind: found[kind])
    return [
        Row(
            name="cameras_vs_best_peer",
            value=load.fps,
            unit="frames/s",
            limit_or_peer=KINDS[best],
            ratio=load.fps / found[best],
            better="higher",
        ),
        *(
            Row(
                name=f"peer/{kind}",
                value=value,
                unit="frames/s",
                limit_or_peer=f"{KINDS[kind]}, {cameras} clips",
                better="higher",
            )
            for kind, value in found.items()
        ),
    ]


def _weights(folder: Path) -> Path:
    """Return a copy that Ultralytics may export beside."""
    return Path(shutil.copy(resolve_model("crowdperf-person-vehicle-n", "person", "torch").path, folder / "model.pt"))


def rate(kind: str, weights: Path, cameras: int, seconds: float) -> float:
    """Frames per second of a peer, all its processes together, once each of them has analysed its first frames."""
    many = (os.cpu_count() or 1) if kind == "process_torch" else 1
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.pipeline.peers", kind, str(weights), str(cameras), str(share), str(many)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in range(min(many, cameras))
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
        total = 0.0
        for child in children:
            assert child.stdout is not None
            total += float(child.stdout.readline())
        return total
    finally:
        for child in children:
            child.kill()
            child.wait()


def _peer(kind: str, weights: Path, clips: list[str], threads: int) -> None:
    """Print when it is warm, read for how long to go on, print the frames per second of that time."""
    prepare_ultralytics(weights.parent)
    import torch
    import ultralytics

    if threads:
        torch.set_num_threads(threads)
    options: dict[str, Any] = {"imgsz": SIZE, "conf": 0.1, "iou": 0.7, "device": "cpu", "verbose": False}
    if kind == "process_torch":
        results = _predict(ultralytics.YOLO(weights), clips, options)
    else:
        model = ultralytics.YOLO(weights)
        if kind == "track_openvino":
            model = ultralytics.YOLO(model.export(format="openvino", imgsz=SIZE, batch=len(clips)), task="detect")
        listed = weights.with_suffix(".streams")
        listed.write_text("\n".join(clips))
        results = model.track(str(listed), stream=True, stream_buffer=True, tracker="bytetrack.yaml", **options)
    for _ in itertools.islice(results, 2 * len(clips)):
        pass
    print("ready", flush=True)
    seconds = float(sys.stdin.readline())
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(results)
        count += 1
    print(count / (time.perf_counter() - began), flush=True)


def _predict(model: Any, clips: list[str], options: dict[str, Any]) -> Iterator[Any]:
    """Yield a frame of each clip in turn, for ever."""
    import cv2

    cv2.setNumThreads(1)
    readers = [cv2.VideoCapture(path) for path in clips]
    for index in itertools.cycle(range(len(clips))):
        there, picture = readers[index].read()
        if not there:
            readers[index] = cv2.VideoCapture(clips[index])
            there, picture = readers[index].read()
        yield model.predict(picture, **options)


if __name__ == "__main__":
    name, file, total, share, shares = sys.argv[1:]
    every = [str(clip(index)) for index in range(int(total))]
    _peer(name, Path(file), every[int(share) :: int(shares)], 1 if int(shares) > 1 else 0)
