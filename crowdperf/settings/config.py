"""The configuration file: frozen Structs and their validation.

The command line loads it; `web.app` does so when uvicorn is started by hand. Each process then works on its own frozen
part (`process_config`). A change reaches it by a restart or by a reload file. Precedence: camera > environment variable
> global setting > default.
"""

from __future__ import annotations

import os
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from crowdperf.settings import base
from crowdperf.settings.alerts import Alerts, validate_alerts
from crowdperf.settings.areas import Area, validate_areas
from crowdperf.settings.base import CameraId, ConfigError, Fps, Seconds, Settings
from crowdperf.settings.camera import Camera
from crowdperf.settings.engine import Inference, Tracking
from crowdperf.settings.environment import Environment, Paths, read_environment
from crowdperf.settings.ppe import Ppe, validate_ppe_rules
from crowdperf.settings.site import (
    SENTINEL_SCHEME,
    Postgres,
    Redis,
    Retention,
    Site,
    Web,
    Workers,
    parse_sentinel_url,
    validate_dsn,
)
from crowdperf.settings.visitors import Visitors, validate_entrances

STORAGE_BACKENDS = ("redis",)
DEFAULT_NODE = "local"
"""The node name of a site with one machine."""


class Config(Settings, frozen=True, kw_only=True):
    """The whole configuration file."""

    site: Site = field(default_factory=Site)
    node: CameraId = DEFAULT_NODE
    storage_backend: str = "redis"
    redis: Redis = field(default_factory=Redis)
    postgres: Postgres = field(default_factory=Postgres)
    media_roots: list[str] = field(default_factory=lambda: ["var/demo"])
    """Local files are read only below these folders (relative to the config file)."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Camera hosts that are allowed although they are link-local or metadata addresses."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    ffmpeg_flags: str = ""
    pix_fmt: Literal["yuv420p", "bgr24"] = "yuv420p"
    analysis_width: Annotated[int, Meta(ge=160, le=3840)] = 640
    target_fps: Fps = 10.0
    frame_skip: Annotated[int, Meta(ge=0, le=1000)] = 0
    queue_max: Annotated[int, Meta(ge=1, le=64)] = 2
    stall_s: Seconds = 20.0
    cameras_per_process: Annotated[int, Meta(ge=1, le=64)] = 1
    """Above 1, groups of cameras share a capture process, `capture-group-<n>`: less memory, less isolation."""
    inference: Inference = field(default_factory=Inference)
    ppe: Ppe = field(default_factory=Ppe)
    tracking: Tracking = field(default_factory=Tracking)
    retention: Retention = field(default_factory=Retention)
    web: Web = field(default_factory=Web)
    workers: Workers = field(default_factory=Workers)
    alerts: Alerts = field(default_factory=Alerts)
    visitors: Visitors = field(default_factory=Visitors)
    cameras: list[Camera] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)

    @property
    def key_prefix(self) -> str:
        """Prefix of every Redis key: the configured one, then the node's name.

        So several nodes can share a Redis. The default node adds none: a site of one machine reads `person_logs`.
        """
        return self.redis.key_prefix + ("" if self.node == DEFAULT_NODE else f"{self.node}:")

    def get_camera(self, camera_id: str) -> Camera:
        """Return the camera with that id, or raise ConfigError."""
        for camera in self.cameras:
            if camera.id == camera_id:
                return camera
        known = ", ".join(camera.id for camera in self.cameras) or "none"
        raise ConfigError(f"camera {camera_id!r} is not in the configuration (known: {known})")


def build_json_schema() -> dict[str, Any]:
    """Build the JSON Schema of the configuration file."""
    return msgspec.json.schema(Config)


def parse(text: bytes, source: str = "config.json") -> Config:
    """Decode and validate a configuration.

    Raises:
        ConfigError: Not JSON, an unknown key, a value out of range, or a reference that does not fit.
    """
    try:
        config = msgspec.json.decode(text, type=Config)
    except msgspec.ValidationError as error:
        remedy = "" if "Remedy: " in str(error) else ". Remedy: correct that key; `crowdperf schema` lists all of them."
        raise ConfigError(f"{source}: {error}{remedy}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source} is not valid JSON: {error}. Remedy: correct the syntax there.") from None
    try:
        _validate_config(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


def load(path: Path) -> Config:
    """Read and validate the file at `path`, or raise ConfigError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {str(path)!r}: {error.strerror}. "
            "Remedy: set CROWDPERF_CONFIG to the file, or start in its folder."
        ) from None
    return parse(text, str(path))


