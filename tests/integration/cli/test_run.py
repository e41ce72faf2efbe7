"""`crowdperf run` and the embedded Redis where they cannot do their work, or are interrupted before they do it."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from crowdperf.messaging.redis.client import connect
from tests.conftest import ROOT, missing, wait_until
from tests.support.site import Site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An installation without cameras; its data folder is not there yet."""
    (tmp_path / "crowdperf").symlink_to(ROOT / "crowdperf")
    (tmp_path / "config.json").write_text(json.dumps({"cameras": []}))
    return tmp_path


def refused(folder: Path, limits: tuple[int, int] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)) -> str:
    """What `run` says before it ends with status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "crowdperf", "run"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_data_folder_that_cannot_be_made_is_one_line(folder: Path) -> None:
    (folder / "var").write_text("in the way")
    output = refused(folder)
    assert str(folder / "var") in output
    assert "Not a directory" in output
    assert "Remedy" in output


def test_a_full_disk_is_one_line(folder: Path) -> None:
    output = refused(folder, (1, resource.RLIM_INFINITY))
    assert str(folder / "var") in output
    assert "File too large" in output
    assert "Remedy" in output


@pytest.fixture
def servers(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Servers that the test started; ended with it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for server in started:
        server.kill()
        server.communicate()


def serve(folder: Path) -> subprocess.Popen[str]:
    """`crowdperf redis`, as supervisord runs it."""
    (folder / "var" / "run").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "crowdperf.entrypoint", "redis"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def server_pid(folder: Path) -> int:
    """Of the server that answers; 0 while none does."""
    try:
        return int(connect(f"unix://{folder / 'var' / 'run' / 'redis.sock'}").info("server")["process_id"])
    except redis.ConnectionError:
        return 0


def test_a_second_redis_never_opens_the_folder_of_one_that_lives(
    folder: Path, servers: list[subprocess.Popen[str]]
) -> None:
    servers.append(first := serve(folder))
    wait_until(lambda: server_pid(folder) == first.pid, what="the first one serves")
    servers.append(second := serve(folder))
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 2, output
    assert f"another Redis (pid {first.pid})" in output
    assert "Remedy" in output
    assert server_pid(folder) == first.pid
    # Nor does a child of the first one, which rewrites the file, keep the third from its work.
    connect(f"unix://{folder / 'var' / 'run' / 'redis.sock'}").bgrewriteaof()
    first.kill()
    first.wait()
    servers.append(third := serve(folder))
    wait_until(lambda: server_pid(folder) == third.pid, what="the third one serves")


def test_program_started_after_supervisord_ended_exits_at_once(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    (folder / "var" / "run").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "crowdperf.entrypoint", "redis"],
        cwd=folder,
        env={**os.environ, "SUPERVISOR_ENABLED": "1"},
        stdout=write,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    os.close(write)
    assert done.returncode == 1
    assert not (folder / "var" / "redis").exists()


def test_orphans_are_reaped_at_once_and_the_stubborn_are_killed() -> None:
    """The shell leaves a process behind that ends, and one, in a session of its own, that takes no SIGTERM."""
    stubborn = "setsid sh -c 'trap : TERM; echo $$; while :; do sleep 1; done'"
    script = f"""
import subprocess
from crowdperf.supervision import process_tree
process_tree.adopt_orphans()
leaves = "(sh -c 'echo $$' &); ({stubborn} &); read line; exit 3"
print(process_tree.wait_for_child(subprocess.Popen(["sh", "-c", leaves])), flush=True)
process_tree.terminate_descendants(0.1)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        left = [Path(f"/proc/{run.stdout.readline().strip()}") for _ in range(2)]
        wait_until(lambda: sum(entry.exists() for entry in left) == 1, what="the one that has ended is no zombie")
        assert run.poll() is None
        assert run.communicate("go on\n", timeout=120)[0] == "3\n"
    assert run.returncode == 0
    assert not any(entry.exists() for entry in left)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_stop_while_rendering_the_demo_leaves_no_half_files(tmp_path: Path, number: int) -> None:
    if importlib.util.find_spec("ultralytics") is None:
        missing("the ultralytics package, whose pictures the demo is cut from")
    cameras = [{"id": name, "url": f"var/demo/demo_{name}.mp4"} for name in ("sparse", "dense")]
    site = Site(tmp_path / "site", {"cameras": cameras})
    demo = site.paths.data / "demo"
    site.start()
    wait_until(lambda: len(list(demo.glob(".*.mp4.*.part"))) == 2, 60, "both scenes are being rendered")
    assert site.stop(number) == 0, site.collect_logs()
    assert site.find_leftovers() == []
    output = (site.folder / "run.out").read_text().splitlines()
    assert output == [
        "rendering the demo site's cameras (once) …",
        "",
        "stopping; the demo site's cameras are rendered by the next start …",
        "crowdperf has stopped.",
    ]
    assert list(demo.glob("demo_*")) == []
