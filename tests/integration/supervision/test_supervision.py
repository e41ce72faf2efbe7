"""The real supervisord: start, stop, what the words of supervisorctl do, and what an end leaves behind."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowdperf.frames.ring import unlink_instance
from crowdperf.messaging.site_owner import read_owner
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from tests.conftest import RedisServer, wait_until
from tests.support.site import Site

RUNNING = ("RUNNING", "STARTING")


def clip(folder: Path, name: str = "clip.mp4", seconds: int = 5, size: str = "320x180") -> Path:
    """A small moving test picture."""
    path = folder / name
    subprocess.run(
        [
            *(find_ffmpeg(), "-loglevel", "error", "-y", "-f", "lavfi"),
            *("-i", f"testsrc=size={size}:rate=10:duration={seconds}", str(path)),
        ],
        check=True,
    )
    return path


def camera(camera_id: str, file: Path) -> dict[str, object]:
    return {"id": camera_id, "url": str(file), "loop": True, "target_fps": 2}


def debug_states(site: Site) -> list[str]:
    """What /debug says of each camera."""
    return [row["state"] for row in site.get("/debug")["cameras"].values()]


def supervisord(site: Site) -> int:
    """Its pid."""
    return int((site.paths.sockets / "supervisord.pid").read_text())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    file = clip(tmp_path)
    cameras = [camera("lobby", file), camera("door", file)]
    made = Site(tmp_path / "site", {"media_roots": [str(tmp_path)], "cameras": cameras})
    yield made
    if made.process is not None:
        made.stop()
    # Who is killed leaves the empty folder of the rings; its next start, which does not come, would remove it.
    unlink_instance(str(made.paths.get_ring_path("")))


def test_supervisorctl_update_touches_only_what_changed(site: Site, tmp_path: Path) -> None:
    with site:
        site.wait_ready()
        before = site.wait_for_pids()
        assert all(state in RUNNING for state in site.get_states().values())

        assert site.run_ctl("stop", "capture-lobby").returncode == 0
        assert site.get_states()["capture-lobby"] == "STOPPED"
        assert not site.paths.get_ring_path("lobby").exists()
        wait_until(
            lambda: site.read_counter("inference", "frames_analysed", "door") > 2, what="the other camera goes on"
        )
        site.run_ctl("start", "capture-lobby")
        wait_until(site.paths.get_ring_path("lobby").exists, what="the ring is back")

        site.run_ctl("restart", "inference")
        site.wait_for_pid("inference", before["inference"])

        kept = site.wait_for_pids()
        site.config["cameras"][1] = camera("gate", tmp_path / "clip.mp4")
        site.write_config()
        done = site.run_ctl("update")
        assert "capture-gate: added process group" in done.stdout
        after = site.wait_for_pids()
        assert "capture-door" not in after
        for name in ("capture-lobby", "inference", "redis", "worker-recorder-0"):
            assert after[name] == kept[name], name
        wait_until(
            lambda: site.read_counter("inference", "frames_analysed", "gate") > 2, 30, "the new camera is analysed"
        )

        site.config["tracking"] = {"shards": 3}
        site.write_config()
        site.run_ctl("update")
        assert {name for name in site.get_pids() if name.startswith("tracking-")} == {f"tracking-{n}" for n in range(3)}
        assert site.get_pids()["inference"] == kept["inference"]

        site.config["cameras_per_process"] = 2
        site.write_config()
        site.run_ctl("update")
        grouped = site.wait_for_pids()
        assert {name for name in grouped if name.startswith("capture-")} == {"capture-group-0"}
        site.config["cameras"].append(camera("yard", tmp_path / "clip.mp4"))
        site.write_config()
        site.run_ctl("update")
        after = site.wait_for_pids()
        assert after["capture-group-1"]
        for name in ("capture-group-0", "inference", "tracking-1", "worker-recorder-0"):
            assert after[name] == grouped[name], name
        site.wait_for_web()
        wait_until(lambda: debug_states(site) == ["live"] * 3, 30, "all three cameras are live")
        for name in ("lobby", "gate", "yard"):
            seen = site.read_counter("inference", "frames_analysed", name)
            wait_until(lambda n=name, s=seen: site.read_counter("inference", "frames_analysed", n) > s + 2, 30, name)
        one = [site.python, "-m", "crowdperf", "ctl", "stop", "capture-yard"]
        done = subprocess.run(one, cwd=site.folder, capture_output=True, text=True, timeout=300)
        assert done.stdout.strip() == "stop: capture-group-1"
        restart = [site.python, "-m", "crowdperf", "ctl", "restart", "capture"]
        done = subprocess.run(restart, cwd=site.folder, capture_output=True, text=True, timeout=300)
        assert done.stdout.strip() == "restart: capture-group-0, capture-group-1"
        for name in ("capture-group-0", "capture-group-1"):
            site.wait_for_pid(name, after[name])
    assert site.find_leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_every_way_to_end_it_ends_everything(site: Site, number: int) -> None:
    site.start()
    site.wait_for_supervisord()
    wait_until(site.paths.get_ring_path("lobby").exists, 40, "the first ring")
    assert site.stop(number) == 0, site.collect_logs()
    assert site.find_leftovers() == []
    assert not site.paths.rings.exists(), "the folder of the rings goes with them"


def test_any_path(tmp_path: Path) -> None:
    """The shell, supervisord's file and a Redis address each give another sign a meaning."""
    file = clip(tmp_path)
    config = {"media_roots": [str(tmp_path)], "cameras": [camera("lobby", file)]}
    site = Site(tmp_path / "a b'c %d [x] #é", config)
    with site:
        site.wait_ready()
        assert all(state in RUNNING for state in site.get_states().values())
        output = (site.folder / "run.out").read_text()
        control = next(line.split(None, 1)[1] for line in output.splitlines() if line.startswith("  control "))
        done = subprocess.run(shlex.split(control), cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {line.split()[0] for line in done.stdout.splitlines()} == set(site.get_states())
    assert site.process is not None
    assert site.process.returncode == 0
    assert site.find_leftovers() == []


def test_a_locale_that_cannot_write_everything(site: Site) -> None:
    """`python -m crowdperf run` by hand; the start script asks for UTF-8 itself."""
    site.config["site"] = {"name": "Žižkov · 広場"}
    site.environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    site.write_config()
    with site:
        site.wait_ready()
        assert "crowdperf ? " in (site.folder / "run.out").read_text()
        environment = Path(f"/proc/{site.get_pids()['inference']}/environ").read_bytes().split(b"\0")
        assert b"PYTHONUTF8=1" in environment
        done = site.run_ctl("update")
        assert (done.returncode, done.stderr) == (0, "")
    assert site.process is not None
    assert site.process.returncode == 0


def test_kill_9_of_the_foreground_process_ends_everything_too(site: Site) -> None:
    site.start()
    site.wait_for_supervisord()
    wait_until(site.paths.get_ring_path("lobby").exists, 40, "the first ring")
    assert site.process is not None
    site.process.kill()
    site.process.wait()
    wait_until(lambda: site.find_leftovers() == [], 60, "no process and no ring left")


def test_kill_9_of_supervisord_ends_all_before_the_lock_is_free(site: Site) -> None:
    site.start()
    site.wait_for_supervisord()
    site.wait_for_pids()
    wait_until(site.paths.get_ring_path("lobby").exists, 40, "the first ring")
    os.kill(supervisord(site), signal.SIGKILL)
    assert site.process is not None
    assert site.process.wait(150) == 1, site.collect_logs()
    assert site.find_leftovers() == []
    output = (site.folder / "run.out").read_text()
    assert "supervisord was killed by SIGKILL" in output
    assert "Traceback" not in output


def test_programs_end_with_supervisord(site: Site) -> None:
    """As with a supervisord that was started by hand."""
    site.start()
    site.wait_for_supervisord()
    site.wait_for_pids()
    wait_until(site.paths.get_ring_path("lobby").exists, 40, "the first ring")
    above = supervisord(site)
    os.kill(above, signal.SIGSTOP)
    assert site.process is not None
    site.process.kill()
    site.process.wait()
    os.kill(above, signal.SIGKILL)
    # Nobody is left to remove the empty folder of the rings; the next start does.
    wait_until(lambda: site.find_leftovers() == [], 60, "no process and no ring left")


def test_a_signal_to_every_process_at_once_is_an_orderly_stop(site: Site) -> None:
    """What systemd does by default."""
    site.start()
    site.wait_for_supervisord()
    pids = site.wait_for_pids()
    above = supervisord(site)
    os.kill(above, signal.SIGTERM)
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    # The foreground process is to find it stopping, not gone.
    wait_until(lambda: "SIGTERM indicating exit" in (site.paths.logs / "supervisord.log").read_text(), what="its stop")
    assert site.stop(signal.SIGTERM) == 0, site.collect_logs()
    assert site.find_leftovers() == []
    assert "Traceback" not in (site.folder / "run.out").read_text()


def test_signal_right_after_start_is_an_orderly_stop(site: Site) -> None:
    site.patch_code("cli/run.py", " print_welcome(deployment)\n", " os.kill(os.getpid(), signal.SIGINT)\n")
    site.start()
    assert site.process is not None
    assert site.process.wait(150) == 0, site.collect_logs()
    assert site.find_leftovers() == []
    assert "Traceback" not in (site.folder / "run.out").read_text()


def test_a_second_run_and_an_invalid_edit_change_nothing(site: Site) -> None:
    with site:
        site.wait_for_supervisord()
        second = subprocess.run(
            [site.python, "-m", "crowdperf", "run"], cwd=site.folder, capture_output=True, text=True, timeout=300
        )
        assert second.returncode == 2
        assert "already runs" in second.stderr
        assert "Remedy" in second.stderr
        wait_until(lambda: all(state in RUNNING for state in site.get_states().values()), 30, "all started")
        before = site.get_pids()
        (site.folder / "config.json").write_text('{"cameras": [{"id": "lobby", "ur": 1}]}')
        done = site.run_ctl("update")
        assert "the programs stay unchanged" in done.stderr
        assert "ur" in done.stderr
        assert site.get_pids().keys() == before.keys()


@pytest.mark.alone
def test_a_second_site_on_one_redis_says_so_and_costs_no_frame(
    tmp_path: Path, redis_server: RedisServer, site: Site
) -> None:
    """The second one is a clone of the machine of the first: the same id and the same host name."""
    site.config |= {"redis": {"url": redis_server.url}, "cameras": site.config["cameras"][:1]}
    site.write_config()
    clone = Site(tmp_path / "clone", {name: value for name, value in site.config.items() if name != "web"})
    # It need not wait as long for a site that may have crashed.
    clone.patch_code("messaging/site_owner.py", "RECORD_S = 15.0", "RECORD_S = 1.0")
    with site:
        site.wait_ready()
        shutil.copy(site.paths.installation_file, clone.paths.installation_file)
        owner = read_owner(redis_server.client())
        wait_until(lambda: site.read_counter("inference", "frames_analysed", "lobby") > 2, what="it analyses")
        with clone:
            assert clone.process is not None
            assert clone.process.wait(60) == 2
        output = (clone.folder / "run.out").read_text()
        assert owner is not None
        assert f"installation {owner.instance} on {owner.host} (run {owner.run}) uses this Redis" in output
        assert not list(clone.paths.logs.glob("*.log")), "no program was started, so nothing was written"
        assert read_owner(redis_server.client()) == owner
        analysed = site.read_counter("inference", "frames_analysed", "lobby")
        wait_until(lambda: site.read_counter("tracking-0", "frames_tracked", "lobby") > analysed, what="all is tracked")
    assert read_owner(redis_server.client()) is None, "after an orderly end the next run begins at once"
