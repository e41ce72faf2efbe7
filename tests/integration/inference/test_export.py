"""The committed OpenVINO model is the one that its weights give."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crowdperf.inference.detector import prepare_ultralytics
from crowdperf.inference.registry import FOLDER, Role, read_manifest, resolve
from tests.support.pictures import asset

NAME, PPE = "crowdperf-person-vehicle-n", "crowdperf-ppe-n"


def heads(xml: Path, pt: Path, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raw outputs of both forms for one float32 (1, 3, h, w) input."""
    import openvino as ov
    import torch
    import ultralytics

    core = ov.Core()
    model = core.read_model(xml)
    model.reshape(list(picture.shape))
    theirs = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(picture)[0]
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
    picture = asset("bus.jpg")[:height, :width, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255
    xml, pt = resolve(name, role, "openvino").path, resolve(name, role, "torch").path
    theirs, ours = heads(xml, pt, np.ascontiguousarray(picture))
    assert theirs.shape == ours.shape
    seen = ours[0, 4:].max(axis=0) > 0.1
    assert seen.sum() > 5
    assert np.abs(theirs[0, 4:] - ours[0, 4:]).max() < 0.02, "scores"
    assert np.abs(theirs[0, :4, seen] - ours[0, :4, seen]).max() < 1.0, "pixels"


def test_the_export_can_be_repeated(tmp_path: Path, torch_detector: object) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("manifest.json", f"{NAME}.pt"):
        shutil.copyfile(FOLDER / name, folder / name)
    # In a process of its own, as by hand: the names of the graph's nodes count on from earlier traces.
    code = (
        "from pathlib import Path; from crowdperf.inference.export import export; "
        f"export({NAME!r}, Path({str(tmp_path / 'cache')!r}), Path({str(folder)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert resolve(NAME, "person", "openvino", folder).path == folder / f"{NAME}.xml"
    committed, repeated = (
        next(one for one in entry.variants if (one.runtime, one.precision) == ("openvino", "full"))
        for entry in (read_manifest().models[0], read_manifest(folder).models[0])
    )
    if repeated.exported_by == committed.exported_by:
        assert repeated == committed, "the same versions write the same bytes"
    assert [entry.name for entry in read_manifest(folder).models] == [entry.name for entry in read_manifest().models]
