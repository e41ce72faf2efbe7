"""Check everything that a site needs and name the remedy of each problem: `crowdperf check`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from msgspec import Struct

from crowdperf.capture.probe import SourceInfo, build_ring_spec
from crowdperf.counting.validation import find_problems
from crowdperf.demo.scenes import SCENES
from crowdperf.messaging.redis import acl
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.site_owner import find_site_owner, read_owner
from crowdperf.models.loader import download_weights, is_published
from crowdperf.models.registry import ModelError, Role, resolve_model
from crowdperf.primitives.redaction import redact, redact_config, redact_url
from crowdperf.runtime.control_group import find_usable_cores
from crowdperf.runtime.ffmpeg_binary import FfmpegMissing, find_ffmpeg
from crowdperf.settings.base import ConfigError, is_loopback
from crowdperf.settings.camera import Camera
from crowdperf.settings.config import Config, Deployment, Installation, build_json_schema
from crowdperf.settings.process_config import build_capture_config
from crowdperf.settings.site import resolve_dsn
from crowdperf.storage.postgres import driver, migrations
from crowdperf.supervision.embedded_redis import find_server_binary
from crowdperf.supervision.process_tree import find_setpriv

TYPICAL_FPS = 25.0
"""Assumed rate of a camera that has not been opened."""


class Finding(Struct, frozen=True):
    """One line of the report."""

    ok: bool
    text: str


def main(words: list[str], installation: Installation) -> int:
    """Run `crowdperf check`: print every finding; the status is 1 when one of them is a problem."""
    argparse.ArgumentParser(prog="crowdperf check", description="Check what this site needs.").parse_args(words)
    failed = 0
    for finding in collect_findings(installation):
        failed += not finding.ok
        print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {redact(finding.text)}")
    print("everything is in order" if not failed else f"{failed} problem{'s' if failed > 1 else ''}")
    return 1 if failed else 0


def print_schema(words: list[str], _installation: Installation) -> int:
    """Run `crowdperf schema`: print the JSON Schema of config.json."""
    parser = argparse.ArgumentParser(prog="crowdperf schema", description="Print the JSON Schema of config.json.")
    parser.parse_args(words)
    print(json.dumps(build_json_schema(), indent=2))
    return 0


def collect_findings(installation: Installation) -> Iterator[Finding]:
    """Yield one finding per checked part; a problem never hides the next one."""
    try:
        deployment = installation.load()
        installation.paths.check_socket_length()
    except ConfigError as error:
        yield Finding(False, str(error))
        return
    config = deployment.config
    read_only = "" if os.access(installation.config_file, os.W_OK) else ", which this user cannot change"
    yield Finding(True, f"configuration {installation.config_file}{read_only}: {len(config.cameras)} cameras")
    yield _check_cores(config.inference.threads)
    yield _run_check(lambda: f"FFmpeg {find_ffmpeg()}")
    setpriv = find_setpriv()
    yield Finding(True, f"setpriv {setpriv}" if setpriv else "no setpriv with --pdeathsig: FFmpeg starts another way")
    yield _check_redis(deployment)
    if deployment.postgres_dsn:
        yield _run_check(lambda: check_postgres(deployment.postgres_dsn, deployment.root))
    yield _run_check(lambda: f"model {_find_model(deployment, 'person')}")
    if any(camera.ppe for camera in config.cameras):
        yield _run_check(lambda: f"PPE model {_find_model(deployment, 'ppe')}")
    yield _check_shared_memory(deployment)
    yield from _check_secrets(config)
    yield from check_config_mode(installation.config_file)
    yield from check_exposure(config)
    for camera in config.cameras:
        yield _check_source(deployment.root, camera)
        for problem in find_problems(camera.lines, camera.zones, deployment.get_target_fps(camera)):
            yield Finding(False, f"camera {camera.id}: {problem.text}")


def _find_model(deployment: Deployment, role: Role) -> str:
    """Find the file of a role's model; published weights may be downloaded later."""
    inference = deployment.config.inference
    name = inference.models.person if role == "person" else inference.models.ppe
    if is_published(name):
        if inference.downloads:
            return f"{name}, fetched when inference starts"
        name = str(download_weights(name, deployment.paths.data / "cache", False))
    return str(resolve_model(name, role, "auto").path)


def _run_check(check: Callable[[], str]) -> Finding:
    try:
        return Finding(True, check())
    except (ConfigError, ModelError, FfmpegMissing) as error:
        return Finding(False, str(error))


def _check_cores(threads: int) -> Finding:
    """Report the cores that inference may use, and a number of threads that is larger."""
    cores = find_usable_cores()
    if threads > cores.whole:
        return Finding(
            False,
            f"inference.threads is {threads}, {cores.description}. Remedy: set inference.threads to 0, or allow more "
            "cores (Docker: --cpus, systemd: CPUQuota=).",
        )
    return Finding(True, f"processor, {cores.description}")


