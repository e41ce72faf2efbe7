"""One camera, its lines and its zones."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from crowdperf.geometry import Point
from crowdperf.settings.base import CLASSES, CameraId, ClassName, Coordinates, Fps, Seconds, Settings
from crowdperf.settings.ppe import PpeRule


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
    ppe: list[PpeRule] = field(default_factory=list)
    """With a rule, the camera's pictures default to `PPE_WIDTH`, since helmets and masks are small."""

    @property
    def title(self) -> str:
        """The name people see."""
        return self.name or self.id
