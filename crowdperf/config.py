"""The configuration: frozen Structs and their validation.

`load` is called by `__main__` (and by `web.app` when uvicorn is started by hand); every process then works on its
frozen slice (`slices`) and gets a change only by restarting.
Precedence: camera > environment variable > global setting > default.
"""

from __future__ import annotations

import hashlib
import os
import re
import zoneinfo
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from crowdperf.geometry import Point

CAMERA_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
ClassName = Literal["person", "bicycle", "car", "motorcycle", "bus", "truck"]
CLASSES: tuple[ClassName, ...] = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
"""The system's classes, in the order of their packed index (`FrameDetections.classes`)."""
VEHICLES = CLASSES[1:]
STORAGE_BACKENDS = ("redis",)
SCHEMES = ("rtsp", "rtsps", "http", "https", "file", "")

CameraId = Annotated[str, Meta(pattern=f"^{CAMERA_ID.pattern}$", description="[a-z0-9][a-z0-9_-]{0,31}")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Fps = Annotated[float, Meta(gt=0, le=240)]
Unit = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Coordinates = Annotated[list[Unit], Meta(min_length=2, max_length=2)]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place, the value and the remedy."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every block of the file: frozen, and an unknown key is an error that names its path."""


class Line(Settings, frozen=True, kw_only=True):
    """A counting line from p1 to p2. `in` = towards the positive side of cross(p2 - p1, q - p1), y down."""

    id: CameraId
    name: str = ""
    p1: Coordinates
    p2: Coordinates
    in_side: Literal["positive", "negative"] = "positive"
    classes: list[ClassName] = field(default_factory=lambda: list(CLASSES))
    anchor: Literal["bottom_centre", "centre"] = "bottom_centre"
    cooldown_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """The same track crossing the same way again within this time is the same crossing."""
    hysteresis: Annotated[float, Meta(ge=0, le=0.2)] = 0.005
    """Half-width of the dead band on both sides, as a share of the picture's height."""

    def points(self) -> tuple[Point, Point]:
        """Both ends, normalised."""
        return Point(*self.p1), Point(*self.p2)


class Zone(Settings, frozen=True, kw_only=True):
    """A polygon whose occupancy is counted."""

    id: CameraId
    name: str = ""
    polygon: Annotated[list[Coordinates], Meta(min_length=3, max_length=64)]
    classes: list[ClassName] = field(default_factory=lambda: ["person"])
    limit: Annotated[int, Meta(ge=1)] | None = None
    """Occupancy above this is shown as over the limit."""
    settle_s: Annotated[float, Meta(ge=0, le=60)] = 0.3
    """A track must be in (or out) this long before the occupancy changes."""

    def points(self) -> tuple[Point, ...]:
        """The corners, normalised."""
        return tuple(Point(*corner) for corner in self.polygon)


class Camera(Settings, frozen=True, kw_only=True):
    """One camera. A value of None takes the environment variable or the global setting of the same name."""

    id: CameraId
    url: Annotated[
        str, Meta(min_length=1, description="rtsp://, rtsps://, http://, https:// or a file below media_roots")
    ]
    name: str = ""
    enabled: bool = True
    loop: bool = False
    """Local files only: start again at the end."""
    backend: Literal["ffmpeg", "pyav"] = "ffmpeg"
    rtsp_transport: Literal["tcp", "udp"] | None = None
    ffmpeg_flags: str | None = None
    pix_fmt: Literal["yuv420p", "bgr24"] | None = None
    analysis_width: Annotated[int, Meta(ge=160, le=3840)] | None = None
    target_fps: Fps | None = None
    frame_skip: Annotated[int, Meta(ge=0, le=1000)] | None = None
    stall_s: Seconds | None = None
    lines: list[Line] = field(default_factory=list)
    zones: list[Zone] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The name people see."""
        return self.name or self.id


class Site(Settings, frozen=True, kw_only=True):
    """What people call the place, and its clock."""

    name: str = "crowdperf"
    timezone: str = "UTC"


class Redis(Settings, frozen=True, kw_only=True):
    """Where the streams and the history live. An empty `url` starts the embedded server."""

    url: str = ""
    key_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.-]*$")] = ""


class Models(Settings, frozen=True, kw_only=True):
    """Names of entries in models/manifest.json, or paths of Ultralytics weights, by role."""

    person: str = "crowdperf-person-vehicle-n"


class Inference(Settings, frozen=True, kw_only=True):
    """The one inference process. `precision` "auto" takes int8 where it was measured to pay, and logs it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    precision: Literal["auto", "full", "int8"] = "auto"
    models: Models = field(default_factory=Models)
    confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    """Detections below this are not published; the tracker's second stage uses the weak ones."""
    iou: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    staleness_s: Seconds = 0.5
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    """0 takes every core."""


class Tracking(Settings, frozen=True, kw_only=True):
    """The tracking shards."""

    shards: Annotated[int, Meta(ge=1, le=64)] = 1
    high_confidence: Annotated[float, Meta(gt=0, lt=1)] = 0.35
    lost_s: Seconds = 1.5
    """How long a track is remembered without a detection."""
    gap_s: Seconds = 1.0
    """A pause of a camera's analysed frames longer than this is recorded as a gap."""


class Web(Settings, frozen=True, kw_only=True):
    """REST API and dashboard."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    ssl_certfile: str = ""
    ssl_keyfile: str = ""


class Retention(Settings, frozen=True, kw_only=True):
    """How long history is kept."""

    crossings_days: Annotated[int, Meta(ge=1, le=36_500)] = 365
    events_days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    detections_s: Seconds = 600.0


class Config(Settings, frozen=True, kw_only=True):
    """The whole file."""

    site: Site = field(default_factory=Site)
    node: CameraId = "local"
    storage_backend: str = "redis"
    redis: Redis = field(default_factory=Redis)
    media_roots: list[str] = field(default_factory=lambda: ["var/demo"])
    """Local files are read only below these folders (relative to the config file)."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    ffmpeg_flags: str = ""
    pix_fmt: Literal["yuv420p", "bgr24"] = "yuv420p"
    analysis_width: Annotated[int, Meta(ge=160, le=3840)] = 640
    target_fps: Fps = 10.0
    frame_skip: Annotated[int, Meta(ge=0, le=1000)] = 0
    queue_max: Annotated[int, Meta(ge=1, le=64)] = 2
    stall_s: Seconds = 20.0
    inference: Inference = field(default_factory=Inference)
    tracking: Tracking = field(default_factory=Tracking)
    retention: Retention = field(default_factory=Retention)
    web: Web = field(default_factory=Web)
    cameras: list[Camera] = field(default_factory=list)

    def camera(self, camera_id: str) -> Camera:
        """The camera of that id.

        Raises:
            ConfigError: there is none.
        """
        for camera in self.cameras:
            if camera.id == camera_id:
                return camera
        known = ", ".join(camera.id for camera in self.cameras) or "none"
        raise ConfigError(f"camera {camera_id!r} is not in the configuration (known: {known})")


class Environment(Struct, frozen=True, kw_only=True):
    """The documented environment variables; None where unset."""

    target_fps: float | None = None
    queue_max: int | None = None
    rtsp_stimeout_usec: int = 5_000_000
    ffmpeg_extra_flags: str = "-loglevel error"
    cuda_empty_every: int = 0


class Paths(Struct, frozen=True):
    """Where this installation keeps its run-time files: everything below one data folder, `var/` by default."""

    data: Path

    @property
    def instance(self) -> str:
        """Eight hex digits that tell this installation's rings from another's on the same machine."""
        return hashlib.sha256(str(self.data.resolve()).encode()).hexdigest()[:8]

    @property
    def sockets(self) -> Path:
        """Folder of the Unix sockets."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """Folder of the rotated logs."""
        return self.data / "log"

    @property
    def doorbell(self) -> Path:
        """Datagram socket on which inference hears of new frames."""
        return self.sockets / "doorbell.sock"

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded Redis."""
        return self.sockets / "redis.sock"

    @property
    def supervisor_socket(self) -> Path:
        """XML-RPC socket of supervisord; supervisord.conf names the same path."""
        return self.sockets / "supervisor.sock"

    def ring(self, camera_id: str) -> Path:
        """The camera's shared-memory segment."""
        return Path("/dev/shm") / f"crowdperf.{self.instance}.{camera_id}"

    def check(self) -> None:
        """Raise ConfigError when a socket path would not fit into sun_path (108 bytes, supervisord adds its pid)."""
        length = len(os.fsencode(str(self.supervisor_socket.absolute())))
        if length > 96:
            raise ConfigError(
                f"the data folder {str(self.data.absolute())!r} is too deep: its Unix sockets need {length} bytes and "
                "the system allows 96. Remedy: move crowdperf to a shorter path."
            )


def schema() -> dict[str, Any]:
    """JSON Schema of the configuration file."""
    return msgspec.json.schema(Config)


def parse(text: bytes, source: str = "config.json") -> Config:
    """Decode and validate a configuration.

    Raises:
        ConfigError: not JSON, an unknown key, a value out of range, or a reference that does not fit.
    """
    try:
        config = msgspec.json.decode(text, type=Config)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{source}: {error}. Remedy: correct that key; `crowdperf schema` lists all of them."
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source} is not valid JSON: {error}. Remedy: correct the syntax there.") from None
    _validate(config, source)
    return config


