"""The shipped model on real pictures, on both runtimes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crowdperf.frames.ring import RingSpec
from crowdperf.models import threads
from crowdperf.models.detector import Detector, make_warmup_spec
from crowdperf.models.loader import load_detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.registry import MODELS_FOLDER, ModelError
from crowdperf.runtime.control_group import UsableCores
from crowdperf.settings.base import CLASSES
from crowdperf.settings.engine import Inference, Models
from tests.conftest import wait_until
from tests.support.pictures import asset, iou, ring_frame

BUS_PEOPLE = np.array([[0.27, 0.38, 0.42, 0.80], [0.06, 0.37, 0.30, 0.84], [0.83, 0.37, 1.0, 0.81]], np.float32)
"""The three people in full view of bus.jpg, normalised, marked by hand."""


def strong(found: Detections, class_name: str, at: float = 0.5) -> Detections:
    chosen = (found.scores > at) & (found.classes == CLASSES.index(class_name))
    return Detections(found.boxes[chosen], found.scores[chosen], found.classes[chosen])


def test_two_batches_under_way_are_two_batches(openvino_detector: Detector) -> None:
    most = openvino_detector.backend.max_batch
    batches = []
    for name, many in (("bus.jpg", most), ("zidane.jpg", 1), ("bus.jpg", 1), ("zidane.jpg", most)):
        frame, spec = ring_frame(asset(name), 640, 360)
        batches.append(([frame] * many, [spec] * many))
    alone = [openvino_detector.detect_batch(*batch) for batch in batches]
    assert len(strong(alone[0][0], "person").boxes) != len(strong(alone[1][0], "person").boxes)
    together = []
    for number, batch in enumerate(batches):
        openvino_detector.load(*batch)
        openvino_detector.start()
        if number:
            together.append(openvino_detector.finish(batches[number - 1][1]))
    together.append(openvino_detector.finish(batches[-1][1]))
    for ours, theirs in zip(together, alone):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs):
            assert np.array_equal(mine.classes, other.classes)
            assert np.abs(mine.boxes - other.boxes).max() < 1e-3


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "bgr24"])
@pytest.mark.parametrize("size", [(640, 854), (640, 360)])
def test_the_people_and_the_bus_are_found_where_they_are(
    openvino_detector: Detector, pix_fmt: str, size: tuple[int, int]
) -> None:
    """640x360 pads the portrait picture left and right, so that a mapping error would show."""
    frame, spec = ring_frame(asset("bus.jpg"), *size, pix_fmt)
    (found,) = openvino_detector.detect([frame], spec)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.classes.dtype == np.uint8
    people = strong(found, "person")
    assert (iou(BUS_PEOPLE, people.boxes).max(axis=1) > 0.7).all()
    assert len(strong(found, "bus").boxes) == 1
    assert (np.diff(found.scores) <= 0).all()


def test_close_up_people_are_found(openvino_detector: Detector) -> None:
    frame, spec = ring_frame(asset("zidane.jpg"), 640, 360)
    assert len(strong(openvino_detector.detect([frame], spec)[0], "person").boxes) == 2


def test_an_empty_picture_has_nobody(openvino_detector: Detector) -> None:
    frame, spec = ring_frame(np.full((360, 640, 3), 90, np.uint8), 640, 360)
    assert len(strong(openvino_detector.detect([frame], spec)[0], "person", 0.3).boxes) == 0
    assert openvino_detector.detect([], spec) == []


def test_both_runtimes_agree_and_a_batch_equals_its_frames(
    openvino_detector: Detector, torch_detector: Detector
) -> None:
    frames, spec = [], None
    for name in ("bus.jpg", "zidane.jpg", "bus.jpg"):
        frame, spec = ring_frame(asset(name), 640, 360)
        frames.append(frame)
    assert isinstance(spec, RingSpec)
    ours, theirs = openvino_detector.detect(frames, spec), torch_detector.detect(frames, spec)
    for one, other in zip(ours, theirs):
        one, other = (Detections(*(column[found.scores > 0.3] for column in found)) for found in (one, other))
        assert len(one.scores) == len(other.scores) > 1
        assert one.classes.tolist() == other.classes.tolist()
        assert np.abs(one.scores - other.scores).max() < 0.02
        # A processor that computes in bf16 (8 bits) moves an edge by up to 1 % of its box; measured overlap: 0.96.
        assert iou(one.boxes, other.boxes).diagonal().min() > 0.93
        assert np.abs(one.boxes - other.boxes).mean() < 0.0015
    alone = torch_detector.detect([frames[1]], spec)[0]
    assert np.allclose(alone.boxes, theirs[1].boxes, atol=1e-4)


def test_frames_of_different_sources_are_mapped_separately(openvino_detector: Detector) -> None:
    (portrait, first), (wide, second) = (ring_frame(asset(name), 640, 360) for name in ("bus.jpg", "zidane.jpg"))
    together = openvino_detector.detect_batch([portrait, wide], [first, second])
    for found, (frame, spec) in zip(together, ((portrait, first), (wide, second))):
        assert np.array_equal(found.boxes, openvino_detector.detect([frame], spec)[0].boxes)


@pytest.mark.parametrize("form", ["pt", "xml", "folder"])
def test_weights_of_the_users_own_work(form: str, tmp_path: Path, torch_detector: Detector) -> None:
    stem = "crowdperf-person-vehicle-n"
    folder = tmp_path / "best_openvino_model"
    folder.mkdir()
    for suffix in (".xml", ".bin"):
        shutil.copyfile(MODELS_FOLDER / f"{stem}{suffix}", folder / f"best{suffix}")
    path = {"pt": MODELS_FOLDER / f"{stem}.pt", "xml": MODELS_FOLDER / f"{stem}.xml", "folder": folder}[form]
    detector = load_detector(Inference(models=Models(person=str(path)), device="cpu"), tmp_path)
    assert detector.backend.name == ("torch" if form == "pt" else "openvino")
    frame, spec = ring_frame(asset("zidane.jpg"), 640, 360)
    assert len(strong(detector.detect([frame], spec)[0], "person").boxes) == 2


def test_a_file_that_is_no_model_is_one_clear_error(tmp_path: Path, torch_detector: Detector) -> None:
    (tmp_path / "best.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"best\.pt.*cannot be loaded.*Remedy"):
        load_detector(Inference(models=Models(person=str(tmp_path / "best.pt"))), tmp_path)


def test_the_openvino_path_needs_neither_torch_nor_ultralytics(tmp_path: Path) -> None:
    """A core installation has neither: they are made unimportable."""
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'ultralytics'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "import crowdperf.inference.process\n"
        "from crowdperf.settings.engine import Inference\n"
        "from crowdperf.frames.ring import RingSpec\n"
        "from crowdperf.models.loader import load_detector\n"
        f"detector = load_detector(Inference(device='cpu'), Path({str(tmp_path)!r}))\n"
        "spec = RingSpec(320, 192, 'yuv420p', 320, 192, 4, 10.0, 0)\n"
        "print(len(detector.detect([np.zeros(spec.frame_bytes, np.uint8)], spec)), detector.backend.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=MODELS_FOLDER.parent, check=False
    )
    assert done.stdout.split() == ["1", "openvino"], done.stderr


@pytest.mark.parametrize("is_warm", [False, True])
def test_more_threads_than_cores_give_one_result_per_frame(
    is_warm: bool, model_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO cuts streams without a word; the batch follows, and no result goes to another frame."""
    monkeypatch.setattr(threads, "find_usable_cores", lambda: UsableCores(512, None))
    settings = Inference(runtime="openvino", precision="full", threads=256)
    detector = load_detector(settings, model_cache)
    assert detector.backend.max_batch == 64
    frames, specs = zip(*(ring_frame(asset(name), 640, 360) for name in ("bus.jpg", "zidane.jpg") * 4))
    if is_warm:
        detector.warm(specs[:1])
        assert detector.backend.max_batch <= len(os.sched_getaffinity(0))
    found = detector.detect_batch(frames, specs)
    assert [len(strong(one, "bus").boxes) for one in found] == [1, 0] * 4
    assert detector.backend.max_batch <= len(os.sched_getaffinity(0))


