"""The slices of the workers, most of which are split over instances (`workers.<role>`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from crowdperf.settings.alerts import Alerts
from crowdperf.settings.areas import Area
from crowdperf.settings.config import Config
from crowdperf.settings.environment import Environment, Paths
from crowdperf.settings.ppe import PpeRule
from crowdperf.settings.process_config import build_worker_config, get_redis_url
from crowdperf.settings.site import Site
from crowdperf.settings.visitors import Visitors


class NotifiedCamera(Struct, frozen=True, kw_only=True):
    """What alerts say of one camera."""

    camera_id: str
    title: str
    lines: dict[str, str]
    """Id -> the name people see; the same for `zones`."""
    zones: dict[str, str]
    limits: dict[str, int]
    """Zone -> its limit, where it has one."""


class NotifyConfig(Struct, frozen=True, kw_only=True):
    """All that one instance of the notify worker knows. It holds names of environment variables, never secrets."""

    instance: int
    instances: int
    site: Site
    alerts: Alerts
    cameras: tuple[NotifiedCamera, ...]
    redis_url: str
    key_prefix: str


class VisitorsConfig(Struct, frozen=True, kw_only=True):
    """All that one instance of the visitors worker knows."""

    instance: int
    instances: int
    visitors: Visitors
    areas: tuple[Area, ...]
    timezone: str
    redis_url: str
    key_prefix: str


class AreasConfig(Struct, frozen=True, kw_only=True):
    """All that one instance of the worker of the areas knows."""

    instance: int
    instances: int
    areas: tuple[Area, ...]
    timezone: str
    redis_url: str
    key_prefix: str


class PpeCamera(Struct, frozen=True, kw_only=True):
    """One camera's PPE rules."""

    camera_id: str
    rules: tuple[PpeRule, ...]


class PpeConfig(Struct, frozen=True, kw_only=True):
    """All that one instance of the PPE worker knows."""

    instance: int
    instances: int
    cameras: tuple[PpeCamera, ...]
    least_height_px: float
    timezone: str
    redis_url: str
    key_prefix: str


def build_notify_config(config: Config, paths: Paths, instance: int) -> NotifyConfig:
    """The slice of one instance of the notify worker."""
    return NotifyConfig(
        instance=instance,
        instances=config.workers.notify,
        site=config.site,
        alerts=config.alerts,
        cameras=tuple(
            NotifiedCamera(
                camera_id=camera.id,
                title=camera.title,
                lines={line.id: line.name or line.id for line in camera.lines},
                zones={zone.id: zone.name or zone.id for zone in camera.zones},
                limits={zone.id: zone.limit for zone in camera.zones if zone.limit is not None},
            )
            for camera in config.cameras
        ),
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def build_visitors_config(config: Config, paths: Paths, instance: int) -> VisitorsConfig:
    """The slice of one instance of the visitors worker."""
    return VisitorsConfig(
        instance=instance,
        instances=config.workers.visitors,
        visitors=config.visitors,
        areas=tuple(config.areas),
        timezone=config.site.timezone,
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def build_ppe_config(config: Config, paths: Paths, instance: int) -> PpeConfig:
    """The slice of one instance of the PPE worker."""
    return PpeConfig(
        instance=instance,
        instances=config.workers.ppe,
        cameras=tuple(
            PpeCamera(camera_id=camera.id, rules=tuple(camera.ppe)) for camera in config.cameras if camera.ppe
        ),
        least_height_px=config.ppe.least_height_px,
        timezone=config.site.timezone,
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


def build_areas_config(config: Config, paths: Paths, instance: int) -> AreasConfig:
    """The slice of one instance of the worker of the areas."""
    return AreasConfig(
        instance=instance,
        instances=config.workers.areas,
        areas=tuple(config.areas),
        timezone=config.site.timezone,
        redis_url=get_redis_url(config, paths),
        key_prefix=config.key_prefix,
    )


SHARDED_CONFIG_BUILDERS: dict[str, Callable[[Config, Paths, int], Any]] = {
    "notify": build_notify_config,
    "visitors": build_visitors_config,
    "ppe": build_ppe_config,
    "areas": build_areas_config,
}
"""Role -> its slice; of the workers whose parts are split over instances by a stable hash."""


def build_config_for_role(config: Config, env: Environment, paths: Paths, role: str, instance: int) -> Any:
    """The slice of one instance of the worker of that role."""
    if role in SHARDED_CONFIG_BUILDERS:
        return SHARDED_CONFIG_BUILDERS[role](config, paths, instance)
    return build_worker_config(config, env, paths, role, instance)
