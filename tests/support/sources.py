"""The cameras of the end-to-end tests: demo scenes and real clips over RTSP, with their lines and their truth."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec

from crowdperf.demo.ground_truth import SceneTruth, decode_truth
from tests.support.matching import Passage
from tests.support.rtsp_server import Mount, RtspServer
from tests.support.site import Site


def demo_camera(camera_id: str, truth: SceneTruth, url: str) -> dict[str, Any]:
    """Return the configuration of a demo scene's camera: nothing but its address, lines and zones."""
    return {
        "id": camera_id,
        "url": url,
        "lines": msgspec.to_builtins(truth.lines),
        "zones": msgspec.to_builtins(truth.zones),
    }


def demo_truth(folder: Path, scene: str) -> SceneTruth:
    """Return the truth beside a rendered scene."""
    return decode_truth((folder / f"{scene}.truth.json").read_bytes())


def true_passages(truth: SceneTruth, began: float, until: float) -> list[Passage]:
    """Return every true crossing on the wall clock, for a scene that plays (and repeats) from `began` to `until`."""
    length = truth.frames / truth.fps
    found, turn = [], 0
    while began + turn * length < until:
        offset = began + turn * length
        found += [Passage(offset + row.time_s, row.line, row.direction) for row in truth.crossings]
        turn += 1
    return [row for row in found if row.at <= until]


def began_at(mount: Mount) -> float:
    """Unix seconds of a mount's first frame."""
    assert mount.started_at is not None
    return time.time() - (time.monotonic() - mount.started_at)


def counted(site: Site, camera: str) -> list[Passage]:
    """Return the stored crossings of one camera."""
    return [Passage(row.ts, row.line, row.direction) for row in site.read_crossings() if row.camera == camera]


def pixel_line(line_id: str, p1: list[float], p2: list[float], width: int, height: int) -> dict[str, Any]:
    """Return a line given in pixels of the clip."""
    return {"id": line_id, "p1": [p1[0] / width, p1[1] / height], "p2": [p2[0] / width, p2[1] / height]}


def vtest_lines(clips: Path) -> list[dict[str, Any]]:
    """Return the lines of vtest.avi's truth file."""
    truth = json.loads((clips / "gt" / "vtest.json").read_text())
    return [pixel_line(row["name"].lower(), row["p1"], row["p2"], 768, 576) for row in truth["lines"]]


def vtest_events(clips: Path) -> list[tuple[str, str, int]]:
    """(line, direction, frame) of every true crossing in vtest.avi."""
    truth = json.loads((clips / "gt" / "vtest.json").read_text())
    names = {"neg_to_pos": "in", "pos_to_neg": "out"}
    return [
        (row["name"].lower(), names[event["dir"]], event["frame"]) for row in truth["lines"] for event in row["events"]
    ]


def one_by_one_lines() -> list[dict[str, Any]]:
    """Return the line of intel_one_by_one.mp4: 6 out, 0 in."""
    return [pixel_line("exit", [560, 0], [560, 431], 768, 432)]


def highway_lines() -> list[dict[str, Any]]:
    """Return the line of highway_canersu.mp4: 24 in, 0 out."""
    return [pixel_line("road", [0, 420], [1000, 420], 1280, 720)]


__all__ = ["Mount", "RtspServer"]
