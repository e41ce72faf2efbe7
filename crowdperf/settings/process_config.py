"""What each process gets of the configuration: its slice and nothing else.

A slice also decides when a process has to restart: supervisord sees its digest (`supervision.render`), so that a change
of one camera touches that camera's process alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from crowdperf.common.redaction import redact_url
from crowdperf.settings.alerts import AlertRule, ChannelType, get_channel_type
from crowdperf.settings.areas import Area
from crowdperf.settings.camera import Camera, Line, Zone
from crowdperf.settings.config import Config
from crowdperf.settings.engine import Inference, Tracking
from crowdperf.settings.environment import Environment, Paths
from crowdperf.settings.ppe import PPE_WIDTH, Ppe
from crowdperf.settings.schedule import Window
from crowdperf.settings.site import Retention, Site, Web
from crowdperf.settings.visitors import Visitors


class CaptureConfig(Struct, frozen=True, kw_only=True):
    """All that one capture process knows."""

    camera_id: str
    url: str
    loop: bool
    backend: str
    rtsp_transport: str
    ffmpeg_flags: str
    ffmpeg_extra_flags: str
    rtsp_stimeout_usec: int
    pix_fmt: Literal["yuv420p", "bgr24"]
    analysis_width: int
    target_fps: float
    frame_skip: int
    ppe_fps: float = 0.0
    """0 without a PPE rule."""
    model_width: int = 0
    """What the person model is to see of `analysis_width`; 0 for all of it."""
    queue_max: int
    stall_s: float
    media_roots: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    ring: str
    doorbell: str
    redis_url: str
    key_prefix: str


class CaptureGroupConfig(Struct, frozen=True, kw_only=True):
    """All that one capture process knows: its one camera, or those of its group."""

    cameras: tuple[CaptureConfig, ...]
    crash_record: str
    """Where a crash of a decoder in this process is noted, for the process that comes after it."""
    redis_url: str
    key_prefix: str


class InferenceConfig(Struct, frozen=True, kw_only=True):
    """All that the inference process knows. It learns the cameras from their rings, so that none restarts it."""

    settings: Inference
    ppe: Ppe = field(default_factory=Ppe)
    queue_max: int
    cuda_empty_every: int
    sizes: tuple[tuple[int, int], ...]
    """Width and height of the ring pictures to be ready for at once: 16:9 and 4:3 at the global analysis_width."""
    ring_prefix: str
    doorbell: str
    choice: str = ""
    """File in which `supervisorctl update` tells of another choice of models (`settings.choice`)."""
    cache: str
    evidence: str = ""
    """Folder of the pictures of evidence; empty saves none."""
    redis_url: str
    key_prefix: str


class TrackedCamera(Struct, frozen=True, kw_only=True):
    """What counting needs of one camera."""

    camera_id: str
    lines: tuple[Line, ...]
    zones: tuple[Zone, ...]
    target_fps: float


class TrackingConfig(Struct, frozen=True, kw_only=True):
    """All that one tracking shard knows."""

    shard: int
    settings: Tracking
    cameras: tuple[TrackedCamera, ...]
    redis_url: str
    key_prefix: str
    density_days: int = 365


class WorkerConfig(Struct, frozen=True, kw_only=True):
    """All that a worker knows."""

    role: str
    instance: int
    retention: Retention
    evidence: str = ""
    """Folder of the pictures of evidence."""
    redis_url: str
    key_prefix: str
    timezone: str = "UTC"
    """The site's zone: whose days the history is counted by."""
    postgres_dsn: str = ""
    """As configured: a reference (env:NAME, file:PATH) or a URL. Only `worker-sql` has it."""


class ChannelSummary(Struct, frozen=True, kw_only=True):
    """What the web process knows of a channel: nothing of where it leads."""

    id: str
    type: ChannelType
    attempts: int


