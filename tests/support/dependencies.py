"""The locked packages: write the locks and the bill of materials, and look up known vulnerabilities.

`./crowdperf.sh lock` and `./crowdperf.sh advisories` run it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from crowdperf.cli.packages import get_version, read_lock
from tests.conftest import ROOT

RANGES = {"core": "requirements-core.txt", "full": "requirements.txt", "test": "requirements-test.txt"}
"""The ranges that each lock is made of; the lock lies beside them."""
SBOM = ROOT / "docs" / "sbom.json"
OLDEST_PYTHON = "3.10"
SECONDS = 120
"""Longest time that the advisories are waited for."""


def write_locks(upgrade: bool) -> None:
    """Write the locks, with one version of a package for all of them. Without `upgrade` the old versions stay."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.constraint"]
    # A machine may cap what pip installs: a lock beyond it could not be installed there.
    cap = subprocess.run(pip, capture_output=True, text=True).stdout.split()
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder, "everything.txt")
        if not upgrade:
            everything.write_text("".join(read_lock_file(name) for name in ("full", "test")))
        compile_lock(everything, *RANGES.values(), *(word for path in cap for word in ("--constraint", path)))
        for name, ranges in RANGES.items():
            lock = get_lock_path(name)
            lock.unlink(missing_ok=True)
            compile_lock(lock, ranges, "--constraint", str(everything))
    SBOM.write_text(build_sbom(), encoding="utf-8")


def compile_lock(output: Path, *words: str) -> None:
    """Have uv write one lock, for every interpreter and platform, without the address of a registry."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--generate-hashes",
        "--no-header",
    ]
    command += ["--no-annotate", "--python-version", OLDEST_PYTHON, "--output-file", str(output), *words]
    subprocess.run(command, cwd=ROOT, check=True)


def get_lock_path(name: str) -> Path:
    """Return where a lock lies."""
    return (ROOT / RANGES[name]).with_suffix(".lock")


def read_lock_file(name: str) -> str:
    """Read a lock; empty while there is none."""
    path = get_lock_path(name)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def build_sbom() -> str:
    """Build the bill of materials of a site (CycloneDX 1.6): every package that the full lock can install."""
    components = []
    for row in read_lock(read_lock_file("full")):
        url = f"pkg:pypi/{row.name}@{get_version(row)}"
        component: dict[str, Any] = {"type": "library", "bom-ref": url, "name": row.name, "version": get_version(row)}
        component["purl"] = url
        if row.marker:
            component["properties"] = [{"name": "python:marker", "value": str(row.marker)}]
        components.append(component)
    site = {"type": "application", "bom-ref": "crowdperf", "name": "crowdperf"}
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return json.dumps({**bill, "metadata": {"component": site}, "components": components}, indent=1) + "\n"


def find_vulnerabilities(lock: str) -> list[dict[str, Any]] | None:
    """Look up the vulnerabilities of a lock's packages; None where the advisories cannot be had."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(lock)
        file.flush()
        try:
            done = subprocess.run(
                [*command, "--format", "json", "--requirement", file.name],
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            rows: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, json.JSONDecodeError):
            return None
    # A registry that serves packages only knows no package's advisories.
    return [row for row in rows if "skip_reason" not in row] or None


def report_advisories() -> int:
    """Print what is known about the locked packages; return 1 for a vulnerability that a newer version mends."""
    lock = read_lock_file("full")
    rows = find_vulnerabilities(lock) if find_vulnerabilities(get_first(lock)) else None
    if rows is None:
        print("advisories: NOT CHECKED, because this machine's registry has none, or cannot be reached")
        return 0
    status = 0
    for row in rows:
        for found in row["vulns"]:
            mended = ", ".join(found["fix_versions"])
            status |= bool(mended)
            print(f"advisories: {row['name']} {row['version']}: {found['id']}, mended in {mended or 'no version yet'}")
    print(f"advisories: checked {len(rows)} packages")
    return status


def get_first(lock: str) -> str:
    """Return the first package of a lock with its hashes: enough to see whether there are advisories."""
    lines = lock.splitlines(keepends=True)
    end = next(at for at, line in enumerate(lines) if not line.rstrip().endswith("\\"))
    return "".join(lines[: end + 1])


if __name__ == "__main__":
    if sys.argv[1] == "lock":
        write_locks(upgrade="--upgrade" in sys.argv)
    else:
        sys.exit(report_advisories())