def build_end_to_end_model(folder: Path) -> Path:
    """Build a network with a head that needs 300 anchors, as an NMS-free export of YOLO26 does."""
    import openvino
    from openvino import opset8

    picture = opset8.parameter([-1, 3, -1, -1], np.float32, name="images")
    cells = opset8.avg_pool(picture, [32, 32], [0, 0], [0, 0], [32, 32], True)
    scores = opset8.reshape(opset8.reduce_max(cells, np.array([1]), True), np.array([0, -1]), True)
    best = opset8.topk(scores, np.array(300), 1, "max", "value")
    rows = opset8.concat([opset8.unsqueeze(best.output(0), np.array([2]))] * 6, 2)
    model = openvino.Model([rows], [picture], "head")
    model.set_rt_info("person car", ["model_info", "labels"])
    openvino.save_model(model, folder / "best.xml", False)
    return folder / "best.xml"


def test_a_size_that_cannot_be_compiled_is_refused_alone(tmp_path: Path) -> None:
    settings = Inference(models=Models(person=str(build_end_to_end_model(tmp_path))), device="cpu")
    good, small = make_warmup_spec(640, 640), make_warmup_spec(320, 192)
    detector = load_detector(settings, tmp_path, specs=[small, good])
    wait_until(lambda: detector.ready(small), what="the refusal")
    with pytest.raises(ModelError, match=r"cannot be compiled for 320x192.*Remedy"):
        detector.load([np.zeros(small.frame_bytes, np.uint8)], [small])
    assert len(detector.detect([np.zeros(good.frame_bytes, np.uint8)], good)) == 1
