"""Every YOLO family in every format, on networks built from Ultralytics' packaged YAML: no weights are needed.

The networks know nothing, so everything above a tiny confidence counts; what is compared is our reading of their heads
with Ultralytics' own.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowdperf.models.detector import Detector, make_warmup_spec
from crowdperf.models.loader import load_detector, prepare_ultralytics
from crowdperf.models.openvino_backend import OpenvinoBackend
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import letterbox
from crowdperf.models.registration import add_model
from crowdperf.models.registry import MODELS_FOLDER, ModelError
from crowdperf.settings.engine import Inference, Labels, Models
from tests.conftest import missing
from tests.support.pictures import asset, iou, ring_frame, to_torch_input

FAMILIES = ("yolov8n", "yolo11n", "yolo12n", "yolo26n")
NAMES = ["Human", "car", *(f"thing {index}" for index in range(6))]
LABELS = Labels(person={"Human": "person", "thing 0": "bus"})
FRAME, SPEC = ring_frame(asset("bus.jpg"), 320, 320)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("torch", "ultralytics"):
        try:
            __import__(name)
        except ImportError:
            missing(f"{name} is not installed: the families are not tested")
    folder = tmp_path_factory.mktemp("families")
    prepare_ultralytics(folder)
    return folder


@functools.cache
def build(family: str, folder: Path, end_to_end: bool = False) -> Path:
    """Weights of a family that see something: normalised for a picture, with a class branch that takes sides."""
    import torch
    import ultralytics
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    torch.manual_seed(1)
    described = folder / f"{family}.yaml"
    described.write_text(yaml.safe_dump({**yaml_model_load(f"{family}.yaml"), "nc": len(NAMES)}))
    made = ultralytics.YOLO(described, task="detect", verbose=False)
    made.model.names = dict(enumerate(NAMES))
    head = made.model.model[-1]
    for branch in (head.cv3, getattr(head, "one2one_cv3", [])):
        for level in branch:
            torch.nn.init.normal_(level[-1].weight, std=0.5)
            torch.nn.init.constant_(level[-1].bias, -3.0)
    for module in made.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            # The average of what it has seen, which is one picture: without it, nothing reaches the head.
            module.momentum = None
    with torch.no_grad():
        made.model.train()(to_torch_input(torch.from_numpy(FRAME)[None], letterbox(SPEC)))
    head.end2end = end_to_end
    path = folder / f"{family}{'-e2e' if end_to_end else ''}.pt"
    made.save(path)
    return path


def detector(path: Path, cache: Path, confidence: float = 0.3) -> Detector:
    settings = Inference(device="cpu", models=Models(person=str(path)), labels=LABELS, confidence=confidence, iou=0.5)
    return load_detector(settings, cache)


def in_float32(own: Detector) -> Detector:
    """A network that knows nothing magnifies every rounding: here the processor's shorter floats are left out."""
    assert isinstance(own.backend, OpenvinoBackend)
    own.backend._core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return own


def theirs(path: Path, painted: bool = False, confidence: float = 0.3) -> Any:
    """float32 (n, 6) of Ultralytics itself, boxes normalised, for classes that we know.

    `painted`: from the picture that the OpenVINO runtime makes, which may differ by 1 of 255 from torch's.
    """
    import torch
    import ultralytics
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import xywh2xyxy, xyxy2xywh

    network = ultralytics.YOLO(path).model.float().fuse(verbose=False).eval()
    box = letterbox(SPEC)
    if painted:
        (image,) = box.make_canvas(1)
        box.paint(FRAME, image)
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    else:
        picture = to_torch_input(torch.from_numpy(FRAME)[None], box)
    with torch.inference_mode():
        raw = network(picture)
        raw = raw[0] if isinstance(raw, (tuple, list)) else raw
        if raw.shape[2] == 6:
            rows = raw[0][(raw[0][:, 4] > confidence) & (raw[0][:, 5] < 3)]
        else:
            # We clip boxes to the picture before suppression, Ultralytics after it.
            corners = xywh2xyxy(raw[:, :4].transpose(1, 2))
            corners[..., 0::2] = corners[..., 0::2].clamp(0, box.width)
            corners[..., 1::2] = corners[..., 1::2].clamp(0, box.height)
            raw = torch.cat([xyxy2xywh(corners).transpose(1, 2), raw[:, 4:]], dim=1)
            (rows,) = non_max_suppression(raw, confidence, 0.5, classes=[0, 1, 2], max_det=300, max_nms=1000)
    rows = rows.numpy()
    x0, y0, width, height = SPEC.content
    rows[:, :4] = np.clip((rows[:, :4] - [x0, y0] * 2) / ([width, height] * 2), 0, 1)
    return rows


