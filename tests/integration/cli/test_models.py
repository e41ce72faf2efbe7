"""`crowdperf models add | bench | compare`, as people type them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowdperf.__main__ import main
from crowdperf.models.loader import load_detector
from crowdperf.models.registration import add_model, export_openvino, list_exportable
from crowdperf.models.registry import MODELS_FOLDER, ModelError, read_manifest, resolve_model
from crowdperf.settings.engine import Inference, Models
from tests.support.pictures import asset, ring_frame

STEM = "crowdperf-ppe-n"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(MODELS_FOLDER, folder)
    return folder


def test_added_model_is_used_by_name_and_verified(registry: Path, tmp_path: Path) -> None:
    own = tmp_path / "export"
    own.mkdir()
    for suffix in (".xml", ".bin"):
        shutil.copyfile(MODELS_FOLDER / f"{STEM}{suffix}", own / f"best{suffix}")
    labels = {"no_hardhat": "hardhat"}
    entry = add_model(own, "mine", "ppe", labels, "own", "", tmp_path / "cache", registry)
    assert entry.classes[1:3] == ("hardhat", "hardhat")
    assert [one.name for one in read_manifest(registry).models][-1] == "mine"
    settings = Inference(device="cpu", models=Models(ppe="mine"))
    detector = load_detector(settings, tmp_path / "cache", registry, role="ppe")
    frame, spec = ring_frame(asset("bus.jpg"), 640, 640)
    assert 2 not in detector.detect([frame], spec)[0].classes, "no_hardhat became hardhat"
    (registry / "mine.bin").write_bytes(b"altered")
    with pytest.raises(ModelError, match=r"mine\.bin.*sha256.*Remedy"):
        load_detector(settings, tmp_path / "cache", registry, role="ppe")
    with pytest.raises(ModelError, match=r"'mine' is registered already.*Remedy"):
        add_model(own, "mine", "ppe", labels, "own", "", tmp_path / "cache", registry)
    assert list_exportable(read_manifest(registry)) == ["crowdperf-person-vehicle-n", STEM], "it came without weights"
    with pytest.raises(ModelError, match=r"'mine' is registered as 'mine\.xml'.*Remedy"):
        export_openvino("mine", tmp_path / "cache", registry)


def test_no_file_of_the_registry_is_replaced(registry: Path, tmp_path: Path) -> None:
    cache, source = tmp_path / "cache", MODELS_FOLDER / f"{STEM}.xml"
    (registry / "theirs.bin").write_bytes(b"somebody's")
    before = {path: path.read_bytes() for path in registry.iterdir()}
    with pytest.raises(ModelError, match=r"theirs\.bin' exists already and is not replaced.*Remedy"):
        add_model(source, "theirs", "ppe", {}, "own", "", cache, registry)
    with pytest.raises(ModelError, match=r"'crowdperf-person-vehicle-n-int8' is not a valid model name.*Remedy.*-int8"):
        add_model(source, "crowdperf-person-vehicle-n-int8", "ppe", {}, "own", "", cache, registry)
    assert {path: path.read_bytes() for path in registry.iterdir()} == before


def test_a_file_that_lies_in_the_registry_is_registered_there(registry: Path, tmp_path: Path) -> None:
    for suffix in (".xml", ".bin"):
        shutil.copyfile(MODELS_FOLDER / f"{STEM}{suffix}", registry / f"best{suffix}")
    before = sorted(path.name for path in registry.iterdir())
    add_model(registry / "best.xml", "best", "ppe", {}, "own", "", tmp_path / "cache", registry)
    assert resolve_model("best", "ppe", "auto", registry).path == registry / "best.xml"
    assert sorted(path.name for path in registry.iterdir()) == before


def test_failed_registry_write_keeps_nothing_of_the_model(registry: Path, tmp_path: Path) -> None:
    (registry / f".manifest.json.{os.getpid()}.tmp").mkdir()
    with pytest.raises(ModelError, match=r"cannot write to the model registry.*Remedy"):
        add_model(MODELS_FOLDER / f"{STEM}.xml", "mine", "ppe", {}, "own", "", tmp_path / "cache", registry)
    assert not list(registry.glob("*mine*"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "./none.pt", "--name", "mine"], "does not exist"),
        (["add", "./none.pt", "--name", "mine.pt"], "not a valid model name"),
        (["add", "./none.pt", "--name", "mine", "--label", "Helmet"], "not THEIRS=OURS"),
        (["bench", "--size", "641x360"], "no size of pictures"),
        (["compare", STEM, STEM, "--role", "ppe"], "needs something to look at"),
        (["compare", STEM, STEM, "--images", "/none"], "no folder of labelled pictures"),
    ],
)
def test_what_cannot_be_done_says_why(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words]) == 1
    shown = capsys.readouterr().err
    assert says in shown
    assert "Remedy" in shown


def test_compare_shows_both_models_on_pictures_and_clips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "people"
    for folder in ("images", "labels"):
        (images / folder).mkdir(parents=True)
    (images / "classes.txt").write_text("person\n")
    cv2.imwrite(str(images / "images" / "a.jpg"), asset("zidane.jpg"))
    (images / "labels" / "a.txt").write_text("0 0.34 0.64 0.5 0.72\n0 0.74 0.52 0.31 0.95\n")
    clip = tmp_path / "short.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (320, 192))
    for _ in range(12):
        writer.write(np.full((192, 320, 3), 90, np.uint8))
    writer.release()
    camera = {"id": "door", "url": "short.mp4", "lines": [{"id": "l", "p1": [0.5, 0.0], "p2": [0.5, 1.0]}]}
    (tmp_path / "config.json").write_text(json.dumps({"cameras": [camera]}))
    name = "crowdperf-person-vehicle-n"
    words = ["models", "compare", name, f"{name}:int8", "--images", str(images)]
    assert main([*words, "--config", str(tmp_path / "config.json"), "--cache", str(tmp_path / "cache")]) == 0
    shown = capsys.readouterr().out.splitlines()
    values = {line[:36].strip(): line[36:].split() for line in shown}
    assert values[""] == [name, f"{name}:int8"]
    assert all(float(value) > 0.9 for value in values["mAP50"])
    assert values["l in"] == ["0", "0"]
