"""The configuration of each process: the part of the whole that it needs, and nothing else.

supervisord sees a digest of it (`supervision.programs`) and restarts the process when the digest changes. So a changed
camera restarts only the processes that use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from crowdperf.primitives.digest import compute_digest
from crowdperf.primitives.redaction import redact_url
from crowdperf.settings.alerts import AlertRule, ChannelType, get_channel_type
from crowdperf.settings.areas import Area
from crowdperf.settings.camera import Camera, Line, Zone
from crowdperf.settings.config import Deployment
from crowdperf.settings.engine import Inference, Tracking
from crowdperf.settings.ppe import PPE_WIDTH, Ppe
from crowdperf.settings.schedule import Window
from crowdperf.settings.site import Retention, Site, Web
from crowdperf.settings.visitors import Visitors


class ProcessConfig(Struct, frozen=True, kw_only=True):
    """Base of every process's configuration."""

    redis_url: str
    key_prefix: str


class RingSettings(Struct, frozen=True, kw_only=True):
    """The settings that shape a camera's ring."""

    pix_fmt: Literal["yuv420p", "bgr24"]
    analysis_width: int
    target_fps: float
    frame_skip: int
    ppe_fps: float = 0.0
    """0 without a PPE rule."""
    model_width: int = 0
    """Part of `analysis_width` that the person model sees; 0 for all of it."""
    queue_max: int


class CaptureConfig(RingSettings, frozen=True, kw_only=True):
    """One camera of a capture process."""

    camera_id: str
    url: str
    loop: bool
    backend: str
    rtsp_transport: str
    ffmpeg_flags: str
    ffmpeg_extra_flags: str
    rtsp_stimeout_usec: int
    stall_s: float
    media_roots: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    ring: str
    doorbell: str


class CaptureGroupConfig(ProcessConfig, frozen=True, kw_only=True):
    """Configuration of a capture process: its one camera, or the cameras of its group."""

    cameras: tuple[CaptureConfig, ...]
    crash_record: str
    """File that records a decoder crash for the process that follows."""


class InferenceConfig(ProcessConfig, frozen=True, kw_only=True):
    """Configuration of inference. It finds the cameras by their rings, so a new camera never restarts it."""

    settings: Inference
    ppe: Ppe = field(default_factory=Ppe)
    queue_max: int
    cuda_empty_every: int
    sizes: tuple[tuple[int, int], ...]
    """Width and height of the ring pictures to warm up for: 16:9 and 4:3 at the global analysis_width."""
    ring_prefix: str
    doorbell: str
    reload_file: str = ""
    """File in which `supervisorctl update` leaves a new model selection (`settings.reload`)."""
    cache: str
    evidence: str = ""
    """Folder of the evidence pictures; empty: none are saved."""


class TrackedCamera(Struct, frozen=True, kw_only=True):
    """One camera as counting needs it."""

    camera_id: str
    lines: tuple[Line, ...]
    zones: tuple[Zone, ...]
    target_fps: float


class TrackingConfig(ProcessConfig, frozen=True, kw_only=True):
    """Configuration of one tracking shard."""

    shard: int
    settings: Tracking
    cameras: tuple[TrackedCamera, ...]
    density_days: int = 365


class WorkerConfig(ProcessConfig, frozen=True, kw_only=True):
    """Configuration of a recorder, sql or housekeeping worker."""

    role: str
    instance: int
    retention: Retention
    evidence: str = ""
    """Folder of the evidence pictures."""
    timezone: str = "UTC"
    """The site's time zone, which defines the days of the history."""
    postgres_dsn: str = ""
    """As configured: a reference (env:NAME, file:PATH) or a URL. Only `worker-sql` has it."""
    has_postgres: bool = False
    """Whether there is a `worker-sql`, whose events must not be trimmed."""


class ChannelSummary(Struct, frozen=True, kw_only=True):
    """An alert channel without its address, for the web process."""

    id: str
    type: ChannelType
    attempts: int


class AnalysisRate(Struct, frozen=True, kw_only=True):
    """How many frames per second of an enabled camera are analysed."""

    target_fps: float
    frame_skip: int
    ppe_fps: float
    """Frames that the PPE model gets; 0 without a PPE rule."""


class WebReloadable(Struct, frozen=True, kw_only=True):
    """Settings that users change often and that the web process reloads without a restart."""

    visitors: Visitors = field(default_factory=Visitors)
    areas: tuple[Area, ...] = ()
    cameras: tuple[Camera, ...] = ()
    """Each `url` is redacted."""
    alert_rules: tuple[AlertRule, ...] = ()
    alert_channels: tuple[ChannelSummary, ...] = ()
    quiet_hours: tuple[Window, ...] = ()
    analysis_rates: dict[str, AnalysisRate] = {}
    """Camera -> its rate, for the enabled cameras."""


class WebConfig(WebReloadable, frozen=True, kw_only=True):
    """Configuration of the web process. It holds no camera URL, since one may carry a password."""

    site: Site
    web: Web
    reload_file: str = ""
    """File in which `supervisorctl update` leaves a new `WebReloadable`."""
    ring_prefix: str
    sockets: str
    """Folder of the sockets and of the one-time setup secret."""
    evidence: str
    """Folder of the evidence pictures."""
    redis_url: str
    key_prefix: str