def _check_redis(deployment: Deployment) -> Finding:
    """Check that the external server answers and permits enough, or that the embedded one can start."""
    config = deployment.config
    if not config.redis.url:
        return _run_check(lambda: f"embedded Redis {find_server_binary()}")
    shown = redact_url(config.redis.url)
    client: Any = connect(deployment.redis_url)
    try:
        missing = acl.find_missing_permissions(client, config.key_prefix)
        version = "" if "+info" in missing else f" {client.info('server')['redis_version']}"
    except redis.AuthenticationError as error:
        return Finding(False, f"Redis at {shown} refuses its user: {error} Remedy: correct the login in redis.url.")
    except OUTAGE as error:
        return Finding(False, f"Redis at {shown} does not answer ({error}). Remedy: start it, or empty redis.url.")
    except redis.ResponseError as error:
        return Finding(False, f"Redis at {shown} refuses: {error}. Remedy: correct redis.url.")
    if missing:
        return Finding(
            False,
            f"Redis{version} at {shown} does not allow its user {' '.join(missing)}. Remedy: ACL SETUSER <user> "
            f"{acl.build_acl_rules(config.key_prefix)} (docs/redis.md).",
        )
    owner, own = read_owner(client, config.key_prefix), None
    with contextlib.suppress(OSError):  # Without a data folder, or with that of another user, it is another one.
        # The check creates nothing: run by another user, it would leave a file that the site cannot read.
        if deployment.paths.installation_file.exists():
            own = find_site_owner(deployment.paths.installation_file)
    if owner is not None and owner != own:
        return Finding(False, f"Redis{version} at {shown}: {owner.describe_conflict(config.key_prefix)}")
    return Finding(True, f"Redis{version} at {shown}")


def check_postgres(reference: str, root: Path) -> str:
    """Describe the state of the copy in PostgreSQL; raise ConfigError for a problem."""
    dsn = resolve_dsn(reference, root)
    try:
        database = driver.connect(dsn)
        pending = migrations.list_pending(database, migrations.list_migrations())
        database.close()
    except (driver.DatabaseUnavailableError, driver.DatabaseRejectedError) as error:
        raise ConfigError(f"PostgreSQL: {error}. Remedy: see that it runs, and postgres.dsn.") from None
    if pending:
        raise ConfigError(f"PostgreSQL: {pending[0].name} is not applied. Remedy: run `crowdperf migrate`.")
    return "PostgreSQL answers and has its tables"


def _check_shared_memory(deployment: Deployment) -> Finding:
    """Compare the free space in /dev/shm with the size of all rings, at 16:9 and the typical rate."""
    needed = 0
    for camera in deployment.config.cameras:
        capture = build_capture_config(deployment, camera.id)
        width = capture.analysis_width
        needed += build_ring_spec(capture, SourceInfo(width, width * 9 // 16, TYPICAL_FPS, False)).file_bytes
    free = shutil.disk_usage("/dev/shm").free
    text = f"/dev/shm: the rings need about {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free"
    if needed > free:
        return Finding(False, f"{text}. Remedy: mount /dev/shm larger (Docker: --shm-size), or lower analysis_width.")
    return Finding(True, text)


def _check_secrets(config: Config) -> Iterator[Finding]:
    """Report environment variables that an alert channel names and that are not set here."""
    for channel in config.alerts.channels:
        for name in (getattr(channel, key, "") for key in ("url_env", "secret_env", "password_env")):
            if name and not os.environ.get(name):
                yield Finding(
                    False,
                    f"alert channel {channel.id}: environment variable {name} is not set. Remedy: set it where "
                    "crowdperf is started.",
                )


def check_config_mode(config_file: Path) -> Iterator[Finding]:
    """Report a configuration with credentials that other users of the machine can read."""
    if stat.S_IMODE(config_file.stat().st_mode) & 0o077:
        document = json.loads(config_file.read_bytes())
        if redact_config(document) != document:
            yield Finding(
                False,
                f"{config_file} holds credentials and other users of this machine can read it. "
                f"Remedy: chmod 600 {config_file}",
            )


def check_exposure(config: Config) -> Iterator[Finding]:
    """Report connections over a network that others can read: the dashboard's, and that to Redis."""
    web = config.web
    if not is_loopback(web.host) and not web.ssl_certfile and not web.trusted_proxies:
        yield Finding(
            False,
            f"web.host {web.host!r} serves passwords and pictures to a network without TLS. Remedy: set "
            "web.ssl_certfile and web.ssl_keyfile, or name the proxy with the certificate in web.trusted_proxies.",
        )
    url = urlsplit(config.redis.url)
    if url.scheme != "redis" or is_loopback(url.hostname or "localhost"):
        return
    missing = "TLS" if url.password else "password and TLS"
    yield Finding(
        False,
        f"redis.url {redact_url(config.redis.url)} leads to another machine without {missing}. Remedy: write "
        "rediss:// with a user and its password, or use a network that nobody else reaches.",
    )


def _check_source(root: Path, camera: Camera) -> Finding:
    """Check that a file exists; streams are not opened, since that could take their time-out."""
    shown = redact_url(camera.url)
    if urlsplit(camera.url).scheme in ("", "file"):
        file = root / camera.url.removeprefix("file://")
        if not file.is_file() and file.parent == root / "var" / "demo" and file.stem in SCENES:
            return Finding(True, f"camera {camera.id}: {shown}, which the first `crowdperf run` renders")
        if not file.is_file():
            return Finding(False, f"camera {camera.id}: no file {str(file)!r}. Remedy: correct cameras[].url.")
    return Finding(True, f"camera {camera.id}: {shown}")
