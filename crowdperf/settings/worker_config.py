"""The configurations of the workers, most of which are split over instances (`workers.<role>`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from crowdperf.settings.alerts import Alerts
from crowdperf.settings.areas import Area
from crowdperf.settings.config import Deployment
from crowdperf.settings.ppe import PpeRule
from crowdperf.settings.process_config import ProcessConfig, WorkerConfig, get_redis_fields
from crowdperf.settings.site import Site
from crowdperf.settings.visitors import Visitors


class ShardedConfig(ProcessConfig, frozen=True, kw_only=True):
    """Base of the configurations of one instance of a worker that is split by a stable hash."""

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


def _get_instance_fields(deployment: Deployment, role: str, instance: int) -> dict[str, Any]:
    """Return the fields that every sharded worker's configuration has."""
    instances = getattr(deployment.config.workers, role)
    return {"instance": instance, "instances": instances, **get_redis_fields(deployment)}


def build_notify_config(deployment: Deployment, instance: int) -> NotifyConfig:
    """Build the configuration of one instance of the notify worker."""
    config = deployment.config
    return NotifyConfig(
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
        **_get_instance_fields(deployment, "notify", instance),
    )


def build_visitors_config(deployment: Deployment, instance: int) -> VisitorsConfig:
    """Build the configuration of one instance of the visitors worker."""
    return VisitorsConfig(
        visitors=deployment.config.visitors,
        areas=tuple(deployment.config.areas),
        timezone=deployment.config.site.timezone,
        **_get_instance_fields(deployment, "visitors", instance),
    )


def build_ppe_config(deployment: Deployment, instance: int) -> PpeConfig:
    """Build the configuration of one instance of the PPE worker."""
    config = deployment.config
    return PpeConfig(
        cameras=tuple(
            PpeCamera(camera_id=camera.id, rules=tuple(camera.ppe)) for camera in config.cameras if camera.ppe
        ),
        least_height_px=config.ppe.least_height_px,
        timezone=config.site.timezone,
        **_get_instance_fields(deployment, "ppe", instance),
    )


def build_areas_config(deployment: Deployment, instance: int) -> AreasConfig:
    """Build the configuration of one instance of the areas worker."""
    return AreasConfig(
        areas=tuple(deployment.config.areas),
        timezone=deployment.config.site.timezone,
        **_get_instance_fields(deployment, "areas", instance),
    )


SHARDED_CONFIG_BUILDERS: dict[str, Callable[[Deployment, int], ProcessConfig]] = {
    "notify": build_notify_config,
    "visitors": build_visitors_config,
    "ppe": build_ppe_config,
    "areas": build_areas_config,
}
"""Role -> builder, for the workers whose work is split over instances by a stable hash."""


def build_worker_config(deployment: Deployment, role: str, instance: int) -> ProcessConfig:
    """Build the configuration of one instance of a worker.

    Args:
        deployment: The installation.
        role: The worker's role.
        instance: Number of the instance.

    Returns:
        The instance's configuration, of the role's type.
    """
    if role in SHARDED_CONFIG_BUILDERS:
        return SHARDED_CONFIG_BUILDERS[role](deployment, instance)
    return WorkerConfig(
        role=role,
        instance=instance,
        retention=deployment.config.retention,
        evidence=str(deployment.paths.evidence.absolute()),
        timezone=deployment.config.site.timezone,
        postgres_dsn=deployment.postgres_dsn if role == "sql" else "",
        has_postgres=bool(deployment.postgres_dsn) and role == "housekeeping",
        **get_redis_fields(deployment),
    )
