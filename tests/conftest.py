"""Fixtures that more than one kind of test needs."""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hypothesis
import pytest
import redis

from crowdperf.messaging.redis.client import connect
from tests.support import rings

OWN_HOSTS = ("127.0.0.1", "localhost", "::1")


def past_the_proxy() -> None:
    """What the tests ask their own servers goes past a proxy of the environment, as do their child processes' requests.

    Both spellings, each with what either had: some libraries read one, some the other.
    """
    hosts = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")]
    if "*" not in hosts:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(filter(None, [*hosts, *OWN_HOSTS])))


past_the_proxy()

PATIENCE = 3.0
"""A machine that is slow, or busy with something else, makes a test late, never wrong."""
# A busy machine is slow, not wrong.
hypothesis.settings.register_profile(
    "crowdperf", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("crowdperf")

BASE = pytest.StashKey[str]()
FOLDERS_BEFORE = pytest.StashKey[set[Path]]()
LEFTOVERS = pytest.StashKey[set[Path]]()
STATUS = pytest.StashKey[int]()
ROOT = Path(__file__).resolve().parent.parent


def missing(reason: str) -> NoReturn:
    """Skip on a laptop; fail where CI promises that the part is there."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"missing in CI: {reason}")
    pytest.skip(reason)


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0, what: str = "the condition") -> None:
    """Return as soon as `condition()` is true; fail when it is not within `timeout_s`, on a machine of its own."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {timeout_s * PATIENCE:g} s")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of the real clips (CROWDPERF_CLIPS, default ../shared/clips)."""
    folder = Path(os.environ.get("CROWDPERF_CLIPS", str(ROOT.parent / "shared" / "clips")))
    if not (folder / "hand_counts.json").exists():
        missing(f"no clips at {folder}: set CROWDPERF_CLIPS")
    return folder


@functools.cache
def compiled_models() -> Path:
    """A cache of compiled models for this session: every site and detector would else compile them anew."""
    folder = tempfile.TemporaryDirectory(prefix="crowdperf-models-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The cache folder that detectors of this session share."""
    return compiled_models()


@pytest.fixture(scope="session")
def demo_clips() -> Path:
    """Folder of the rendered demo scenes and their truth; rendered once, where the product itself keeps them."""
    folder = ROOT / "var" / "demo"
    subprocess.run([sys.executable, "-m", "crowdperf", "demo", "--if-missing"], cwd=ROOT, check=True)
    return folder


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """A short folder for the tests' files: a site's sockets lie in them, and the system allows 108 bytes for a path."""
    rings.get_run()
    config.stash[FOLDERS_BEFORE] = rings.list_folders()
    if hasattr(config, "workerinput") or config.option.basetemp is not None:
        return
    config.option.basetemp = config.stash[BASE] = tempfile.mkdtemp(prefix="cp-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Keep the files of tests that failed."""
    folder = config.stash.get(BASE, None)
    session = config.stash.get(STATUS, 1)
    if folder is not None and session == 0:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where rings are left in shared memory, and remember how it ended."""
    config = session.config
    if not hasattr(config, "workerinput"):
        left, before = rings.find_leftovers(Path(config.option.basetemp)), config.stash[FOLDERS_BEFORE]
        if os.environ.get("CI", "").lower() == "true":
            # Nobody else is there: a site of a folder that is gone belongs to these tests as well.
            left = rings.list_folders() - before
        config.stash[LEFTOVERS] = left
        if left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    config.stash[STATUS] = int(session.exitstatus)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless CROWDPERF_LONG=1 asks for them."""
    if os.environ.get("CROWDPERF_LONG") == "1":
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Where the suite runs in several processes, a test marked `alone` has the machine to itself."""
    worker = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if worker is None:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    folder = Path(tempfile.gettempdir())
    with (
        (folder / f"crowdperf-{worker}.turn").open("w") as turn,
        (folder / f"crowdperf-{worker}.room").open("w") as room,
    ):
        # Whoever wants the room alone keeps the turn while others finish, so that nobody enters before it.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        return (yield)


@pytest.fixture(autouse=True)
def _remove_rings() -> Iterator[None]:
    """Remove the rings that a test had paths made for."""
    yield
    rings.remove_made()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the rings that tests left, and the figures that they measured (`record_property("figures", …)`)."""
    left = terminalreporter.config.stash.get(LEFTOVERS, set())
    if left:
        terminalreporter.section("left in shared memory", red=True)
        for path in sorted(left):
            terminalreporter.write_line(f"{path}: {sorted(os.listdir(path)) if path.is_dir() else 'a file'}")
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    figures = [text for report in reports for name, text in report.user_properties if name == "figures"]
    if figures:
        terminalreporter.section("figures")
        for text in figures:
            terminalreporter.write_line(str(text))


class RedisServer:
    """A real Redis of its own on a Unix socket, with an append-only file, that can be killed and started again.

    `appendfsync no`: what it acknowledges lies with the kernel, always, and outlives a kill. `everysec` lets a write
    wait while the disk is slow, so that a kill might cost what a test relies on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        from crowdperf.supervision.embedded_redis import find_server_binary

        self.process = subprocess.Popen(
            [
                *(find_server_binary(), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
                *("--appendonly", "yes", "--appendfsync", "no", "--save", "", "--loglevel", "warning"),
            ]
        )
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until it answers."""
        client = connect(self.url)
        wait_until(lambda: _answers(client), what="Redis")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client(self) -> redis.Redis:
        """A client of it."""
        return connect(self.url)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="session")
def _redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(_redis_session: RedisServer) -> RedisServer:
    """The session's Redis, emptied, and started again where a test left it dead."""
    if _redis_session.process is None or _redis_session.process.poll() is not None:
        _redis_session.start()
    _redis_session.client().flushall()
    return _redis_session
