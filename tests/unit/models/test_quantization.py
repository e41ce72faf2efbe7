"""What int8 is calibrated with, and which error it gives when it cannot be done. Quantising itself needs NNCF."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from crowdperf.models.preprocess import PAD_VALUE
from crowdperf.models.registration import iter_calibration_inputs, list_calibration_images, quantize_int8
from crowdperf.models.registry import MODELS_FOLDER, Manifest, ModelError, read_manifest, write_manifest

PERSON = "crowdperf-person-vehicle-n"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """48 red pictures, 100x50."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(48):
        cv2.imwrite(str(folder / f"{index:02}.jpg"), np.full((50, 100, 3), (0, 0, 255), np.uint8))
    return folder


def without_openvino(registry: Path, name: str) -> None:
    """Take the OpenVINO form of a model out of the manifest."""
    kept = [
        msgspec.structs.replace(entry, variants=tuple(one for one in entry.variants if one.runtime == "torch"))
        if entry.name == name
        else entry
        for entry in read_manifest(registry).models
    ]
    write_manifest(Manifest(tuple(kept)), registry)


def test_every_third_picture_is_held_out(pictures: Path) -> None:
    assert [path.stem for path in list_calibration_images([pictures])][:4] == ["01", "02", "04", "05"]
    assert len(list_calibration_images([pictures, pictures])) == 64


def test_pictures_reach_the_calibration_as_they_reach_the_model(pictures: Path) -> None:
    first, second, third = iter_calibration_inputs(list_calibration_images([pictures])[:3])
    assert [one.shape for one in (first, second, third)] == [(1, 3, 384, 640), (1, 3, 640, 640), (1, 3, 480, 640)]
    assert first.dtype == np.float32
    assert np.allclose(first[0, :, 0, 0], PAD_VALUE / 255), "grey of the letterbox"
    assert np.allclose(second[0, :, 0, 0], 0), "black of the ring"
    assert np.allclose(first[0, :, 192, 320], [1, 0, 0], atol=0.02), "RGB, 0..1"


def test_too_few_pictures_are_refused(pictures: Path, tmp_path: Path) -> None:
    (pictures / "01.jpg").unlink()
    (pictures / "02.jpg").unlink()
    with pytest.raises(ModelError, match=r"at least 32 .*30 usable ones.*pictures.*Remedy.*--calibration"):
        list_calibration_images([pictures])
    with pytest.raises(ModelError, match=r"no folder at all.*Remedy"):
        quantize_int8(PERSON, [])
    (pictures / "03.jpg").write_bytes(b"no picture")
    with pytest.raises(ModelError, match=r"03\.jpg.*not a picture.*Remedy"):
        list(iter_calibration_inputs([pictures / "03.jpg"]))


def test_model_without_openvino_file_or_altered_is_refused(pictures: Path, tmp_path: Path) -> None:
    registry = tmp_path / "models"
    shutil.copytree(MODELS_FOLDER, registry)
    without_openvino(registry, "crowdperf-ppe-n")
    with pytest.raises(ModelError, match=r"crowdperf-ppe-n.*no OpenVINO form.*models export crowdperf-ppe-n"):
        quantize_int8("crowdperf-ppe-n", [pictures], registry)
    (registry / f"{PERSON}.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=rf"{PERSON}\.bin.*sha256"):
        quantize_int8(PERSON, [pictures], registry)


def test_without_nncf_the_remedy_is_named(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ModelError, match=r"needs nncf.*Remedy: `pip install 'nncf"):
        quantize_int8(PERSON, [pictures])
