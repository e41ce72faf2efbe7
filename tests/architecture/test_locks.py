"""The locks fit the ranges, hold a hash of every file and no registry, and the bill of materials is theirs."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from crowdperf.cli.packages import get_version, read_lock
from tests.conftest import ROOT
from tests.support import dependencies
from tests.support.dependencies import RANGES, SBOM, build_sbom, get_first, read_lock_file

REMEDY = "remedy: ./crowdperf.sh lock"
PYTHONS = ("3.10.0", "3.11.7", "3.12.1", "3.13.0")
TOOLS = ("hypothesis", "mypy", "onnx", "pip-audit", "playwright", "pytest", "ruff", "schemathesis")
each_lock = pytest.mark.parametrize("name", RANGES)


def read_versions(name: str, python: str) -> dict[str, str]:
    """Read the versions that a lock gives to a Linux machine with that Python."""
    rows: dict[str, str] = {}
    machine = {"python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": "linux"}
    for row in read_lock(read_lock_file(name)):
        if row.marker is None or row.marker.evaluate(machine):
            assert row.name not in rows, f"{row.name} twice on Python {python}"
            rows[row.name] = get_version(row)
    return rows


def read_ranges(name: str) -> list[Requirement]:
    lines = (ROOT / RANGES[name]).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


@each_lock
@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_a_version_in_every_range(name: str, python: str) -> None:
    locked = read_versions(name, python)
    missing = [
        str(row) for row in read_ranges(name) if locked.get(canonicalize_name(row.name), "0") not in row.specifier
    ]
    assert missing == [], REMEDY


@each_lock
def test_every_package_has_a_hash_and_none_an_address(name: str) -> None:
    text = read_lock_file(name)
    blocks = re.split(r"\n(?=\w)", text.strip())
    assert len(blocks) > 40
    assert [block for block in blocks if "--hash=sha256:" not in block] == []
    assert re.findall(r"https?:|file:|--(?:extra-)?index|--find-links", text) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_agree(python: str) -> None:
    core, full, test = (read_versions(name, python) for name in RANGES)
    assert core.items() <= full.items(), REMEDY
    assert {name: (full[name], test[name]) for name in full.keys() & test.keys() if full[name] != test[name]} == {}


def test_site_gets_none_of_the_tests_tools() -> None:
    full, test = read_versions("full", PYTHONS[1]), read_versions("test", PYTHONS[1])
    assert [name for name in TOOLS if name in full or name not in test] == []


def test_bill_of_materials_is_current() -> None:
    assert SBOM.read_text(encoding="utf-8") == build_sbom(), REMEDY


def test_first_package_is_cut_with_its_hashes() -> None:
    first = get_first(read_lock_file("full"))
    assert first.count("==") == 1
    assert "--hash=" in first
    assert not first.rstrip().endswith("\\")


FOUND = {"id": "PYSEC-1", "fix_versions": ["2.26.0"]}


@pytest.mark.parametrize(
    ("rows", "status", "text"),
    [
        (None, 0, "NOT CHECKED"),
        ([{"name": "litestar", "version": "2.25.0", "vulns": []}], 0, "checked 1 packages"),
        ([{"name": "litestar", "version": "2.25.0", "vulns": [FOUND]}], 1, "PYSEC-1, mended in 2.26.0"),
        ([{"name": "litestar", "version": "2.25.0", "vulns": [FOUND | {"fix_versions": []}]}], 0, "no version yet"),
    ],
)
def test_advisories_fail_only_for_what_an_update_mends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, object]] | None,
    status: int,
    text: str,
) -> None:
    monkeypatch.setattr(dependencies, "find_vulnerabilities", lambda _lock: rows)
    assert dependencies.report_advisories() == status
    assert text in capsys.readouterr().out
