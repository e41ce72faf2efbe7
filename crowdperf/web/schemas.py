"""Bodies of the API's responses; OpenAPI takes its schemas from these Structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct, field

Time = Annotated[str, Meta(description="RFC 3339, UTC", examples=["2026-05-01T06:00:00.000Z"])]
CameraState = Literal["live", "down", "disabled"]
Reply = TypeVar("Reply", bound=Struct)


def to_reply(reply_type: type[Reply], source: object, **values: Any) -> Reply:
    """Build a reply from `values` and from the fields of the same name in `source`.

    Args:
        reply_type: Struct to build.
        source: Object with some of its fields.
        values: Fields that differ from `source`, or are not in it.

    Returns:
        The reply.
    """
    names = [name for name in reply_type.__struct_fields__ if name not in values and hasattr(source, name)]
    return reply_type(**{name: getattr(source, name) for name in names}, **values)


class LineReply(Struct, kw_only=True):
    """A counting line, normalised to the source picture, y down."""

    id: str
    name: str
    p1: list[float]
    p2: list[float]
    in_side: Literal["positive", "negative"]
    classes: list[str]
    points: list[list[float]]
    """Ends and bends from p1 to p2."""
    in_name: str
    out_name: str


class ZoneReply(Struct, kw_only=True):
    """A zone, normalised to the source picture, y down."""

    id: str
    name: str
    polygon: list[list[float]]
    classes: list[str]
    limit: int | None
    kind: str = "area"


class CameraReply(Struct, kw_only=True):
    """A camera. `url` never holds credentials."""

    id: str
    name: str
    url: Annotated[str, Meta(examples=["rtsp://***@10.0.0.7/stream2"])]
    enabled: bool
    state: CameraState
    lines: list[LineReply]
    zones: list[ZoneReply]


class SiteReply(Struct, kw_only=True):
    """The site and its cameras, in the order of the configuration."""

    name: str
    timezone: Annotated[str, Meta(examples=["Europe/Berlin"])]
    time: Time
    last_id: Annotated[str, Meta(examples=["1780000000000-0"])]
    """Position of the live events: `/stream?last_id=` resumes here, so that no event is missed between this response
    and the stream. Empty before Redis has answered."""
    cameras: list[CameraReply]


class EstimateReply(Struct, kw_only=True):
    """A measured share with its 95 % confidence interval."""

    value: float
    low: float
    high: float


class FiguresReply(Struct, kw_only=True):
    """Counted against true crossings of a clip. An estimate is null without crossings to measure."""

    true: int
    counted: int
    matched: int
    precision: EstimateReply | None
    recall: EstimateReply | None
    count_error: Annotated[EstimateReply | None, Meta(description="(counted - true) / true")]


class CountAudit(Struct, kw_only=True):
    """Result of the line's last audit for this row: for its direction, or for both."""

    time: Time
    stale: Annotated[bool, Meta(description="The line has been changed since; the figures are of the old line.")]
    figures: FiguresReply


class LineEvaluationReply(Struct, kw_only=True):
    """The last audit of a line (`crowdperf evaluate`)."""

    camera: str
    line: str
    time: Time
    stale: Annotated[bool, Meta(description="The line has been changed since; the figures are of the old line.")]
    clip: str
    clip_s: Annotated[float, Meta(description="Length of the clip, seconds")]
    model: str
    within_s: Annotated[float, Meta(description="How far a count may be from the true crossing, seconds")]
    total: FiguresReply
    directions: dict[str, FiguresReply]


class AuditsReply(Struct, kw_only=True):
    """The last audit of every audited line, by camera and line in the order of the configuration."""

    audits: list[LineEvaluationReply]


class CountRow(Struct, kw_only=True, omit_defaults=True):
    """One group's crossings; fields that `group` does not name are absent.

    `audit` is present where the row names a camera and a line that was audited.
    """

    camera: str = ""
    line: str = ""
    class_name: str = field(name="class", default="")
    direction: str = ""
    minute: str = ""
    hour: str = ""
    day: str = ""
    count: int
    audit: CountAudit | None = None


class CountsReply(Struct, kw_only=True):
    """Crossings in the half-open range [from, to)."""

    start: Time = field(name="from")
    end: Time = field(name="to")
    group: list[str]
    total: int
    counts: list[CountRow]


class SeriesRow(Struct, kw_only=True, omit_defaults=True):
    """One line of a chart; fields that `group` does not name are absent."""

    camera: str = ""
    line: str = ""
    class_name: str = field(name="class", default="")
    direction: str = ""
    counts: Annotated[list[int], Meta(description="As many as `starts`, zeros included")]


class SeriesReply(Struct, kw_only=True):
    """Crossings over time: every bucket that overlaps [from, to), in the site's zone."""

    start: Time = field(name="from")
    end: Time = field(name="to")
    bucket: Literal["minute", "hour", "day"]
    timezone: str
    starts: Annotated[list[str], Meta(description="Start of each bucket, RFC 3339 with the site's offset")]
    series: list[SeriesRow]


class EventReply(Struct, kw_only=True, omit_defaults=True):
    """One event; its `type` decides which optional fields it has."""

    type: Annotated[str, Meta(examples=["LineCrossed"])]
    id: str
    camera: str
    time: Time
    ts: Annotated[float, Meta(description="Unix seconds")]
    line: str | None = None
    zone: str | None = None
    direction: str | None = None
    change: str | None = None
    class_name: str | None = field(name="class", default=None)
    track: int | None = None
    occupancy: int | None = None
    start: float | None = None
    end: float | None = None
    cause: str | None = None
    state: str | None = None
    detail: str | None = None
    dwell_s: float | None = None
    rule: str | None = None
    alert: Annotated[str | None, Meta(description="Id of the event that opened the alert")] = None
    area: str | None = None
    value: float | None = None
    limit: float | None = None
    opened_at: float | None = None
    uncertainty: float | None = None
    entries: int | None = None
    exits: int | None = None
    maximum: int | None = None
    mean: float | None = None
    observed_s: float | None = None
    dwells: str | None = None
    longest_wait_s: float | None = None
    used_bytes: int | None = None
    limit_bytes: int | None = None
    visit: str | None = None
    previous: str | None = None
    notice: str | None = None
    counted: int | None = None
    expected: int | None = None
    since: float | None = None
    door: str | None = None
    crossings: int | None = None
    check_ins: int | None = None
    evidence: str | None = None
    roll_call: str | None = None
    violation: str | None = None
    items: str | None = None
    first_seen: float | None = None
    last_seen: float | None = None
    severity: str | None = None
    subject: str | None = None
    title: str | None = None
    by: str | None = None
    escalated: int | None = None
    failures: Annotated[int | None, Meta(description="Failed connections in a row")] = None


class EventsReply(Struct, kw_only=True):
    """A page of events, newest first. `next_cursor` is null on the last page."""

    start: Time = field(name="from")
    end: Time = field(name="to")
    events: list[EventReply]
    next_cursor: str | None


class ConnectionReply(Struct, kw_only=True):
    """Changes of a camera's connection, newest first."""

    changes: list[EventReply]


class ZoneOccupancy(Struct, kw_only=True):
    """A zone now; `occupancy` is null while its camera delivers no fresh frame."""

    camera: str
    zone: str
    name: str
    limit: int | None
    occupancy: int | None
    over_limit: bool
    time: str | None
    """Capture time of the counted frame."""


class OccupancyReply(Struct, kw_only=True):
    """Every zone of every enabled camera."""

    zones: list[ZoneOccupancy]


class Health(Struct, kw_only=True):
    """Response of a probe that succeeds."""

    status: Literal["ok"] = "ok"
