"""The benches of a CUDA device, on the processor: the same code, without graphs. Their figures mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.micro import inference_gpu
from bench.micro.inference_gpu import GpuSubject
from bench.pipeline.inference_from_ring import Site, redis
from bench.subject import SPEC
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> GpuSubject:
    pytest.importorskip("torch")
    found = GpuSubject(tmp_path_factory.mktemp("bench"), "cpu", batch=2)
    found.cameras, found.writers = 3, 2
    return found


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis(tmp_path_factory.mktemp("redis")) as found:
        yield found


def test_every_row_of_the_device_is_there_beside_its_peer(subject: GpuSubject, tmp_path: Path) -> None:
    rows = {row.name: row for row in inference_gpu.measured(subject, (1, 2), 3, tmp_path, tmp_path / "results", 2)}
    assert set(rows) == {
        "detect/gpu",
        "frame_ms/p50/gpu",
        "frame_ms/p99/gpu",
        "inference_vs_yolo_predict/gpu",
        *(f"sweep/{count}/{curve}" for count in (1, 2) for curve in ("gpu", "gpu_bare")),
    }
    assert all(row.value > 0 for row in rows.values())
    assert rows["frame_ms/p50/gpu"].value <= rows["frame_ms/p99/gpu"].value
    for name in ("detect/gpu", "inference_vs_yolo_predict/gpu"):
        assert rows[name].ratio is not None
    assert rows["inference_vs_yolo_predict/gpu"].better == "higher"
    assert (tmp_path / "results" / "inference_sweep_gpu.png").stat().st_size > 0


def test_network_computes_the_batch_sizes_of_the_detector(subject: GpuSubject) -> None:
    asked: list[int] = []
    run = subject.graphs.run
    subject.detector.sizes.clear()
    for count in (1, 2, 1):
        subject.detector.detect(subject.frames[:count], SPEC)
    subject.graphs.run = lambda size: asked.append(size) or run(size)  # type: ignore[method-assign, func-returns-value]
    try:
        assert [subject.compute() for _ in range(4)] == [1, 2, 1, 1]
    finally:
        subject.graphs.run = run  # type: ignore[method-assign]
    assert asked == [1, 2, 1, 1]


def test_frames_go_from_rings_written_by_two_processes_to_redis(
    subject: GpuSubject, url: str, record_property: Callable[[str, object], None]
) -> None:
    site = Site(subject, url)
    subject.detector.sizes.clear()
    rows = {row.name: row for row in site.measure_rows(2, 1.0)}
    assert {"inference_from_ring/gpu", "jain_fairness/gpu", "frame_age_ms/p99/gpu", "stage_ms/infer/gpu"} <= set(rows)
    speed = rows["inference_from_ring/gpu"]
    assert speed.value > 0
    assert speed.ratio is not None
    analysed = sum(site.metrics.get_counter("frames_analysed", camera) for camera in site.camera_ids)
    # What was still in flight at the end has been computed and is not counted.
    assert 0 < site.count_published() == analysed <= sum(subject.detector.sizes)
    jain = rows["jain_fairness/gpu"].value
    assert 1 / subject.cameras <= jain <= 1.0 + 1e-9
    record_property(
        "figures", f"{analysed:.0f} frames from rings, {speed.ratio:.2f} of the network alone, fairness {jain:.2f}"
    )


def test_without_a_device_there_are_no_rows_and_it_is_said(tmp_path: Path) -> None:
    into = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "micro/inference_gpu", "--short", "--json", str(into)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert "no CUDA device" in done.stderr
    assert json.loads(into.read_text())["rows"] == []
