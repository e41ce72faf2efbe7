"""`crowdperf check`: everything a site needs, looked at once, each finding with its remedy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from msgspec import Struct

from crowdperf import slices
from crowdperf.capture.probe import Probe, ring_of
from crowdperf.config import Config, load
from crowdperf.counting.usable import problems
from crowdperf.demo.scenes import SCENES
from crowdperf.events import permissions
from crowdperf.events.connection import OUTAGE, connect
from crowdperf.ffmpeg import FfmpegMissing, ffmpeg_binary
from crowdperf.inference.fetch import fetched, is_published
from crowdperf.inference.registry import ModelError, Role, resolve
from crowdperf.runtime import redact
from crowdperf.settings.base import ConfigError
from crowdperf.settings.camera import Camera
from crowdperf.settings.engine import Inference
from crowdperf.settings.environment import Environment, environment
from crowdperf.settings.paths import Paths
from crowdperf.settings.postgres import resolve_dsn
from crowdperf.settings.url import redacted
from crowdperf.slices import capture_slice, redis_url
from crowdperf.storage import migrations, postgres
from crowdperf.supervision.redis import server_binary

USUAL_FPS = 25.0


class Finding(Struct, frozen=True):
    """One line of the report."""

    ok: bool
    text: str


def main(config_file: Path, paths: Paths, root: Path) -> int:
    """Print every finding; status 1 when one of them is a problem."""
    failed = 0
    for finding in findings(config_file, paths, root):
        failed += not finding.ok
        print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {redact(finding.text)}")
    print("everything is in order" if not failed else f"{failed} problem{'s' if failed > 1 else ''}")
    return 1 if failed else 0


def findings(config_file: Path, paths: Paths, root: Path) -> Iterator[Finding]:
    """Look at one thing after the other; a problem with one never hides the next."""
    try:
        config, env = load(config_file), environment(os.environ)
        paths.check()
    except ConfigError as error:
        yield Finding(False, str(error))
        return
    yield Finding(True, f"configuration {config_file}: {len(config.cameras)} cameras")
    yield _attempt(lambda: f"FFmpeg {ffmpeg_binary()}")
    yield _redis(config, paths)
    if slices.postgres_dsn(config, env):
        yield _attempt(lambda: postgres_state(slices.postgres_dsn(config, env), root))
    yield _attempt(lambda: f"model {_model(config.inference, 'person', paths)}")
    if any(camera.ppe for camera in config.cameras):
        yield _attempt(lambda: f"PPE model {_model(config.inference, 'ppe', paths)}")
    yield _shared_memory(config, env, paths, root)
    yield from _secrets(config)
    for camera in config.cameras:
        yield _source(config, env, paths, root, camera.id)
        for problem in problems(camera.lines, camera.zones, _rate(config, env, camera)):
            yield Finding(False, f"camera {camera.id}: {problem.text}")


def _model(inference: Inference, role: Role, paths: Paths) -> str:
    """The file of a role's model; a published name that may be fetched need not be here yet.

    Raises:
        ModelError: it cannot be had.
    """
    name = inference.models.person if role == "person" else inference.models.ppe
    if is_published(name):
        if inference.downloads:
            return f"{name}, fetched when inference starts"
        name = str(fetched(name, paths.data / "cache", False))
    return str(resolve(name, role, "auto").path)


def _attempt(look: Callable[[], str]) -> Finding:
    try:
        return Finding(True, look())
    except (ConfigError, ModelError, FfmpegMissing) as error:
        return Finding(False, str(error))


def _redis(config: Config, paths: Paths) -> Finding:
    """The outside server answers and allows what is needed, or the embedded one can be started."""
    if not config.redis.url:
        return _attempt(lambda: f"embedded Redis {server_binary()}")
    shown = redacted(config.redis.url)
    client: Any = connect(redis_url(config, paths))
    try:
        lacking = permissions.missing(client, config.key_prefix)
        version = "" if "+info" in lacking else f" {client.info('server')['redis_version']}"
    except redis.AuthenticationError as error:
        return Finding(False, f"Redis at {shown} refuses its user: {error} Remedy: correct the login in redis.url.")
    except OUTAGE as error:
        return Finding(
            False,
            f"Redis at {shown} does not answer ({error}). Remedy: start it, or empty redis.url.",
        )
    except redis.ResponseError as error:
        return Finding(False, f"Redis at {shown} refuses: {error}. Remedy: correct redis.url.")
    if lacking:
        return Finding(
            False,
            f"Redis{version} at {shown} does not allow its user {' '.join(lacking)}. Remedy: ACL SETUSER <user> "
            f"{permissions.rule(config.key_prefix)} (docs/redis.md).",
        )
    return Finding(True, f"Redis{version} at {shown}")


def postgres_state(reference: str, root: Path) -> str:
    """What the copy in PostgreSQL is like.

    Raises:
        ConfigError: it does not answer, or lacks its tables.
    """
    dsn = resolve_dsn(reference, root)
    try:
        database = postgres.connect(dsn)
        left = migrations.pending(database, migrations.available())
        database.close()
    except (postgres.DatabaseAway, postgres.DatabaseRefuses) as error:
        raise ConfigError(f"PostgreSQL: {error}. Remedy: see that it runs, and postgres.dsn.") from None
    if left:
        raise ConfigError(f"PostgreSQL: {left[0].name} is not applied. Remedy: run `crowdperf migrate`.")
    return "PostgreSQL answers and has its tables"


def _shared_memory(config: Config, env: Environment, paths: Paths, root: Path) -> Finding:
    """Room in /dev/shm for every camera's ring, at 16:9 and the usual rate."""
    need = 0
    for camera in config.cameras:
        slice_ = capture_slice(config, env, paths, root, camera.id)
        width = slice_.analysis_width
        need += ring_of(slice_, Probe(width, width * 9 // 16, USUAL_FPS, False)).file_bytes
    room = shutil.disk_usage("/dev/shm").free
    text = f"/dev/shm: the rings need about {need / 2**20:.0f} MiB, {room / 2**20:.0f} MiB are free"
    if need > room:
        return Finding(False, f"{text}. Remedy: mount /dev/shm larger (Docker: --shm-size), or lower analysis_width.")
    return Finding(True, text)


def _rate(config: Config, env: Environment, camera: Camera) -> float:
    """Frames a second that are analysed of it."""
    return camera.target_fps or env.target_fps or config.target_fps


def _secrets(config: Config) -> Iterator[Finding]:
    """Every environment variable that an alert channel names is set here."""
    for channel in config.alerts.channels:
        for name in (getattr(channel, key, "") for key in ("url_env", "secret_env", "password_env")):
            if name and not os.environ.get(name):
                yield Finding(
                    False,
                    f"alert channel {channel.id}: environment variable {name} is not set. Remedy: set it where "
                    "crowdperf is started.",
                )


def _source(config: Config, env: Environment, paths: Paths, root: Path, camera_id: str) -> Finding:
    """A file exists; a stream is only named, since asking it would take its time-out."""
    slice_ = capture_slice(config, env, paths, root, camera_id)
    shown = redacted(slice_.url)
    if urlsplit(slice_.url).scheme in ("", "file"):
        file = root / slice_.url.removeprefix("file://")
        if not file.is_file() and file.parent == root / "var" / "demo" and file.stem in SCENES:
            return Finding(True, f"camera {camera_id}: {shown}, which the first `crowdperf run` renders")
        if not file.is_file():
            return Finding(False, f"camera {camera_id}: no file {str(file)!r}. Remedy: correct cameras[].url.")
    return Finding(True, f"camera {camera_id}: {shown}")
