"""The test command itself: a second try in CI alone, which hides nothing and saves no test that fails twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

INSTALLED = ("chromium", "mosquitto", "nginx")
SUITE = """
from pathlib import Path
import pytest

HERE = Path(__file__).parent

def fails_first(name):
    seen = HERE / f"{name}.seen"
    if not seen.exists():
        seen.touch()
        raise AssertionError(f"{name} is a race")

@pytest.fixture(scope="module")
def prepared():
    fails_first("preparing")

def test_prepared(prepared):
    pass

@pytest.mark.alone
def test_alone():
    fails_first("alone")

def test_steady():
    pass
"""
BROKEN = """
def test_broken():
    raise AssertionError("at every try")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose set-up is done, with a Python that only says how it is called, and nothing to install."""
    for name in ("crowdperf.sh", "requirements-core.txt", "requirements-test.txt", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stand_in = tmp_path / ".venv" / "bin" / "python"
    stand_in.parent.mkdir(parents=True)
    # Asked where packages are, it names a folder.
    stand_in.write_text("#!/bin/sh\ncase $2 in *purelib*) echo .venv/bin;; *) echo $@;; esac\n")
    for name in INSTALLED:
        shutil.copy(stand_in, stand_in.with_name(name))
    for program in stand_in.parent.iterdir():
        program.chmod(0o700)
    subprocess.run(["./crowdperf.sh", "setup"], cwd=tmp_path, env={**os.environ, "PYTHON": ""}, check=True)
    return tmp_path


def flags(checkout: Path, ci: str) -> list[str]:
    """How `./crowdperf.sh test -k word` calls pytest."""
    path = f"{checkout / '.venv' / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "CI": ci, "PATH": path, "CROWDPERF_CORE": "", "PYTHON": ""}
    done = subprocess.run(
        ["./crowdperf.sh", "test", "-k", "word"], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1].split()
    assert said[:2] == ["-m", "pytest"]
    assert said[-2:] == ["-k", "word"]
    return said[2:-2]


def run(checkout: Path, folder: Path, suite: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A suite of its own, with this one's hooks, as CI would run it."""
    (folder / "conftest.py").write_text("from tests.conftest import pytest_runtest_protocol\n")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    for name, text in suite.items():
        (folder / name).write_text(text)
    # Its processes are not those that this test itself may run in.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *flags(checkout, "true"), "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command, cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def test_only_ci_gives_a_second_try(checkout: Path) -> None:
    laptop, ci = flags(checkout, ""), flags(checkout, "true")
    assert "--reruns" not in laptop
    assert ci[ci.index("--reruns") + 1] == "1"
    assert (ROOT / ci[ci.index("--rerun-exclude-path") + 1]).exists()
    assert [word for word in ci if word in laptop] == laptop


def test_second_try_is_named_with_its_first_failure(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = run(checkout, tmp_path_factory.mktemp("suite"), {"test_races.py": SUITE})
    assert done.returncode == 0, done.stdout
    named = done.stdout.partition("rerun test summary info")[2]
    for name in ("test_prepared", "test_alone", "preparing is a race", "alone is a race"):
        assert name in named, done.stdout
    assert "test_steady" not in named
    assert "3 passed, 2 rerun" in done.stdout


def test_what_fails_twice_fails_the_run(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    suite = {"test_races.py": SUITE, "test_broken.py": BROKEN}
    done = run(checkout, tmp_path_factory.mktemp("suite"), suite)
    assert done.returncode == 1, done.stdout
    assert "FAILED test_broken.py::test_broken" in done.stdout
    assert "1 failed, 3 passed, 3 rerun" in done.stdout