def same(found: Detections, rows: Any) -> None:
    """The same boxes, scores and classes (0 Human, 1 car, 2 bus by label); of equal scores either may win."""
    assert len(rows) > 5, "the network sees something"
    known = np.array([0, 2, 4])[rows[:, 5].astype(int)]
    overlap = iou(found.boxes, rows[:, :4].astype(np.float32))
    overlap *= found.classes[:, None] == known[None]
    overlap *= np.abs(found.scores[:, None] - rows[None, :, 4]) < 1e-3
    assert (overlap.max(axis=0) > 0.99).mean() > 0.9
    assert abs(len(found.boxes) - len(rows)) <= 0.05 * len(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_each_family_match_ultralytics(family: str, cache: Path) -> None:
    path = build(family, cache)
    (found,) = detector(path, cache).detect([FRAME], SPEC)
    same(found, theirs(path))


def test_an_end_to_end_head_needs_no_suppression(cache: Path) -> None:
    path = build("yolo26n", cache, end_to_end=True)
    (found,) = detector(path, cache).detect([FRAME], SPEC)
    same(found, theirs(path))


@pytest.mark.parametrize(("family", "end_to_end"), [("yolov8n", False), ("yolo26n", True)])
def test_onnx_files_run_on_openvino_with_the_names_inside(family: str, end_to_end: bool, cache: Path) -> None:
    try:
        __import__("onnx")
    except ImportError:
        missing("onnx is not installed: no ONNX file can be made")
    import ultralytics

    path = build(family, cache, end_to_end)
    exported = ultralytics.YOLO(path).export(
        format="onnx", dynamic=True, imgsz=320, opset=18, simplify=False, nms=False if end_to_end else None
    )
    (found,) = in_float32(detector(Path(exported), cache)).detect([FRAME], SPEC)
    same(found, theirs(path, painted=True))


def test_the_labels_of_the_weights_suit_their_openvino_folder(cache: Path, tmp_path: Path) -> None:
    """There Ultralytics writes thing_0 for "thing 0"."""
    import ultralytics

    weights = shutil.copyfile(build("yolo11n", cache), tmp_path / "best.pt")
    exported = Path(ultralytics.YOLO(weights).export(format="openvino", dynamic=True, imgsz=320))
    assert exported.is_dir()
    (found,) = in_float32(detector(exported, cache)).detect([FRAME], SPEC)
    same(found, theirs(weights, painted=True))
    registry = tmp_path / "models"
    shutil.copytree(MODELS_FOLDER, registry)
    entry = add_model(exported, "mine", "person", LABELS.person, "own", "", cache, registry)
    assert entry.classes[:4] == ("person", "car", "bus", "thing_1")


def test_an_export_for_one_size_serves_the_cameras_of_that_size(cache: Path, tmp_path: Path) -> None:
    """Ultralytics' default. It is not registered, since every other camera would be blind."""
    import ultralytics

    weights = shutil.copyfile(build("yolov8n", cache), tmp_path / "static.pt")
    exported = Path(ultralytics.YOLO(weights).export(format="openvino", imgsz=(384, 640)))
    wide, high = make_warmup_spec(640, 360), make_warmup_spec(640, 480)
    settings = Inference(device="cpu", models=Models(person=str(exported)))
    own = load_detector(settings, cache, specs=[high, wide])
    assert len(own.detect([np.zeros(wide.frame_bytes, np.uint8)], wide)) == 1
    says = r"static\.xml' cannot run at 640x480.*Remedy: export it with dynamic=True"
    for _ in range(2):
        assert own.ready(high), "the refusal comes at once, every time"
        with pytest.raises(ModelError, match=says):
            own.detect([np.zeros(high.frame_bytes, np.uint8)], high)
    with pytest.raises(ModelError, match=says):
        load_detector(settings, cache, specs=[high])
    registry = tmp_path / "models"
    shutil.copytree(MODELS_FOLDER, registry)
    with pytest.raises(ModelError, match=says):
        add_model(exported, "mine", "person", {}, "own", "", cache, registry)
    with pytest.raises(ModelError, match=r"cannot run at 192x384.*Remedy"):
        add_model(exported, "mine", "ppe", {"Human": "person"}, "own", "", cache, registry)
    assert not list(registry.glob("mine*"))


def test_an_engine_without_a_gpu_says_what_to_do(cache: Path) -> None:
    path = cache / "best.engine"
    path.write_bytes(b"engine")
    with pytest.raises(ModelError, match=r"best\.engine.*needs a CUDA device.*Remedy"):
        detector(path, cache)


def test_weights_for_another_task_are_refused(cache: Path) -> None:
    import ultralytics

    path = cache / "pose.pt"
    ultralytics.YOLO("yolo11n-pose.yaml", verbose=False).save(path)
    with pytest.raises(ModelError, match=r"pose\.pt.*task 'pose'.*Remedy"):
        detector(path, cache)
