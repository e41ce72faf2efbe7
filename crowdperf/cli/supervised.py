"""Run one process of the process table, as supervisord starts it."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from typing import Any

from crowdperf.messaging import process_metrics
from crowdperf.messaging.site_owner import claim_site, find_site_owner
from crowdperf.runtime.process_runtime import ProcessRuntime, log_to_stderr
from crowdperf.settings import process_config
from crowdperf.settings.config import Installation
from crowdperf.settings.worker_config import build_worker_config
from crowdperf.supervision.processes import PROCESSES, get_process

log = logging.getLogger("crowdperf")


def run_capture(words: list[str], installation: Installation) -> int:
    """Run `crowdperf capture`: one camera or a group of them."""
    parser = _build_parser("capture")
    parser.add_argument("cameras", nargs="+", metavar="camera")
    parser.add_argument("--name", default="", help="the group's name; default: capture-<camera>")
    arguments = parser.parse_args(words)
    deployment = installation.load()
    name = arguments.name or f"capture-{arguments.cameras[0]}"
    group = process_config.build_capture_group_config(deployment, name, arguments.cameras)
    if not group.cameras:
        # Raises an error that names the camera and lists the known ones.
        deployment.config.get_camera(arguments.cameras[0])
    return _run("capture", name, group, installation)


def run_inference(words: list[str], installation: Installation) -> int:
    """Run `crowdperf inference`."""
    _build_parser("inference").parse_args(words)
    config = process_config.build_inference_config(installation.load())
    return _run("inference", "inference", config, installation)


def run_tracking(words: list[str], installation: Installation) -> int:
    """Run `crowdperf tracking`: one shard."""
    parser = _build_parser("tracking")
    parser.add_argument("shard", type=int)
    shard = parser.parse_args(words).shard
    config = process_config.build_tracking_config(installation.load(), shard)
    return _run("tracking", f"tracking-{shard}", config, installation)


def run_worker(words: list[str], installation: Installation) -> int:
    """Run `crowdperf worker`: one instance of a role."""
    roles = [row.kind.removeprefix("worker-") for row in PROCESSES if row.kind.startswith("worker-")]
    parser = _build_parser("worker")
    parser.add_argument("role", choices=roles)
    parser.add_argument("instance", type=int, nargs="?", default=0)
    arguments = parser.parse_args(words)
    kind = f"worker-{arguments.role}"
    name = f"{kind}-{arguments.instance}" if get_process(kind).instances == "worker" else kind
    config = build_worker_config(installation.load(), arguments.role, arguments.instance)
    return _run(kind, name, config, installation)


def run_web(words: list[str], installation: Installation) -> int:
    """Run `crowdperf web`."""
    _build_parser("web").parse_args(words)
    return _run("web", "web", process_config.build_web_config(installation.load()), installation)


def run_redis(words: list[str], installation: Installation) -> int:
    """Run `crowdperf redis`: replace this process with the embedded server."""
    _build_parser("redis").parse_args(words)
    memory_mb = installation.load().config.redis.memory_mb
    importlib.import_module("crowdperf.supervision.embedded_redis").replace_process(installation.paths, memory_mb)
    return 0


def run_guard(words: list[str], installation: Installation) -> int:
    """Run `crowdperf guard`: the event listener that restarts failed programs."""
    _build_parser("guard").parse_args(words)
    log_to_stderr("guard")
    importlib.import_module("crowdperf.supervision.control").restart_failed_programs(installation.paths)
    return 0


def _build_parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"crowdperf {command}", description=f"Run the {command} process, as supervisord does."
    )


def _run(kind: str, name: str, config: Any, installation: Installation) -> int:
    """Set up priority, log, runtime and metrics, then call the entry of the process table."""
    row = get_process(kind)
    # Before anything else is imported: a restarting web process must not delay frames.
    os.nice(row.nice)
    log_to_stderr(name)
    installation.paths.sockets.mkdir(parents=True, exist_ok=True)
    runtime = ProcessRuntime(name, row.max_silence_s)
    runtime.install()
    claim = None
    # The embedded Redis is this installation's own.
    if config.redis_url != installation.paths.redis_url:
        claim = claim_site(
            runtime, config.redis_url, find_site_owner(installation.paths.installation_file), config.key_prefix
        )
        if claim is None:
            return 0
        # The claim has its own client, which has to see another site's record. All others come later.
        claim.guard_connections()
    process_metrics.start_publishing(runtime, config.redis_url, config.key_prefix, claim)
    log.info("started, pid %d", os.getpid())
    module, _, function = row.entry.partition(":")
    getattr(importlib.import_module(module), function)(config, runtime)
    runtime.finish()
    log.info("stopped")
    return 0
