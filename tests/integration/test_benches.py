"""The benches of capture and ring in a tiny form: they run, keep their promises, and name what others look up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.harness import Row
from bench.micro import decode_to_ring, wakeup
from bench.stress import ring
from crowdperf.runtime.metrics import Metrics
from tests.conftest import ROOT
from tests.support.capturing import make_clip


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their children are started as modules."""
    monkeypatch.chdir(ROOT)


def by_name(rows: list[Row]) -> dict[str, Row]:
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def test_decoding_to_the_ring_is_compared_with_decoding_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_to_ring, "CLIP", make_clip(tmp_path / "clip.mp4"))
    rows = by_name(decode_to_ring.beside_decoding(decode_to_ring.BACKENDS, 1))
    assert set(rows) == {"decode_to_ring_cpu/ffmpeg_640", "decode_to_ring_cpu/pyav_640"}
    assert {row.limit_or_peer for row in rows.values()} == {"bare decoding"}
    for row in rows.values():
        assert row.ratio
        assert row.value > 0


@pytest.mark.parametrize("backend", [name for name, _ in decode_to_ring.BACKENDS])
def test_each_picture_of_the_clip_passes_the_camera_loop(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_to_ring, "CLIP", make_clip(tmp_path / "clip.mp4"))
    metrics = Metrics()
    monkeypatch.setattr(decode_to_ring, "Metrics", lambda: metrics)
    assert dict(decode_to_ring.BACKENDS)[backend]() == 40
    assert metrics.get_counter("frames_captured", "bench") == 40


def test_a_clip_that_breaks_off_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    monkeypatch.setattr(decode_to_ring, "CLIP", tmp_path / "clip.mp4")
    for _, run in decode_to_ring.BACKENDS:
        with pytest.raises(AssertionError):
            run()


def test_waking_up_is_compared_with_a_bare_datagram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "BLOCK", 4)
    rows = by_name(wakeup.rows(short=True))
    assert {"wakeup_vs_datagram", "wakeup_vs_datagram/p99"} < set(rows)
    assert rows["wakeup_vs_datagram"].repetitions == 5


def test_no_frame_is_torn_and_whole_reads_alone_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "READS_SHORT", 10_000)
    monkeypatch.setattr(ring, "FRAMES_PER_KILL", 200)
    rows = by_name(ring.rows(short=True))
    torn, whole, lapped = (rows[name] for name in ("torn_frames", "reads_whole", "reads_lapped"))
    assert torn.value == rows["sequences_that_fell"].value == 0
    assert torn.repetitions == whole.value == 10_000, "what was lapped is no read"
    assert whole.repetitions == whole.value + lapped.value
    assert rows["writer_kills"].value >= 1
