"""The configurations of the workers, most of which are split over instances (`workers.<role>`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from crowdperf.settings.alerts import Alerts
from crowdperf.settings.areas import Area
from crowdperf.settings.config import Config
from crowdperf.settings.environment import Environment, Paths
from crowdperf.settings.ppe import PpeRule
from crowdperf.settings.process_config import ProcessConfig, RedisFields, build_worker_config, get_redis_fields
from crowdperf.settings.site import Site
from crowdperf.settings.visitors import Visitors


class ShardedConfig(ProcessConfig, frozen=True, kw_only=True):
    """Base of the configurations of one instance of a worker that is split by a stable hash."""

    instance: int
    instances: int


class _ShardedFields(RedisFields):
    instance: int
    instances: int


class NotifiedCamera(Struct, frozen=True, kw_only=True):
    """One camera's names and limits, as alerts show them."""

    camera_id: str
    title: str
    lines: dict[str, str]
    """Id -> display name, as for `zones`."""
    zones: dict[str, str]
    limits: dict[str, int]
    """Zone id -> its limit, if it has one."""


class NotifyConfig(ShardedConfig, frozen=True, kw_only=True):
    """Configuration of the notify worker. It names environment variables and never holds secrets."""

    site: Site
    alerts: Alerts
    cameras: tuple[NotifiedCamera, ...]


class VisitorsConfig(ShardedConfig, frozen=True, kw_only=True):
    """Configuration of the visitors worker."""

    visitors: Visitors
    areas: tuple[Area, ...]
    timezone: str


class AreasConfig(ShardedConfig, frozen=True, kw_only=True):
    """Configuration of the areas worker."""

    areas: tuple[Area, ...]
    timezone: str


class PpeCamera(Struct, frozen=True, kw_only=True):
    """One camera's PPE rules."""

    camera_id: str
    rules: tuple[PpeRule, ...]


class PpeConfig(ShardedConfig, frozen=True, kw_only=True):
    """Configuration of the PPE worker."""

    cameras: tuple[PpeCamera, ...]
    least_height_px: float
    timezone: str


def _get_sharded_fields(config: Config, paths: Paths, role: str, instance: int) -> _ShardedFields:
    """Return the fields that every sharded worker's configuration has."""
    instances: int = getattr(config.workers, role)
    return {"instance": instance, "instances": instances, **get_redis_fields(config, paths)}


def build_notify_config(config: Config, paths: Paths, instance: int) -> NotifyConfig:
    """Build the configuration of one instance of the notify worker.

    Args:
        config: The whole configuration.
        paths: Run-time files of the installation.
        instance: Number of the instance.

    Returns:
        The instance's configuration.
    """
    return NotifyConfig(
        **_get_sharded_fields(config, paths, "notify", instance),
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
    )


def build_visitors_config(config: Config, paths: Paths, instance: int) -> VisitorsConfig:
    """Build the configuration of one instance of the visitors worker.

    Args:
        config: The whole configuration.
        paths: Run-time files of the installation.
        instance: Number of the instance.

    Returns:
        The instance's configuration.
    """
    return VisitorsConfig(
        **_get_sharded_fields(config, paths, "visitors", instance),
        visitors=config.visitors,
        areas=tuple(config.areas),
        timezone=config.site.timezone,
    )


def build_ppe_config(config: Config, paths: Paths, instance: int) -> PpeConfig:
    """Build the configuration of one instance of the PPE worker.

    Args:
        config: The whole configuration.
        paths: Run-time files of the installation.
        instance: Number of the instance.

    Returns:
        The instance's configuration.
    """
    return PpeConfig(
        **_get_sharded_fields(config, paths, "ppe", instance),
        cameras=tuple(
            PpeCamera(camera_id=camera.id, rules=tuple(camera.ppe)) for camera in config.cameras if camera.ppe
        ),
        least_height_px=config.ppe.least_height_px,
        timezone=config.site.timezone,
    )


def build_areas_config(config: Config, paths: Paths, instance: int) -> AreasConfig:
    """Build the configuration of one instance of the areas worker.

    Args:
        config: The whole configuration.
        paths: Run-time files of the installation.
        instance: Number of the instance.

    Returns:
        The instance's configuration.
    """
    return AreasConfig(
        **_get_sharded_fields(config, paths, "areas", instance),
        areas=tuple(config.areas),
        timezone=config.site.timezone,
    )


SHARDED_CONFIG_BUILDERS: dict[str, Callable[[Config, Paths, int], Any]] = {
    "notify": build_notify_config,
    "visitors": build_visitors_config,
    "ppe": build_ppe_config,
    "areas": build_areas_config,
}
"""Role -> builder, for the workers whose work is split over instances by a stable hash."""


def build_config_for_role(config: Config, env: Environment, paths: Paths, role: str, instance: int) -> Any:
    """Build the configuration of one instance of a worker.

    Args:
        config: The whole configuration.
        env: The environment variables.
        paths: Run-time files of the installation.
        role: The worker's role.
        instance: Number of the instance.

    Returns:
        The instance's configuration, of the role's type.
    """
    if role in SHARDED_CONFIG_BUILDERS:
        return SHARDED_CONFIG_BUILDERS[role](config, paths, instance)
    return build_worker_config(config, env, paths, role, instance)
