"""Everything in a configuration that decides what is counted for one camera on a clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.capture.probe import SourceInfo, build_ring_spec
from crowdperf.evaluation.clip import Clip
from crowdperf.frames.layout import RingSpec
from crowdperf.settings.base import ConfigError
from crowdperf.settings.camera import Camera
from crowdperf.settings.config import Config, Deployment, load
from crowdperf.settings.engine import Inference, Tracking
from crowdperf.settings.environment import Environment, Paths, read_environment
from crowdperf.settings.process_config import CaptureConfig, TrackedCamera, build_capture_config, build_tracked_camera

LIVE_ONLY_OPTIONS = frozenset(
    (
        *("-rtsp_flags", "-reorder_queue_size", "-buffer_size", "-max_delay", "-tls_verify", "-user_agent"),
        *("-use_wallclock_as_timestamps", "-loglevel", "-v"),
    )
)
"""FFmpeg options that make no sense for a recording, or would remove its timestamps; each takes one value."""
_PICTURE_SETTINGS = ("pix_fmt", "analysis_width", "target_fps", "frame_skip", "ffmpeg_flags", "ffmpeg_extra_flags")
_IGNORED_INFERENCE_SETTINGS = ("threads", "staleness_s")
"""These settings of inference do not change detections."""


class CameraSetup(Struct, frozen=True, kw_only=True):
    """Settings of one camera in one configuration."""

    name: str
    """Name of the configuration in reports."""
    capture: CaptureConfig
    tracked: TrackedCamera
    inference: Inference
    tracking: Tracking

    def build_ring_spec(self, clip: Clip) -> RingSpec:
        """Build the ring spec that this camera would have for the clip."""
        return build_ring_spec(self.capture, SourceInfo(clip.width, clip.height, clip.fps, True))

    def get_detection_key(self, clip: Clip) -> tuple[Any, ...]:
        """Return a key: setups with equal keys get the same detections of a frame."""
        spec = self.build_ring_spec(clip)
        flags = self.capture.ffmpeg_extra_flags, self.capture.ffmpeg_flags
        inference = repr(_to_tree(self.inference, _IGNORED_INFERENCE_SETTINGS))
        # What is looked at in a scene depends on the frames before it, and so on which of them are analysed.
        rate = () if self.inference.analysis == "whole" else (self.capture.target_fps, self.capture.frame_skip)
        return spec.width, spec.height, spec.model_width, spec.pix_fmt, flags, inference, rate

    def collect_settings(self) -> dict[str, Any]:
        """Map path to value for every setting that may change what is counted."""
        tree = {
            **{name: getattr(self.capture, name) for name in _PICTURE_SETTINGS},
            "inference": _to_tree(self.inference, _IGNORED_INFERENCE_SETTINGS),
            "tracking": _to_tree(self.tracking, ("shards",)),
            "lines": {line.id: _to_tree(line) for line in self.tracked.lines},
            "zones": {zone.id: _to_tree(zone) for zone in self.tracked.zones},
        }
        return dict(_flatten("", tree))


def read_setup(file: Path, camera_id: str | None, data: Paths, root: Path) -> CameraSetup:
    """Read the setup from a configuration file, or raise ConfigError.

    Args:
        file: the configuration.
        camera_id: the camera; None if there is only one.
        data: holds the cache of compiled models.
        root: the working folder.

    Returns:
        The camera's setup.
    """
    config = load(file)
    return make_setup(
        config, read_environment(os.environ), select_camera(config, camera_id, str(file)), file.name, data, root
    )


def make_setup(config: Config, env: Environment, camera: Camera, name: str, data: Paths, root: Path) -> CameraSetup:
    """Make the setup of one camera of a configuration.

    Args:
        config: the configuration.
        env: the environment variables.
        camera: one of its cameras.
        name: name of the configuration in reports.
        data: holds the cache of compiled models.
        root: the working folder.

    Returns:
        The camera's setup.
    """
    deployment = Deployment(config, data, env, root)
    return CameraSetup(
        name=name,
        capture=build_capture_config(deployment, camera.id),
        tracked=build_tracked_camera(deployment, camera),
        inference=config.inference,
        tracking=config.tracking,
    )


def select_camera(config: Config, camera_id: str | None, source: str) -> Camera:
    """Select a camera by id, or the only camera, or raise ConfigError.

    Args:
        config: the configuration.
        camera_id: the id; None selects the only camera.
        source: name of the configuration for error messages.

    Returns:
        The camera.
    """
    if camera_id is not None:
        for camera in config.cameras:
            if camera.id == camera_id:
                return camera
    elif len(config.cameras) == 1:
        return config.cameras[0]
    known = ", ".join(camera.id for camera in config.cameras) or "none"
    if camera_id is None:
        raise ConfigError(f"{source}: which camera? It has: {known}. Remedy: name one with --camera.")
    raise ConfigError(f"{source}: there is no camera {camera_id!r} (known: {known}). Remedy: correct --camera.")


def _to_tree(settings: Struct, ignored: Sequence[str] = ()) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(settings).items() if name not in ignored}


def _flatten(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _flatten(f"{path}.{key}" if path else key, inner)]
    return [(path, value)]