class Deployment(Struct, frozen=True):
    """What the configurations of processes are built from: the whole one, variables and files."""

    config: Config
    paths: Paths
    env: Environment = Environment()
    root: Path = Path()
    """Folder of relative file names."""

    @property
    def redis_url(self) -> str:
        """Redis URL that every process uses."""
        return self.config.redis.url or self.paths.redis_url

    @property
    def postgres_dsn(self) -> str:
        """PostgreSQL DSN (a reference or a URL), or "". The environment variable has precedence."""
        return self.env.postgres_dsn or self.config.postgres.dsn

    @property
    def media_roots(self) -> tuple[str, ...]:
        """Absolute folders below which local files may be read."""
        return tuple(str((self.root / folder).resolve()) for folder in self.config.media_roots)

    def get_target_fps(self, camera: Camera) -> float:
        """Return the camera's target frame rate."""
        return camera.target_fps or self.env.target_fps or self.config.target_fps


class Installation:
    """The files that a command works on: the folder, `CROWDPERF_CONFIG` and `CROWDPERF_DATA`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path.cwd()
        self.paths = Paths(self.root / os.environ.get("CROWDPERF_DATA", "var"))
        self.config_file = self.root / os.environ.get("CROWDPERF_CONFIG", "config.json")

    def load(self, config_file: Path | None = None) -> Deployment:
        """Read the environment variables and the configuration; raise ConfigError where one is invalid."""
        config = load(config_file or self.config_file)
        return Deployment(config, self.paths, read_environment(os.environ), self.root)


def _validate_config(config: Config) -> None:
    """Check the rules that the schema cannot express."""
    if config.storage_backend not in STORAGE_BACKENDS:
        raise ConfigError(
            f"storage_backend {config.storage_backend!r} is not supported. "
            f"Remedy: use one of: {', '.join(STORAGE_BACKENDS)}."
        )
    if config.site.timezone not in zoneinfo.available_timezones():
        raise ConfigError(
            f"site.timezone {config.site.timezone!r} is not a time zone. Remedy: use e.g. 'Europe/Berlin'."
        )
    if bool(config.web.ssl_certfile) != bool(config.web.ssl_keyfile):
        raise ConfigError("web.ssl_certfile and web.ssl_keyfile go together. Remedy: set both or neither.")
    if config.redis.url.startswith(SENTINEL_SCHEME):
        try:
            parse_sentinel_url(config.redis.url)
        except ValueError as error:
            raise ConfigError(
                f"redis.url: {error}. Remedy: write redis+sentinel://host1:26379,host2:26379/name/0."
            ) from None
    elif config.redis.url and not config.redis.url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError(
            f"redis.url must begin with redis://, rediss://, unix:// or redis+sentinel:// (it begins with "
            f"{config.redis.url.split(':', 1)[0]!r}). Remedy: correct it, or leave it empty for the embedded Redis."
        )
    for proxy in config.web.trusted_proxies:
        if not base.is_network(proxy):
            raise ConfigError(
                f"web.trusted_proxies holds {proxy!r}, which is not an address or network. "
                "Remedy: write it like '10.0.0.2' or '10.0.0.0/24'."
            )
    validate_dsn("postgres.dsn", config.postgres.dsn)
    camera_ids: set[str] = set()
    for index, camera in enumerate(config.cameras):
        where = f"$.cameras[{index}]"
        if camera.id in camera_ids:
            raise ConfigError(f"{where}: the id {camera.id!r} is used twice. Remedy: give each camera its own id.")
        camera_ids.add(camera.id)
        base.validate_camera_url(where, camera.url)
        for kind, shapes in (("lines", camera.lines), ("zones", camera.zones)):
            base.require_unique(f"{where}.{kind}", [shape.id for shape in shapes])
        for line in camera.lines:
            if line.p1 == line.p2:
                raise ConfigError(f"{where}: line {line.id!r} has no length (p1 equals p2). Remedy: move one end.")
        validate_ppe_rules(where, camera.ppe, {zone.id for zone in camera.zones})
    validate_alerts(config.alerts, config.cameras)
    areas = {area.id for area in config.areas}
    base.require_known("$.visitors.staff_baseline", "area", config.visitors.staff_baseline, areas)
    validate_entrances(config.visitors.entrances, config.cameras)
    validate_areas(config.areas, config.cameras)