def load(path: Path) -> Config:
    """Read and validate the file at `path`.

    Raises:
        ConfigError: unreadable or invalid.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {str(path)!r}: {error.strerror}. "
            "Remedy: set CROWDPERF_CONFIG to the file, or start in its folder."
        ) from None
    return parse(text, str(path))


def _validate(config: Config, source: str) -> None:
    """The rules that no schema expresses."""
    if config.storage_backend not in STORAGE_BACKENDS:
        raise ConfigError(
            f"{source}: storage_backend {config.storage_backend!r} is not supported. "
            f"Remedy: use one of: {', '.join(STORAGE_BACKENDS)}."
        )
    if config.site.timezone not in zoneinfo.available_timezones():
        raise ConfigError(
            f"{source}: site.timezone {config.site.timezone!r} is no known zone. Remedy: write it like 'Europe/Berlin'."
        )
    if bool(config.web.ssl_certfile) != bool(config.web.ssl_keyfile):
        raise ConfigError(f"{source}: web.ssl_certfile and web.ssl_keyfile go together. Remedy: set both or neither.")
    if config.redis.url and not config.redis.url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigError(
            f"{source}: redis.url must begin with redis://, rediss:// or unix:// (it begins with "
            f"{config.redis.url.split(':', 1)[0]!r}). Remedy: correct it, or leave it empty for the embedded Redis."
        )
    seen: set[str] = set()
    for index, camera in enumerate(config.cameras):
        where = f"{source}: $.cameras[{index}]"
        if camera.id in seen:
            raise ConfigError(f"{where}: the id {camera.id!r} is used twice. Remedy: give each camera its own id.")
        seen.add(camera.id)
        _validate_url(where, camera.url)
        for kind, shapes in (("lines", camera.lines), ("zones", camera.zones)):
            ids = [shape.id for shape in shapes]
            if len(ids) > len(set(ids)):
                raise ConfigError(f"{where}.{kind}: an id of {ids} is used twice. Remedy: rename one.")
        for line in camera.lines:
            if line.p1 == line.p2:
                raise ConfigError(f"{where}: line {line.id!r} has no length (p1 equals p2). Remedy: move one end.")


def _validate_url(where: str, url: str) -> None:
    """Only allowed schemes, and nothing that FFmpeg could take for an option."""
    if url.startswith("-"):
        raise ConfigError(f"{where}.url begins with '-'. Remedy: give an rtsp://, http(s):// URL or a file.")
    try:
        parts = urlsplit(url)
        # A bare '/' in a password ends the host early: what follows has an '@', or what precedes is no port.
        odd = "://" in url and ("@" in parts.path + parts.fragment or parts.port == 0)
    except ValueError:
        odd = True
    if odd:
        raise ConfigError(
            f"{where}.url is no URL. Remedy: correct it; in a password write '/' as %2F, '@' %40, '#' %23, '?' %3F."
        )
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            f"{where}.url has the scheme {parts.scheme!r}. Remedy: use rtsp(s)://, http(s):// or a local file."
        )


def environment(variables: Mapping[str, str]) -> Environment:
    """Read the documented environment variables.

    Raises:
        ConfigError: one of them has no usable value.
    """
    return Environment(
        target_fps=_number(variables, "TARGET_FPS", float, 0.1, 240),
        queue_max=_number(variables, "QUEUE_MAX", int, 1, 64),
        rtsp_stimeout_usec=_number(variables, "RTSP_STIMEOUT_USEC", int, 1, 10**12) or 5_000_000,
        ffmpeg_extra_flags=variables.get("FFMPEG_EXTRA_FLAGS", "").strip(),
        cuda_empty_every=_number(variables, "CUDA_EMPTY_EVERY", int, 0, 10**6) or 0,
    )


def _number(variables: Mapping[str, str], name: str, kind: type[Any], low: float, high: float) -> Any:
    """The variable as `kind`, None where unset or empty."""
    text = variables.get(name, "").strip()
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise ConfigError(
            f"environment variable {name}={text!r} is no number from {low:g} to {high:g}. Remedy: correct or unset it."
        )
    return value


def redacted(url: str) -> str:
    """`url` with user and password replaced by `***`, and without a query, which often carries a token."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    return parts._replace(netloc=netloc, query="***" if parts.query else "", fragment="").geturl()
