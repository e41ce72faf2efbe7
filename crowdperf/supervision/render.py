"""supervisord's generated include file: one stanza per program of the present configuration."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from crowdperf.config import Config, load
from crowdperf.settings import handover
from crowdperf.settings.choice import get_selection
from crowdperf.settings.environment import POSTGRES_DSN, Environment, read_environment
from crowdperf.settings.paths import Paths
from crowdperf.slices import build_web_config, get_reloadable
from crowdperf.supervision.groups import GroupAssignment
from crowdperf.supervision.groups import load_groups as load_groups
from crowdperf.supervision.groups import save_groups as store_groups
from crowdperf.supervision.programs import Program, build_programs, group_cameras

HEADER = (
    "; Rendered from crowdperf/processes.py and config.json. Do not edit: the next supervisorctl call writes it anew.\n"
)
PYTHON = ".venv/bin/python"
"""From the installation's folder, which supervisord runs in."""
RECORDED_VARIABLES = ("TARGET_FPS", "QUEUE_MAX", "RTSP_STIMEOUT_USEC", "FFMPEG_EXTRA_FLAGS", "CUDA_EMPTY_EVERY")


def render_program(program: Program, paths: Paths, root: Path, python: str) -> str:
    """The `[program:x]` section. The digest rides in the environment, where a change makes supervisord restart it."""
    row = program.process
    settings = {
        "command": shlex.join([python, "-m", "crowdperf.start", *program.arguments]),
        "environment": f'CROWDPERF_SLICE="{program.digest}"',
        "autostart": "true",
        "autorestart": "true",
        # startsecs=1 would read a crash loop as RUNNING.
        "startsecs": "5",
        # supervisord waits one second more each time, so ten tries are a minute; then the guard takes over.
        "startretries": "10",
        "stopwaitsecs": str(row.stop_s),
        "stopasgroup": "true",
        "killasgroup": "true",
        "priority": str(row.priority),
        "redirect_stderr": "true",
        "stdout_logfile": _get_log_path(paths, root, program.name).replace(
            "%", "%%"
        ),  # expanded once more than the others
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }
    lines = [f"[program:{program.name}]", *(f"{key}={value.replace('%', '%%')}" for key, value in settings.items())]
    return "\n".join(lines) + "\n"


def _get_log_path(paths: Paths, root: Path, name: str) -> str:
    """The program's log: from the installation's folder, so that no character of that stands in the file."""
    log = paths.logs.absolute() / f"{name}.log"
    return str(log.relative_to(root)) if log.is_relative_to(root) else str(log)


def render(
    config: Config, env: Environment, paths: Paths, root: Path, python: str, groups: GroupAssignment | None = None
) -> str:
    """The whole include file."""
    rows = build_programs(config, env, paths, root, groups)
    return HEADER + "\n" + "\n".join(render_program(row, paths, root, python) for row in rows)


def write_include_file(config: Config, env: Environment, paths: Paths, root: Path) -> bool:
    """Write the include file by an atomic rename; False when it already said the same."""
    groups = group_cameras(config, load_groups(paths))
    handover.write_reload_file(paths.model_selection_file, get_selection(config.inference))
    handover.write_reload_file(paths.web_reload_file, get_reloadable(build_web_config(config, paths)))
    text = render(config, env, paths, root, PYTHON if (root / PYTHON).exists() else sys.executable, groups)
    store_groups(paths, groups)
    target = paths.data / "supervisor" / "programs.conf"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    fresh = target.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(target)
    return True


def record_environment(paths: Paths, variables: Mapping[str, str]) -> None:
    """Keep the documented variables that supervisord, and so every program, was started with.

    supervisorctl may be called from another shell: what it renders has to fit the programs' environment, not its own.
    """
    folder = paths.data / "supervisor"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: variables[name] for name in RECORDED_VARIABLES if name in variables}
    if variables.get(POSTGRES_DSN, "").strip():
        # Its value is a secret, and the programs have it in their environment: what matters here is that it is set.
        kept[POSTGRES_DSN] = "set"
    kept["CROWDPERF_CONFIG"] = variables.get("CROWDPERF_CONFIG", "config.json")
    (folder / "environment.json").write_bytes(msgspec.json.encode(kept))


def load_recorded_environment(paths: Paths) -> dict[str, str]:
    """What `record_environment` kept; the present environment where nothing was."""
    try:
        raw = (paths.data / "supervisor" / "environment.json").read_bytes()
    except FileNotFoundError:
        return dict(os.environ)
    return msgspec.json.decode(raw, type=dict[str, str])


def refresh(root: Path) -> bool:
    """Bring the include file of the installation at `root` in line with its configuration file.

    Raises:
        ConfigError: the configuration is invalid; the include file stays as it was.
    """
    paths = Paths(root / "var")
    variables = load_recorded_environment(paths)
    config = load(root / variables.get("CROWDPERF_CONFIG", "config.json"))
    return write_include_file(config, read_environment(variables), paths, root)