class WebReloadable(Struct, frozen=True, kw_only=True):
    """What the web process takes over while it runs (`settings.handover`): what people change there, day by day."""

    visitors: Visitors = field(default_factory=Visitors)
    areas: tuple[Area, ...] = ()
    cameras: tuple[Camera, ...] = ()
    """With `url` replaced by its redacted form."""
    alert_rules: tuple[AlertRule, ...] = ()
    alert_channels: tuple[ChannelSummary, ...] = ()
    quiet_hours: tuple[Window, ...] = ()


class WebConfig(WebReloadable, frozen=True, kw_only=True):
    """All that the web process knows; no camera URL, since one may carry a password."""

    site: Site
    web: Web
    handover: str = ""
    """File in which `supervisorctl update` tells of another `Shown`."""
    ring_prefix: str
    sockets: str
    """Folder of the sockets, where the one-time setup secret lies as well."""
    evidence: str
    """Folder of the pictures of evidence."""
    redis_url: str
    key_prefix: str


def get_redis_url(config: Config, paths: Paths) -> str:
    """The server that every process talks to."""
    return config.redis.url or paths.redis_url


def resolve_media_roots(config: Config, root: Path) -> tuple[str, ...]:
    """The folders below which local files may be read, absolute."""
    return tuple(str((root / folder).resolve()) for folder in config.media_roots)


