"""What `./crowdperf.sh setup` makes of the .venv that it finds, with real interpreters and nothing to install."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys.base_prefix).resolve()
REQUIREMENTS = ("requirements-core.txt", "requirements-test.txt", "requirements.txt")
LOCKS = ("requirements-core.lock", "requirements.lock", "requirements-test.lock")


class Checkout:
    """A clone in a folder whose name a shell would take apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a b'c"
        self.path = folder / "path"
        """Goes before PATH."""

    def create(self) -> None:
        """Copy what a clone has."""
        self.folder.mkdir()
        shutil.copy(ROOT / "crowdperf.sh", self.folder)
        for name in (*REQUIREMENTS, *LOCKS):
            (self.folder / name).write_text("# none\n")
        self.path.mkdir()
        (self.path / "python3").symlink_to(BASE / "bin" / VERSION)

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / "crowdperf-stamp"

    @property
    def packages(self) -> Path:
        return self.venv / "lib" / VERSION / "site-packages"

    def run(self, *words: str, python: Path | None = None) -> subprocess.CompletedProcess[str]:
        """`./crowdperf.sh …`, with PYTHON where one is given."""
        changes = {"PATH": f"{self.path}:{os.environ['PATH']}", "PIP_NO_INDEX": "1", "CROWDPERF_CORE": ""}
        changes |= {"PIP_FIND_LINKS": str(self.path), "PIP_CONFIG_FILE": os.devnull, "CROWDPERF_RANGES": ""}
        environment = {**os.environ, **changes, "PYTHON": str(python or "")}
        return subprocess.run(
            ["./crowdperf.sh", *words], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def setup(self, python: Path | None = None) -> str:
        """Set it up; return what the script printed."""
        done = self.run("setup", python=python)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def prefix(self) -> Path:
        """Where the interpreter of .venv comes from; it has to be there."""
        command = [self.venv / "bin" / "python", "-c", "import sys; print(sys.base_prefix)"]
        return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()).resolve()

    def stamp_of_old(self) -> None:
        """As the script wrote it when it looked at the requirements alone."""
        files = b"".join((self.folder / name).read_bytes() for name in REQUIREMENTS)
        self.stamp.write_bytes(
            subprocess.run(["cksum"], input=files, capture_output=True, check=True).stdout.split()[0]
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A new clone, not set up."""
    new = Checkout(tmp_path)
    new.create()
    return new


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a clone that is set up, and a copy of it. An environment works at its own path alone."""
    folder = tmp_path_factory.mktemp("ready")
    checkout = Checkout(folder)
    checkout.create()
    assert "making .venv" in checkout.setup()
    copy = tmp_path_factory.mktemp("master") / "copy"
    shutil.copytree(folder, copy, symlinks=True)
    return folder, copy


@pytest.fixture
def ready(master: tuple[Path, Path]) -> Checkout:
    """A clone that was set up; setting it up takes ten seconds, a copy half a second."""
    folder, copy = master
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    return Checkout(folder)


def interpreter(folder: Path) -> Path:
    """Another installation of this Python: its program, and its library by a link."""
    (folder / "bin").mkdir(parents=True)
    for name in ("lib", "lib64"):
        if (BASE / name).exists():
            (folder / name).symlink_to(BASE / name)
    return Path(shutil.copy(BASE / "bin" / VERSION, folder / "bin"))


def test_python_writes_utf_8_in_every_locale(ready: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0"), ("PYTHONUTF8", "0")):
        monkeypatch.setenv(name, value)
    (ready.folder / "crowdperf").mkdir()
    (ready.folder / "crowdperf" / "__main__.py").write_text("print('…')", encoding="utf-8")
    assert ready.run("run").stdout == "…\n"


def test_help_is_given_from_any_folder(checkout: Checkout) -> None:
    words = ["bash", f"{checkout.folder.name}/crowdperf.sh", "help"]
    done = subprocess.run(words, cwd=checkout.folder.parent, capture_output=True, text=True)
    assert done.stdout.startswith("crowdperf: "), done.stderr


def test_what_an_interruption_left_is_made_again(checkout: Checkout, tmp_path: Path) -> None:
    python = tmp_path / "interrupted"
    real = checkout.path / "python3"
    python.write_text(
        f"#!/bin/sh\ncase $2 in venv) {real} -m venv --without-pip .venv; touch .venv/left; kill -KILL $PPID;; esac\n"
        f'exec {real} "$@"\n'
    )
    python.chmod(0o700)
    assert checkout.run("setup", python=python).returncode < 0
    assert (checkout.venv / "left").exists()
    assert "making .venv" in checkout.setup()
    assert not (checkout.venv / "left").exists()
    assert checkout.setup() == ""


def test_packages_of_an_older_python_are_not_taken_for_this_ones(ready: Checkout) -> None:
    """A distribution's upgrade puts another version behind the link of .venv."""
    ready.packages.parent.rename(ready.packages.parent.with_name("python3.9"))
    ready.stamp_of_old()
    assert "making .venv" in ready.setup()
    assert (ready.packages / "crowdperf.pth").exists()


def test_requested_or_remaining_interpreter_is_used(ready: Checkout, tmp_path: Path) -> None:
    other = interpreter(tmp_path / "other")
    assert ready.prefix() == BASE
    ready.setup(python=other)
    assert ready.prefix() == tmp_path / "other"
    assert ready.setup() == ""
    assert ready.prefix() == tmp_path / "other"
    shutil.rmtree(tmp_path / "other")
    ready.setup()
    assert ready.prefix() == BASE


def test_a_clone_that_was_moved_leaves_no_path_behind(ready: Checkout) -> None:
    before = str(ready.folder)
    ready.folder = ready.folder.rename(ready.folder.with_name("moved"))
    ready.setup()
    assert (ready.packages / "crowdperf.pth").read_text().strip() == str(ready.folder)
    scripts = [path for path in (ready.venv / "bin").iterdir() if not path.is_symlink()]
    assert scripts
    assert [path.name for path in scripts if before in path.read_text()] == []


def test_changed_stamp_keeps_the_environment(ready: Checkout) -> None:
    ready.stamp_of_old()
    (ready.venv / "kept").touch()
    output = ready.setup()
    assert "installing" in output
    assert "making" not in output
    assert (ready.venv / "kept").exists()
    assert ready.setup() == ""


def build_wheel(folder: Path) -> str:
    """Write the package `thing` 1.0; return its lines of a lock."""
    file = folder / "thing-1.0-py3-none-any.whl"
    facts = "thing-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("thing.py", "")
        wheel.writestr(f"{facts}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{facts}/RECORD", "")
    return f"thing==1.0 \\\n    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


def test_only_a_package_with_the_hash_of_the_lock_is_installed(ready: Checkout) -> None:
    line = build_wheel(ready.path)
    lock, tools = ready.folder / "requirements.lock", ready.folder / "requirements-test.lock"
    tools.write_text(line.replace("thing", "tool"))
    lock.write_text(line[:-2] + ("0" if line[-2] != "0" else "1") + "\n")
    refused = ready.run("setup")
    assert (refused.returncode, "requirements.lock failed" in refused.stderr) == (2, True)
    assert not (ready.packages / "thing.py").exists()
    lock.write_text(line)
    ready.setup()
    assert (ready.packages / "thing.py").exists(), "and the tests' tools, which are not to be had, are not asked for"


def test_update_says_what_changes_and_asks(ready: Checkout) -> None:
    assert ready.run("update").returncode == 0
    (ready.folder / "requirements.lock").write_text(build_wheel(ready.path))
    (ready.folder / "crowdperf" / "cli").mkdir(parents=True)
    shutil.copy(ROOT / "crowdperf" / "cli" / "packages.py", ready.folder / "crowdperf" / "cli")
    source = importlib.util.find_spec("packaging")
    assert source
    shutil.copytree(Path(str(source.origin)).parent, ready.packages / "packaging")
    shown = ready.run("update")
    assert "thing (not installed) -> 1.0" in shown.stdout
    assert (shown.returncode, "--yes" in shown.stderr) == (2, True)
    assert not (ready.packages / "thing.py").exists()
    assert "thing (not installed) -> 1.0" in ready.run("update", "--yes").stdout
    assert (ready.packages / "thing.py").exists()
