"""Which precision runs where, and what is logged about it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from crowdperf.models import registry
from crowdperf.models.loader import load_detector
from crowdperf.models.openvino_backend import compute_stream_count
from crowdperf.models.registry import MODELS_FOLDER, ModelError, prefers_int8, resolve_model
from crowdperf.settings.engine import Inference, Models

PERSON = "crowdperf-person-vehicle-n"
AVX2 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma\nbugs\t\t:\n"
AVX512 = AVX2.replace("avx2", "avx2 avx512f avx512vl avx512_bf16")


@pytest.mark.parametrize(
    ("cpuinfo", "pays"),
    [
        (AVX2, True),
        (AVX512, False),
        (AVX2.replace("fma", "fma avx_vnni avx_ne_convert"), False),
        (AVX2.replace("avx2 ", ""), False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", False),
        ("", False),
    ],
)
def test_int8_is_taken_only_where_it_was_measured(cpuinfo: str, pays: bool) -> None:
    assert prefers_int8(cpuinfo) is pays


@pytest.mark.parametrize(
    ("cpuinfo", "asked", "runs", "lines"),
    [(AVX2, "auto", "int8", 1), (AVX512, "auto", "full", 0), (AVX2, "full", "full", 0), (AVX512, "int8", "int8", 0)],
)
def test_int8_that_nobody_asked_for_is_logged_once(
    cpuinfo: str,
    asked: str,
    runs: str,
    lines: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "read_cpuinfo", lambda: cpuinfo)
    with caplog.at_level(logging.INFO, "crowdperf"):
        found = load_detector(Inference(runtime="openvino", precision=asked), tmp_path)  # type: ignore[arg-type]
    assert found.precision == runs
    logged = [record.getMessage() for record in caplog.records if "int8" in record.getMessage()]
    assert len(logged) == lines
    assert all("docs/models.md" in line and "'full' turns it off" in line for line in logged)


def test_each_precision_has_files_of_its_own() -> None:
    assert resolve_model(PERSON, "person", "auto").path == MODELS_FOLDER / f"{PERSON}.xml"
    assert resolve_model(PERSON, "person", "auto", precisions=("int8",)).path == MODELS_FOLDER / f"{PERSON}-int8.xml"
    assert resolve_model(PERSON, "person", "torch", precisions=("int8", "full")).precision == "full"
    assert resolve_model("crowdperf-ppe-n", "ppe", "auto", precisions=("int8", "full")).precision == "full"


def test_int8_that_cannot_be_had_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"crowdperf-ppe-n\.pt.*no int8 variant.*Remedy"):
        resolve_model("crowdperf-ppe-n", "ppe", "auto", precisions=("int8",))
    with pytest.raises(ModelError, match=r"'int8' runs on OpenVINO.*runtime 'torch'.*Remedy"):
        load_detector(Inference(runtime="torch", precision="int8"), tmp_path)
    with pytest.raises(ModelError, match=r"'int8' runs on OpenVINO.*device is 'cuda'.*Remedy"):
        load_detector(Inference(device="cuda", precision="int8"), tmp_path)
    own = Models(person=str(MODELS_FOLDER / f"{PERSON}.xml"))
    with pytest.raises(ModelError, match=r"int8.*does not fit.*own weights run in the precision.*Remedy"):
        load_detector(Inference(models=own, precision="int8"), tmp_path)
    assert load_detector(Inference(models=own), tmp_path).precision == "own"


def test_no_thread_is_left_without_a_stream() -> None:
    for threads in range(1, 65):
        assert compute_stream_count(threads) >= 1
        assert threads % compute_stream_count(threads) == 0 or threads > 8
    assert [compute_stream_count(threads) for threads in (1, 2, 3, 4, 8, 16, 64)] == [1, 2, 1, 2, 2, 4, 16]