def build_capture_config(config: Config, env: Environment, paths: Paths, root: Path, camera_id: str) -> CaptureConfig:
    """The slice of one camera; `root` is the folder that relative files are resolved against."""
    camera = config.get_camera(camera_id)
    width = _get_first_set(camera.analysis_width, config.analysis_width)
    # Helmets and masks are small; the people who wear them are found at the width that every other camera has.
    wide = bool(camera.ppe) and camera.analysis_width is None and width < PPE_WIDTH
    return CaptureConfig(
        camera_id=camera.id,
        url=camera.url,
        loop=camera.loop,
        backend=camera.backend,
        rtsp_transport=_get_first_set(camera.rtsp_transport, config.rtsp_transport),
        ffmpeg_flags=_get_first_set(camera.ffmpeg_flags, config.ffmpeg_flags),
        ffmpeg_extra_flags=env.ffmpeg_extra_flags,
        rtsp_stimeout_usec=env.rtsp_stimeout_usec,
        pix_fmt=_get_first_set(camera.pix_fmt, config.pix_fmt),
        analysis_width=PPE_WIDTH if wide else width,
        target_fps=_get_first_set(camera.target_fps, env.target_fps, config.target_fps),
        frame_skip=_get_first_set(camera.frame_skip, config.frame_skip),
        ppe_fps=config.ppe.fps if camera.ppe else 0.0,
        model_width=width if wide else 0,
        queue_max=_get_first_set(env.queue_max, config.queue_max),
        stall_s=_get_first_set(camera.stall_s, config.stall_s),
        media_roots=resolve_media_roots(config, root),
        allowed_hosts=tuple(config.allowed_hosts),
        ring=str(paths.get_ring_path(camera.id)),
        doorbell=str(paths.doorbell.absolute()),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def build_capture_group_config(
    config: Config, env: Environment, paths: Paths, root: Path, name: str, cameras: Sequence[str]
) -> CaptureGroupConfig:
    """The slice of the capture process `name`. A camera that has left the configuration meanwhile is left out."""
    known = {camera.id for camera in config.cameras}
    return CaptureGroupConfig(
        cameras=tuple(build_capture_config(config, env, paths, root, camera) for camera in cameras if camera in known),
        crash_record=str((paths.sockets / f"{name}.crash").absolute()),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def _get_first_set(*values: Any) -> Any:
    """The first value that is set."""
    return next(value for value in values if value is not None)


def get_ring_sizes(analysis_width: int) -> tuple[tuple[int, int], ...]:
    """Width and height of the ring pictures of 16:9 and of 4:3."""
    width = analysis_width // 2 * 2
    return tuple((width, round(width * high / wide / 2) * 2) for wide, high in ((16, 9), (4, 3)))


def build_inference_config(config: Config, env: Environment, paths: Paths) -> InferenceConfig:
    """The slice of the inference process."""
    return InferenceConfig(
        settings=config.inference,
        ppe=config.ppe,
        queue_max=_get_first_set(env.queue_max, config.queue_max),
        cuda_empty_every=env.cuda_empty_every,
        sizes=get_ring_sizes(config.analysis_width),
        ring_prefix=str(paths.get_ring_path("")),
        doorbell=str(paths.doorbell.absolute()),
        choice=str(paths.model_selection_file.absolute()),
        cache=str((paths.data / "cache").absolute()),
        evidence=str(paths.evidence.absolute()),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def get_shard(camera_id: str, shards: int) -> int:
    """The instance that owns a camera: a hash that no restart, machine or Python version changes."""
    return int.from_bytes(hashlib.sha256(camera_id.encode()).digest()[:8], "big") % shards


def build_tracked_camera(config: Config, env: Environment, camera: Camera) -> TrackedCamera:
    """What counting gets of `camera`."""
    return TrackedCamera(
        camera_id=camera.id,
        lines=tuple(camera.lines),
        zones=tuple(camera.zones),
        target_fps=_get_first_set(camera.target_fps, env.target_fps, config.target_fps),
    )


def build_tracking_config(config: Config, env: Environment, paths: Paths, shard: int) -> TrackingConfig:
    """The slice of one tracking shard: the enabled cameras whose hash is `shard`."""
    return TrackingConfig(
        shard=shard,
        settings=config.tracking,
        cameras=tuple(
            build_tracked_camera(config, env, camera)
            for camera in config.cameras
            if camera.enabled and get_shard(camera.id, config.tracking.shards) == shard
        ),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
        density_days=config.retention.zones_days,
    )


def get_postgres_dsn(config: Config, env: Environment) -> str:
    """Where the copy in PostgreSQL is, as a reference or a URL; empty without one. The environment goes first."""
    return env.postgres_dsn or config.postgres.dsn


def build_worker_config(config: Config, env: Environment, paths: Paths, role: str, instance: int) -> WorkerConfig:
    """The slice of one worker."""
    return WorkerConfig(
        role=role,
        instance=instance,
        retention=config.retention,
        evidence=str(paths.evidence.absolute()),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
        timezone=config.site.timezone,
        postgres_dsn=get_postgres_dsn(config, env) if role == "sql" else "",
    )


def build_web_config(config: Config, paths: Paths) -> WebConfig:
    """The slice of the web process, camera URLs redacted."""
    return WebConfig(
        site=config.site,
        web=config.web,
        visitors=config.visitors,
        areas=tuple(config.areas),
        cameras=tuple(msgspec.structs.replace(camera, url=redact_url(camera.url)) for camera in config.cameras),
        alert_rules=tuple(config.alerts.rules),
        alert_channels=tuple(
            ChannelSummary(id=channel.id, type=get_channel_type(channel), attempts=channel.attempts)
            for channel in config.alerts.channels
        ),
        quiet_hours=tuple(config.alerts.quiet_hours),
        handover=str(paths.web_reload_file.absolute()),
        ring_prefix=str(paths.get_ring_path("")),
        sockets=str(paths.sockets.absolute()),
        evidence=str(paths.evidence.absolute()),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def get_reloadable(config: WebConfig) -> WebReloadable:
    """The part that is taken over at run time."""
    return WebReloadable(**{name: getattr(config, name) for name in WebReloadable.__struct_fields__})


def replace_reloadable(config: WebConfig, reloadable: WebReloadable) -> WebConfig:
    """The slice with another such part; with an empty one what is left is what the process has to restart for."""
    return msgspec.structs.replace(
        config, **{name: getattr(reloadable, name) for name in WebReloadable.__struct_fields__}
    )
