"""The model registry: what is committed, and every way in which a model can be wrong."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from crowdperf.cli.models import main, verify_files
from crowdperf.models.loader import download_weights, is_published, load_detector
from crowdperf.models.registry import (
    MODELS_FOLDER,
    ModelError,
    ModelPath,
    build_class_map,
    install_files,
    read_manifest,
    resolve_model,
)
from crowdperf.settings.base import CLASSES
from crowdperf.settings.config import Installation
from crowdperf.settings.engine import Inference, Models
from crowdperf.settings.ppe import PPE_CLASSES

PERSON = "crowdperf-person-vehicle-n"
OWN = ModelPath("best", "torch", Path("best.pt"), None, "own")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A copy of the registry that a test may damage."""
    folder = tmp_path / "models"
    shutil.copytree(MODELS_FOLDER, folder)
    return folder


def test_every_registered_file_is_there_and_unaltered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify"], Installation()) == 0
    shown = capsys.readouterr().out
    for entry in read_manifest().models:
        assert entry.licence == "AGPL-3.0"
        assert entry.file in shown
    registered = {PERSON: CLASSES}
    assert {entry.name: entry.classes for entry in read_manifest().models if entry.role == "person"} == registered


def test_auto_prefers_openvino_and_torch_gets_the_weights() -> None:
    assert resolve_model(PERSON, "person", "auto").path == MODELS_FOLDER / f"{PERSON}.xml"
    assert resolve_model(PERSON, "person", "torch").path == MODELS_FOLDER / f"{PERSON}.pt"


def test_a_missing_file_names_itself_and_the_remedy(registry: Path) -> None:
    (registry / f"{PERSON}.bin").unlink()
    with pytest.raises(ModelError, match=rf"{PERSON}\.bin.*Remedy: restore"):
        resolve_model(PERSON, "person", "openvino", registry)


def test_an_altered_file_is_refused(registry: Path) -> None:
    with (registry / f"{PERSON}.pt").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ModelError, match=rf"{PERSON}\.pt.*sha256.*manifest\.json says 54a3125.*Remedy"):
        resolve_model(PERSON, "person", "torch", registry)


@pytest.mark.parametrize(
    ("name", "role", "runtime", "says"),
    [
        ("yolo99", "person", "auto", "'yolo99' is not in .*known for 'person': crowdperf-person"),
        ("crowdperf-ppe-n", "person", "auto", "role 'ppe', not 'person'"),
        (PERSON, "ppe", "openvino", "role 'person', not 'ppe'"),
        ("./absent.pt", "person", "auto", "'absent.pt' does not exist"),
    ],
)
def test_what_cannot_be_resolved_says_why(name: str, role: str, runtime: str, says: str) -> None:
    with pytest.raises(ModelError, match=rf"(?s){says}.*Remedy"):
        resolve_model(name, role, runtime)  # type: ignore[arg-type]


def test_a_broken_manifest_is_named(registry: Path) -> None:
    (registry / "manifest.json").write_text('{"models": [{"name": "x"}]}')
    with pytest.raises(ModelError, match=r"manifest\.json.*not a valid registry.*Remedy"):
        read_manifest(registry)


def test_duplicate_names_and_variants_without_files_are_refused(registry: Path) -> None:
    path = registry / "manifest.json"
    written = path.read_text()
    path.write_text(written.replace('"name": "crowdperf-ppe-n"', f'"name": "{PERSON}"', 1))
    with pytest.raises(ModelError, match=rf"manifest\.json.*more than one model called '{PERSON}'.*Remedy"):
        resolve_model(PERSON, "person", "auto", registry)
    manifest = json.loads(written)
    manifest["models"][0]["variants"][0]["files"] = []
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"not a valid registry.*variants\[0\]\.files.*Remedy"):
        resolve_model(PERSON, "person", "auto", registry)


