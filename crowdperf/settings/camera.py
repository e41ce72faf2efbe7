"""One camera, its lines and its zones."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from crowdperf.geometry import Point
from crowdperf.settings.base import CLASSES, CameraId, ClassName, Coordinates, Fps, Seconds, Settings
from crowdperf.settings.ppe import PpeRule


class Line(Settings, frozen=True, kw_only=True):
    """A counting line: straight from p1 to p2, or a polyline through `points`.

    `in` is the positive side of cross(p2 - p1, q - p1), y down, of the crossed segment.
    """

    id: CameraId
    name: str = ""
    p1: Coordinates = field(default_factory=list)
    p2: Coordinates = field(default_factory=list)
    in_side: Literal["positive", "negative"] = "positive"
    classes: list[ClassName] = field(default_factory=lambda: list(CLASSES))
    anchor: Literal["bottom_centre", "centre"] = "bottom_centre"
    cooldown_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """A track that crosses again in the same direction within this time is not counted again."""
    hysteresis: Annotated[float, Meta(ge=0, le=0.2)] = 0.005
    """Half-width of the dead band on both sides, as a share of the picture's height."""
    points: Annotated[list[Coordinates], Meta(max_length=32)] = field(default_factory=list)
    """A polyline instead of p1 and p2: at least two points, from one end to the other."""
    in_name: str = ""
    """Display name of a crossing to the `in` side, such as "to the hall"."""
    out_name: str = ""

    def __post_init__(self) -> None:
        """Set p1 and p2 of a polyline to its ends, for code that needs no bends.

        Raises:
            ValueError: The line has no course, one point only, or p1 or p2 that contradict `points`.
        """
        if not self.points:
            if not self.p1 or not self.p2:
                raise ValueError(f"line {self.id!r} has no course. Remedy: give p1 and p2, or points")
            return
        if len(self.points) < 2:
            raise ValueError(f"line {self.id!r} has one point. Remedy: give two points or more")
        first, last = self.points[0], self.points[-1]
        if (self.p1 or first) != first or (self.p2 or last) != last:
            raise ValueError(f"line {self.id!r} has p1 or p2 beside other points. Remedy: give points alone")
        msgspec.structs.force_setattr(self, "p1", first)
        msgspec.structs.force_setattr(self, "p2", last)

    def get_vertices(self) -> tuple[Point, ...]:
        """Return the ends and bends from p1 to p2, normalised."""
        return tuple(Point(*point) for point in self.points or (self.p1, self.p2))


class Zone(Settings, frozen=True, kw_only=True):
    """A polygon whose occupancy is counted."""

    id: CameraId
    name: str = ""
    polygon: Annotated[list[Coordinates], Meta(min_length=3, max_length=64)]
    classes: list[ClassName] = field(default_factory=lambda: ["person"])
    limit: Annotated[int, Meta(ge=1)] | None = None
    """An occupancy above this for `limit_s` opens an alert."""
    settle_s: Annotated[float, Meta(ge=0, le=60)] = 0.3
    """A track must be inside (or outside) this long before the occupancy changes."""
    kind: Literal["area", "queue"] = "area"
    """`queue`: measure queue length and waiting times too."""
    limit_clear: Annotated[int, Meta(ge=0)] | None = None
    """The alert closes at this occupancy or below; unset: at the limit."""
    limit_s: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    """The occupancy must be above (or back below) the limit this long."""
    queue_after_s: Annotated[float, Meta(ge=0, le=600)] = 3.0
    """Queues: a person inside this long is waiting, not walking through. Waiting counts from the entry."""
    loiter_s: Seconds | None = None
    """A person who stays longer opens an alert."""
    way: Annotated[list[Annotated[float, Meta(ge=-1, le=1)]], Meta(min_length=2, max_length=2)] | None = None
    """Permitted direction as a picture vector [x, y], y down; walking against it opens an alert."""

    def __post_init__(self) -> None:
        """Raise ValueError unless the limits fit together and `way` has a direction."""
        if self.limit_clear is not None and (self.limit is None or self.limit_clear > self.limit):
            raise ValueError(f"zone {self.id!r}: limit_clear is above limit. Remedy: set a limit not below it")
        if self.way == [0, 0]:
            raise ValueError(f"zone {self.id!r}: way [0, 0] leads nowhere. Remedy: give a direction such as [1, 0]")

    def get_points(self) -> tuple[Point, ...]:
        """Return the corners, normalised."""
        return tuple(Point(*corner) for corner in self.polygon)


class Camera(Settings, frozen=True, kw_only=True):
    """One camera. None takes the environment variable or the global setting of the same name."""

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
    """A camera with a PPE rule has the default analysis width `PPE_WIDTH`, since helmets and masks are small."""

    @property
    def title(self) -> str:
        """Display name of the camera."""
        return self.name or self.id
