"""Render the demo site's clips and their truth: `crowdperf demo`."""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import msgspec

from crowdperf.demo import ground_truth, outlines
from crowdperf.demo.outlines import DemoError
from crowdperf.demo.scenes import DEFAULT_SEED, SCENES
from crowdperf.demo.stage import Stage, find_encoder, write_clip
from crowdperf.primitives.atomic_file import write_file
from crowdperf.settings.config import Installation
from crowdperf.supervision import process_tree


def main(words: list[str], _installation: Installation) -> int:
    """Render the scenes; the status is 2, after one line on stderr, when that fails."""
    args = _build_parser().parse_args(words)
    names = [args.scene] if args.scene else list(SCENES)
    out: Path = args.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / ".lock").open("w") as lock:
            # Two renderers at once would remove each other's truth for a while.
            fcntl.flock(lock, fcntl.LOCK_EX)
            _remove_parts(out)
            if args.if_missing:
                names = [name for name in names if not _is_rendered(out, name, args.seed)]
            if names:
                _render_all(out, names, args.seed)
    except (DemoError, OSError) as error:
        print(f"crowdperf demo: {error}", file=sys.stderr)
        return 2
    return 0


def _remove_parts(out: Path) -> None:
    """Remove the partial files of a renderer that was killed."""
    for name in SCENES:
        for part in out.glob(f".{name}.*.part"):
            part.unlink(missing_ok=True)


def _render_all(out: Path, names: list[str], seed: int) -> None:
    """Render scenes, several in parallel, and report it on stderr."""
    outlines.find_assets_folder()
    find_encoder()
    began = time.monotonic()
    if len(names) == 1:
        _render_scene(out, names[0], seed)
    else:
        # Spawned, not forked: OpenCV's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(names), context, initializer=process_tree.end_with_parent) as pool:
            list(pool.map(_render_scene, [out] * len(names), names, [seed] * len(names)))
    print(f"demo: {', '.join(names)} rendered to {out} in {time.monotonic() - began:.0f} s", file=sys.stderr)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crowdperf demo", description="Render the demo site's cameras.")
    parser.add_argument("--out", type=Path, default=Path("var/demo"), help="folder of the clips (default: var/demo)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help=f"decides everything (default: {DEFAULT_SEED})")
    parser.add_argument("--scene", choices=list(SCENES), help="only this one")
    parser.add_argument("--if-missing", action="store_true", help="keep clips of the same seed and renderer")
    return parser


def get_scene_files(out: Path, name: str) -> tuple[Path, Path]:
    """Return the paths of a scene's clip and of its truth."""
    return out / f"{name}.mp4", out / f"{name}.truth.json"


def _is_rendered(out: Path, name: str, seed: int) -> bool:
    """Check whether this renderer has rendered the scene with that seed."""
    video, facts = get_scene_files(out, name)
    try:
        known = ground_truth.decode_truth(facts.read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return video.is_file() and (known.seed, known.renderer) == (seed, ground_truth.RENDERER_VERSION)


def _render_scene(out: Path, name: str, seed: int) -> None:
    """Render one scene. The truth is written last, so it proves that the clip is complete."""
    cv2.setNumThreads(1)
    video, facts = get_scene_files(out, name)
    facts.unlink(missing_ok=True)
    stage = Stage(SCENES[name], seed)
    write_clip((stage.render_frame(index) for index in range(stage.scene.frames)), video)
    write_file(facts, ground_truth.encode_truth(ground_truth.compute_truth(stage, seed)))
