"""Bad input on a running site: one clear message each, and the good camera goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, missing, wait_until
from tests.integration.supervision.test_supervision import camera, clip
from tests.support.site import Site


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    return dict(camera("good", clip(tmp_path)))


def site_with(tmp_path: Path, cameras: list[dict[str, Any]], **more: Any) -> Site:
    environment = more.pop("environment", None)
    return Site(tmp_path / "site", {"media_roots": [str(tmp_path)], "cameras": cameras, **more}, environment)


def wait_for_analysis(site: Site, camera_id: str = "good") -> None:
    """The camera's frames are analysed now."""
    before = site.read_counter("inference", "frames_analysed", camera_id)
    wait_until(
        lambda: site.read_counter("inference", "frames_analysed", camera_id) > before + 2, 60, f"{camera_id} goes on"
    )


def log_of(site: Site, program: str) -> str:
    file = site.paths.logs / f"{program}.log"
    return file.read_text() if file.exists() else ""


def wait_for_log(site: Site, program: str, *words: str) -> None:
    """The log holds a line with all the words, once or a few times, without a traceback."""

    def lines() -> list[str]:
        return [line for line in log_of(site, program).splitlines() if all(word in line for word in words)]

    wait_until(lines, 60, f"{program} says {words}")
    assert len(lines()) <= 4, "the message floods the log"
    assert "Traceback" not in log_of(site, program)


def test_a_wrong_url_and_a_file_that_is_no_video(good: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("this is no video\n" * 100)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        cameras = [
            good,
            {"id": "wrong", "url": f"rtsp://admin:topsecret@127.0.0.1:{port}/live"},
            {"id": "novideo", "url": str(tmp_path / "notes.mp4")},
            {"id": "gone", "url": str(tmp_path / "gone.mp4")},
            {"id": "outside", "url": "/etc/passwd"},
        ]
        with site_with(tmp_path, cameras) as site:
            site.wait_for_supervisord()
            wait_for_log(site, "capture-wrong", "Connection refused")
            wait_for_log(site, "capture-novideo", "Invalid data")
            wait_for_log(site, "capture-gone", "does not exist", "Remedy")
            wait_for_log(site, "capture-outside", "outside media_roots", "Remedy")
            wait_for_analysis(site)
            site.wait_for_web()

            def shown(camera_id: str, field: str, *words: str) -> None:
                """A process tells the others about itself once a second, so what it says comes a little later."""
                wait_until(
                    lambda: any(word in (site.get("/debug")["cameras"][camera_id][field] or "") for word in words),
                    what=f"{camera_id}'s {field} is {words}",
                )

            shown("good", "state", "live")
            shown("wrong", "last_error", "refused")
            shown("novideo", "state", "misconfigured", "backing_off")
            debug = site.get("/debug")
            assert debug["cameras"]["wrong"]["ffmpeg_restarts_total"] >= 0
            bad = [f"capture-{name}" for name in ("wrong", "novideo", "gone", "outside")]
            wait_until(
                lambda: {site.get_states()[name] for name in bad} == {"RUNNING"}, 30, "all to be up for five seconds"
            )
            everything = json.dumps(debug) + json.dumps(site.get("/api/v1/cameras")) + site.collect_logs()
            assert "topsecret" not in everything


@pytest.mark.parametrize(
    ("document", "word"),
    [('{"camras": []}', "camras"), ('{"cameras": [{"id": "a", "url": "x", "fps": 3}]}', "$.cameras[0]"), ("{", "JSON")],
)
def test_a_bad_config_file_stops_run_with_one_line(tmp_path: Path, document: str, word: str) -> None:
    site = site_with(tmp_path, [])
    (site.folder / "config.json").write_text(document)
    done = subprocess.run([site.python, "-m", "crowdperf", "run"], cwd=site.folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Remedy" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_missing_model_is_named_and_captures_go_on(good: dict[str, Any], tmp_path: Path) -> None:
    models = {"models": {"person": "./no-such-model.pt"}}
    with site_with(tmp_path, [good], inference=models) as site:
        site.wait_for_supervisord()
        wait_for_log(site, "inference", "no-such-model.pt", "Remedy")
        wait_until(lambda: site.read_counter("capture-good", "frames_captured", "good") > 5, 60, "capture goes on")
        site.wait_for_web()
        assert site.get_status("/readyz") == 503


def test_an_outside_redis_that_is_down_stops_nothing_else(good: dict[str, Any], tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"redis://:topsecret@127.0.0.1:{closed.getsockname()[1]}/0"
        with site_with(tmp_path, [good], redis={"url": url}) as site:
            site.wait_for_supervisord()
            assert "redis" not in site.get_states()
            wait_for_log(site, "worker-recorder-0", "Redis unavailable")
            wait_until(site.paths.get_ring_path("good").exists, 30, "capture goes on")
            wait_until(lambda: site.get_status("/healthz") == 200, 60, "web is up")
            assert site.get_status("/readyz") == 503
            assert "topsecret" not in site.collect_logs()
            check = subprocess.run(
                [site.python, "-m", "crowdperf", "check"], cwd=site.folder, capture_output=True, text=True
            )
            assert check.returncode == 1
            assert "PROBLEM  Redis at redis://***@" in check.stdout


def test_without_ffmpeg_cameras_say_so_and_the_dashboard_runs(good: dict[str, Any], tmp_path: Path) -> None:
    environment = {"CROWDPERF_FFMPEG": str(tmp_path / "no-ffmpeg")}
    with site_with(tmp_path, [good], environment=environment) as site:
        site.wait_for_supervisord()
        wait_for_log(site, "capture-good", "no-ffmpeg", "Remedy")
        site.wait_for_web()
        wait_until(lambda: site.get("/debug")["cameras"]["good"]["state"] == "misconfigured", what="/debug shows it")
        check = subprocess.run(
            [site.python, "-m", "crowdperf", "check"],
            cwd=site.folder,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        assert "no-ffmpeg" in check.stdout
        assert check.returncode == 1


def test_a_shared_memory_too_small_is_named_with_the_size_needed(good: dict[str, Any], tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        missing("the right to make a mount namespace (unshare -m)")
    big = {"id": "big", "url": str(clip(tmp_path, "big.mp4", size="1280x720")), "loop": True, "analysis_width": 1280}
    small = site_with(tmp_path, [good, big])
    small.wrap = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    with small:
        small.wait_for_supervisord()
        wait_for_log(small, "capture-big", "/dev/shm", "Remedy")
        wait_for_analysis(small)


def test_a_port_in_use_is_named_and_counting_runs(good: dict[str, Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with site_with(tmp_path, [good], web={"port": port}) as site:
            site.wait_for_supervisord()
            wait_until(lambda: f"port {port}" in (site.folder / "run.out").read_text(), 30, "run warns")
            wait_for_log(site, "web", str(port), "Remedy")
            wait_for_analysis(site)


def test_check_reports_everything_in_order_for_a_good_site(good: dict[str, Any], tmp_path: Path) -> None:
    site = site_with(tmp_path, [good])
    done = subprocess.run([site.python, "-m", "crowdperf", "check"], cwd=site.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "everything is in order" in done.stdout


def test_check_of_a_fresh_installation_finds_nothing_amiss(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", json.loads((ROOT / "config.json").read_text()))
    done = subprocess.run([site.python, "-m", "crowdperf", "check"], cwd=site.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "which the first `crowdperf run` renders" in done.stdout
