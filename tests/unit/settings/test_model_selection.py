"""Another choice of models: the running process reads it from a file, and supervisord restarts nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crowdperf.settings import reload
from crowdperf.settings.config import Config, Deployment, parse
from crowdperf.settings.engine import Inference, Models, ModelSelection, get_selection
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.reload import ReloadFile
from crowdperf.supervision import programs
from crowdperf.supervision.programs import build_programs


def site(**inference: Any) -> Config:
    return parse(json.dumps({"inference": inference}).encode())


def digest(config: Config, tmp_path: Path) -> str:
    rows = build_programs(Deployment(config, Paths(tmp_path), read_environment({}), tmp_path))
    return next(row.digest for row in rows if row.name == "inference")


@pytest.mark.parametrize(
    "change",
    [
        {"models": {"person": "./best.pt"}},
        {"models": {"ppe": "./ppe.pt"}},
        {"labels": {"ppe": {"Helmet": "hardhat"}}},
        {"precision": "int8"},
    ],
)
def test_a_new_model_reaches_the_process_without_a_restart(change: dict[str, Any], tmp_path: Path) -> None:
    before, after = site(), site(**change)
    assert digest(before, tmp_path) == digest(after, tmp_path)
    paths = Paths(tmp_path)
    programs.write_include_file(Deployment(before, paths, read_environment({}), tmp_path))
    process = ReloadFile(paths.model_selection_file, ModelSelection)
    assert not programs.write_include_file(Deployment(before, paths, read_environment({}), tmp_path))
    assert process.read_if_changed() is None
    programs.write_include_file(Deployment(after, paths, read_environment({}), tmp_path))
    assert process.read_if_changed() == get_selection(after.inference)
    assert process.read_if_changed() is None, "once"


@pytest.mark.parametrize("change", [{"device": "cpu"}, {"threads": 1}, {"confidence": 0.2}])
def test_a_setting_that_cannot_reload_restarts_inference(change: dict[str, Any], tmp_path: Path) -> None:
    assert digest(site(), tmp_path) != digest(site(**change), tmp_path)


def test_an_unreadable_reload_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    process = ReloadFile(path, ModelSelection)
    assert process.read_if_changed() is None
    path.write_text("{")
    assert process.read_if_changed() is None
    reload.write_reload_file(path, get_selection(Inference(models=Models(person="./best.pt"))))
    found = process.read_if_changed()
    assert found is not None
    assert found.models.person == "./best.pt"
    path.unlink()
    assert process.read_if_changed() is None