def test_every_wrong_file_is_told_at_once(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (registry / f"{PERSON}.bin").unlink()
    (registry / "crowdperf-ppe-n.pt").write_bytes(b"altered")
    with pytest.raises(ModelError) as caught:
        verify_files(registry)
    first, second = str(caught.value).splitlines()
    assert f"{PERSON}.bin" in first
    assert "crowdperf-ppe-n.pt" in second
    assert "crowdperf-ppe-n.xml: sha256 as registered" in capsys.readouterr().out


def test_files_are_installed_whole_or_not_at_all(tmp_path: Path) -> None:
    """A disk that is full after 64 KiB: the second file does not fit, and both old ones stay."""
    sources, targets = ([tmp_path / f"{stem}{end}" for end in (".xml", ".bin")] for stem in ("from", "to"))
    for path, size in zip([*sources, *targets], (1000, 1 << 20, 3, 4)):
        path.write_bytes(b"x" * size)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(ModelError, match=r"cannot write to the model registry.*Remedy: free space"):
            install_files(sources, targets)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [target.stat().st_size for target in targets] == [3, 4]
    assert len(list(tmp_path.iterdir())) == 4
    assert [file.file for file in install_files(sources, targets)] == ["to.xml", "to.bin"]
    assert [target.stat().st_size for target in targets] == [1000, 1 << 20]
    assert len(list(tmp_path.iterdir())) == 4


def test_own_files_go_to_the_runtime_of_their_format(tmp_path: Path, registry: Path) -> None:
    assert resolve_model(str(registry / f"{PERSON}.pt"), "person", "auto").runtime == "torch"
    assert resolve_model(str(registry / f"{PERSON}.xml"), "person", "auto").runtime == "openvino"
    with pytest.raises(ModelError, match=r"holds 3 \.xml files"):
        resolve_model(str(registry), "person", "auto")
    for other in (f"{PERSON}-int8", "crowdperf-ppe-n"):
        (registry / f"{other}.xml").unlink()
    assert resolve_model(str(registry), "person", "auto").path == registry / f"{PERSON}.xml"
    with pytest.raises(ModelError, match="belongs to the runtime 'torch'"):
        resolve_model(str(registry / f"{PERSON}.pt"), "person", "openvino")
    for name, runtime in (("model.onnx", "openvino"), ("model.engine", "torch")):
        (tmp_path / name).touch()
        assert resolve_model(str(tmp_path / name), "person", "auto").runtime == runtime
    (tmp_path / "model.tflite").touch()
    with pytest.raises(ModelError, match=r"model\.tflite.*none of.*Remedy"):
        resolve_model(str(tmp_path / "model.tflite"), "person", "auto")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds 0 \.xml files"):
        resolve_model(str(tmp_path / "empty"), "person", "auto")


def test_class_names_are_mapped_by_name_and_others_ignored() -> None:
    names = ("dog", "truck", "person")
    assert build_class_map(names, OWN).tolist() == [-1, CLASSES.index("truck"), 0]
    with pytest.raises(ModelError, match=r"best\.pt.*none of crowdperf's classes.*its own: dog, cat.*Remedy"):
        build_class_map(("dog", "cat"), OWN)


def test_published_weights_are_downloaded_only_if_allowed(tmp_path: Path) -> None:
    assert [is_published(name) for name in ("yolo11n.pt", "yolo26s.pt", "yolov8x.pt", "yolo12m.pt")] == [True] * 4
    assert not any(map(is_published, ("best.pt", "./yolo11n.pt", "crowdperf-ppe-n", "yolo11n-seg.xml")))
    own = Inference(models=Models(person="yolo11n.pt"))
    with pytest.raises(
        ModelError, match=r"'yolo11n\.pt'.*downloads are off.*inference\.downloads.*weights/yolo11n\.pt"
    ):
        load_detector(own, tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yolo11n.pt").write_bytes(b"fetched earlier")
    assert download_weights("yolo11n.pt", tmp_path, False) == tmp_path / "weights" / "yolo11n.pt"


def test_other_names_are_mapped_by_the_configuration() -> None:
    helmets = replace(OWN, role="ppe", labels={"Helmet": "hardhat", "NO-Helmet": "no_hardhat"})
    wanted = build_class_map(("Helmet", "NO-Helmet", "vest", "cone"), helmets)
    assert [PPE_CLASSES[index] if index >= 0 else "" for index in wanted] == ["hardhat", "no_hardhat", "vest", ""]
    spaced = replace(helmets, runtime="openvino", labels={"Safety Vest": "vest"})
    for names in (("cone", "Safety_Vest"), ("cone", "Safety Vest")):
        assert build_class_map(names, spaced).tolist() == [-1, PPE_CLASSES.index("vest")]
    with pytest.raises(ModelError, match=r"labels\.ppe maps 'Safety Vest'.*does not know.*Safety_Vest.*Remedy"):
        build_class_map(("Safety_Vest",), replace(spaced, runtime="torch"))
    with pytest.raises(ModelError, match=r"labels\.ppe maps 'Helmet' to 'hat'.*not a class of crowdperf.*Remedy"):
        build_class_map(("Helmet",), replace(helmets, labels={"Helmet": "hat"}))
    with pytest.raises(ModelError, match=r"labels\.ppe maps 'helm'.*best\.pt.*does not know.*Helmet.*Remedy"):
        build_class_map(("Helmet",), replace(helmets, labels={"helm": "hardhat"}))


def test_registered_model_with_wrong_classes_is_refused(registry: Path, tmp_path: Path) -> None:
    path = registry / "manifest.json"
    path.write_text(path.read_text().replace('"bicycle",', "", 1))
    with pytest.raises(ModelError, match=rf"{PERSON}\.xml.*5 classes.*Remedy"):
        load_detector(Inference(precision="full"), tmp_path, registry)


def test_an_unreadable_openvino_model_is_one_clear_error(registry: Path, tmp_path: Path) -> None:
    (registry / f"{PERSON}.xml").write_text("<net/>")
    own = Inference(models=Models(person=str(registry / f"{PERSON}.xml")))
    with pytest.raises(ModelError, match=rf"{PERSON}\.xml.*Remedy"):
        load_detector(own, tmp_path)


def test_cuda_cannot_be_had_by_openvino(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="runs on the processor"):
        load_detector(Inference(device="cuda", runtime="openvino"), tmp_path)


def test_asking_for_cuda_where_there_is_none_says_so(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match=r"finds no CUDA device.*Remedy"):
        load_detector(Inference(device="cuda"), tmp_path)