def get_redis_fields(deployment: Deployment) -> dict[str, Any]:
    """Return the fields that every process's configuration has."""
    return {"redis_url": deployment.redis_url, "key_prefix": deployment.config.key_prefix}


def build_capture_config(deployment: Deployment, camera_id: str) -> CaptureConfig:
    """Build the configuration of one camera, with defaults applied."""
    config, env, paths = deployment.config, deployment.env, deployment.paths
    camera = config.get_camera(camera_id)
    width = _get_first_set(camera.analysis_width, config.analysis_width)
    # Helmets and masks are small, so PPE needs wide pictures. People are still detected at the usual width.
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
        target_fps=deployment.get_target_fps(camera),
        frame_skip=_get_first_set(camera.frame_skip, config.frame_skip),
        ppe_fps=config.ppe.fps if camera.ppe else 0.0,
        model_width=width if wide else 0,
        queue_max=_get_first_set(env.queue_max, config.queue_max),
        stall_s=_get_first_set(camera.stall_s, config.stall_s),
        media_roots=deployment.media_roots,
        allowed_hosts=tuple(config.allowed_hosts),
        ring=str(paths.get_ring_path(camera.id)),
        doorbell=str(paths.doorbell.absolute()),
    )


def build_capture_group_config(deployment: Deployment, name: str, cameras: Sequence[str]) -> CaptureGroupConfig:
    """Build the configuration of a capture process.

    Args:
        deployment: The installation.
        name: Program name, for the crash record.
        cameras: Ids of its cameras; removed cameras are skipped.

    Returns:
        The process's configuration.
    """
    known = {camera.id for camera in deployment.config.cameras}
    return CaptureGroupConfig(
        cameras=tuple(build_capture_config(deployment, camera) for camera in cameras if camera in known),
        crash_record=str((deployment.paths.sockets / f"{name}.crash").absolute()),
        **get_redis_fields(deployment),
    )


def _get_first_set(*values: Any) -> Any:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)


def get_ring_sizes(analysis_width: int) -> tuple[tuple[int, int], ...]:
    """Compute width and height of 16:9 and 4:3 ring pictures."""
    width = analysis_width // 2 * 2
    return tuple((width, round(width * y / x / 2) * 2) for x, y in ((16, 9), (4, 3)))


def build_inference_config(deployment: Deployment) -> InferenceConfig:
    """Build the configuration of inference."""
    config, env, paths = deployment.config, deployment.env, deployment.paths
    return InferenceConfig(
        settings=config.inference,
        ppe=config.ppe,
        queue_max=_get_first_set(env.queue_max, config.queue_max),
        cuda_empty_every=env.cuda_empty_every,
        sizes=get_ring_sizes(config.analysis_width),
        ring_prefix=str(paths.get_ring_path("")),
        doorbell=str(paths.doorbell.absolute()),
        reload_file=str(paths.model_selection_file.absolute()),
        cache=str((paths.data / "cache").absolute()),
        evidence=str(paths.evidence.absolute()),
        **get_redis_fields(deployment),
    )


def get_shard(camera_id: str, shards: int) -> int:
    """Return the shard of a camera: a hash that no restart, machine or Python version changes."""
    return int(compute_digest(camera_id.encode(), 16), 16) % shards


def build_tracked_camera(deployment: Deployment, camera: Camera) -> TrackedCamera:
    """Build the configuration of one tracked camera."""
    return TrackedCamera(
        camera_id=camera.id,
        lines=tuple(camera.lines),
        zones=tuple(camera.zones),
        target_fps=deployment.get_target_fps(camera),
    )


def build_tracking_config(deployment: Deployment, shard: int) -> TrackingConfig:
    """Build the configuration of one tracking shard, with the enabled cameras of that hash."""
    config = deployment.config
    return TrackingConfig(
        shard=shard,
        settings=config.tracking,
        cameras=tuple(
            build_tracked_camera(deployment, camera)
            for camera in config.cameras
            if camera.enabled and get_shard(camera.id, config.tracking.shards) == shard
        ),
        density_days=config.retention.zones_days,
        **get_redis_fields(deployment),
    )


def build_web_config(deployment: Deployment) -> WebConfig:
    """Build the configuration of the web process, with camera URLs redacted."""
    config, paths = deployment.config, deployment.paths
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
        analysis_rates={
            camera.id: AnalysisRate(
                target_fps=deployment.get_target_fps(camera),
                frame_skip=_get_first_set(camera.frame_skip, config.frame_skip),
                ppe_fps=config.ppe.fps if camera.ppe else 0.0,
            )
            for camera in config.cameras
            if camera.enabled
        },
        reload_file=str(paths.web_reload_file.absolute()),
        ring_prefix=str(paths.get_ring_path("")),
        sockets=str(paths.sockets.absolute()),
        evidence=str(paths.evidence.absolute()),
        **get_redis_fields(deployment),
    )


def get_reloadable(config: WebConfig) -> WebReloadable:
    """Return the part that applies without a restart."""
    return WebReloadable(**{name: getattr(config, name) for name in WebReloadable.__struct_fields__})


def replace_reloadable(config: WebConfig, reloadable: WebReloadable) -> WebConfig:
    """Replace the part that applies without a restart; an empty part leaves what needs a restart."""
    return msgspec.structs.replace(
        config, **{name: getattr(reloadable, name) for name in WebReloadable.__struct_fields__}
    )
