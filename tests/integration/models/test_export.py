"""The committed OpenVINO model is the one that its weights give."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crowdperf.models.loader import prepare_ultralytics
from crowdperf.models.registry import MODELS_FOLDER, Role, read_manifest, resolve_model
from tests.support.pictures import asset

NAME, PPE = "crowdperf-person-vehicle-n", "crowdperf-ppe-n"


def head(xml: Path, picture: np.ndarray) -> np.ndarray:
    """Raw output of an OpenVINO form for one float32 (1, 3, h, w) input."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(xml)
    model.reshape(list(picture.shape))
    computed: np.ndarray = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(picture)[0]
    return computed


def picture_of(height: int, width: int) -> np.ndarray:
    """Float32 (1, 3, height, width), RGB, 0..1: people at a bus stop."""
    part = asset("bus.jpg")[:height, :width, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    return np.ascontiguousarray(part)


def heads(xml: Path, pt: Path, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raw outputs of both forms for one input."""
    import torch
    import ultralytics

    theirs = head(xml, picture)
    network = ultralytics.YOLO(pt).model.float().fuse(verbose=False).eval()
    with torch.inference_mode():
        ours = network(torch.from_numpy(picture))
    return theirs, (ours[0] if isinstance(ours, tuple) else ours).numpy()


@pytest.mark.parametrize(
    ("name", "role", "height", "width"),
    [(NAME, "person", 384, 640), (NAME, "person", 480, 640), (NAME, "person", 640, 384), (PPE, "ppe", 640, 640)],
)
def test_the_committed_export_computes_what_the_weights_compute(
    name: str, role: Role, height: int, width: int, tmp_path: Path, torch_detector: object
) -> None:
    prepare_ultralytics(tmp_path)
    xml, pt = resolve_model(name, role, "openvino").path, resolve_model(name, role, "torch").path
    theirs, ours = heads(xml, pt, picture_of(height, width))
    assert theirs.shape == ours.shape
    seen = ours[0, 4:].max(axis=0) > 0.1
    assert seen.sum() > 5
    assert np.abs(theirs[0, 4:] - ours[0, 4:]).max() < 0.02, "scores"
    assert np.abs(theirs[0, :4, seen] - ours[0, :4, seen]).max() < 1.0, "pixels"


@pytest.mark.parametrize(("name", "role"), [(NAME, "person"), (PPE, "ppe")])
def test_a_fresh_export_computes_what_the_committed_one_computes(
    name: str, role: Role, tmp_path: Path, torch_detector: object
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for file in ("manifest.json", f"{name}.pt"):
        shutil.copyfile(MODELS_FOLDER / file, folder / file)
    # In a process of its own, as by hand: the names of the graph's nodes count on from earlier traces.
    code = (
        "from pathlib import Path; from crowdperf.models.registration import export_openvino; "
        f"export_openvino({name!r}, Path({str(tmp_path / 'cache')!r}), Path({str(folder)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=MODELS_FOLDER.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    fresh = resolve_model(name, role, "openvino", folder).path
    assert fresh == folder / f"{name}.xml"
    # Boxes in pixels and scores: other versions may round the last bit of a weight otherwise, and no more.
    picture = picture_of(640, 640)
    ours, theirs = head(resolve_model(name, role, "openvino").path, picture), head(fresh, picture)
    assert ours.shape == theirs.shape
    assert (ours[0, 4:].max(axis=0) > 0.1).sum() > 5, "there is something to compare"
    assert np.abs(ours[0, 4:] - theirs[0, 4:]).max() < 1e-3
    assert np.abs(ours[0, :4] - theirs[0, :4]).max() < 0.05
    committed, repeated = (
        next(one for one in entry.variants if (one.runtime, one.precision) == ("openvino", "full"))
        for manifest in (read_manifest(), read_manifest(folder))
        for entry in manifest.models
        if entry.name == name
    )
    if repeated.exported_by == committed.exported_by:
        assert repeated == committed, "the same versions write the same bytes"
    assert [entry.name for entry in read_manifest(folder).models] == [entry.name for entry in read_manifest().models]
