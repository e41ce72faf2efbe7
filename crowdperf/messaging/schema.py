"""Define every message that crosses a process boundary; this module imports only msgspec.

New fields go to the end and have a default. Fields never change their order or type; stored golden bytes test it.
Business events travel as maps whose values are readable in redis-cli. `FrameDetections` and `TrackedFrame` carry packed
columns, which is about 14 times cheaper.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Direction = Literal["in", "out"]
ZoneRuleKind = Literal["occupancy", "loitering", "wrong_way"]


class PpeColumns(Struct, frozen=True, array_like=True):
    """Findings of the PPE model on the people of one frame."""

    persons: bytes
    """Indices of the inspected detections (people), uint16 little-endian, shape (k,)."""
    owners: bytes
    """Detection of each item, one of `persons`, uint16 little-endian, shape (m,)."""
    items: bytes
    """Index into `settings.ppe.PPE_CLASSES`, uint8, shape (m,)."""
    scores: bytes
    """Score of each item, float32 little-endian, shape (m,)."""
    boxes: bytes
    """Box of each item, float32 little-endian, shape (m, 4), as in FrameDetections."""
    picture_height: int
    """Height of the inspected picture, pixels."""


class FrameDetections(Struct, frozen=True, array_like=True):
    """Detections of one analysed frame."""

    camera: str
    epoch: int
    """Ring epoch; (epoch, sequence) identifies a frame for ever."""
    sequence: int
    captured_at_ns: int
    """Wall clock when the frame's first byte arrived, nanoseconds since 1970."""
    boxes: bytes
    """Boxes x1 y1 x2 y2 normalised to the SOURCE picture, float32 little-endian, shape (n, 4)."""
    scores: bytes
    """Scores, float32 little-endian, shape (n,)."""
    classes: bytes
    """Index into `settings.base.CLASSES`, uint8, shape (n,)."""
    source_width: int = 0
    source_height: int = 0
    ppe: PpeColumns | None = None
    """None where the PPE model did not run."""
    carried: bytes = b""
    """1 for a detection that is carried from a frame before, since nothing changed there; uint8, shape (n,).

    Empty if all were found in this frame.
    """


class QueueNow(Struct, frozen=True, array_like=True):
    """Present state of a zone of kind `queue`."""

    length: int
    """People who have been inside for `queue_after_s`."""
    longest_s: float
    """Time that the first of them has waited."""
    served_s: float
    """Waiting time of the people who left last, an exponential mean; 0 before the first."""


class TrackedFrame(Struct, frozen=True, array_like=True):
    """Live boxes of one frame, for display only and never for counting."""

    camera: str
    epoch: int
    sequence: int
    captured_at_ns: int
    boxes: bytes
    """Boxes as in FrameDetections, float32 little-endian, shape (n, 4)."""
    tracks: bytes
    """Track ids, uint32 little-endian, shape (n,)."""
    classes: bytes
    """Index into `settings.base.CLASSES`, uint8, shape (n,)."""
    occupancy: dict[str, int] = {}
    """Zone id -> tracks inside now."""
    queues: dict[str, QueueNow] = {}


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of every business event; `id` is deterministic, so a repeated event has the same one."""

    id: str
    camera: str
    ts: float
    """Unix seconds, UTC."""


class LineCrossed(Event, frozen=True, kw_only=True):
    """A confirmed track changed to the other side of a line; `ts` is its first sample there."""

    line: str
    direction: Direction
    class_name: str = field(name="klass")
    track: int
    epoch: int
    sequence: int


class ZoneChanged(Event, frozen=True, kw_only=True):
    """A track settled inside or outside a zone; `occupancy` is the zone's count afterwards."""

    zone: str
    change: Direction
    class_name: str = field(name="klass")
    track: int
    occupancy: int
    epoch: int
    sequence: int
    dwell_s: float = 0.0
    """Time spent inside, for `out`."""


class ZoneMinute(Event, frozen=True, kw_only=True):
    """One minute of a zone that was not empty; `ts` is the minute's beginning."""

    zone: str
    occupancy: int
    """Occupancy at the minute's end."""
    maximum: int
    mean: float
    """Mean over the observed time."""
    observed_s: float
    entries: int
    exits: int
    dwells: str = ""
    """Seconds inside of each person who left, separated by commas."""
    longest_wait_s: float = 0.0
    """Longest waiting time of a queue at the minute's end."""


class Alert(Event, frozen=True, kw_only=True):
    """A rule of a zone or an area was broken (`opened`), or holds again (`closed`)."""

    rule: ZoneRuleKind
    state: Literal["opened", "closed"]
    alert: str
    """Id of the event that opened it, the same for opening and closing."""
    zone: str = ""
    area: str = ""
    value: float = 0.0
    """Occupancy or seconds inside; at the closing the maximum since the opening."""
    limit: float = 0.0
    opened_at: float = 0.0
    track: int = 0
    class_name: str = field(name="klass", default="")
    epoch: int = 0
    sequence: int = 0


class AreaChanged(Event, frozen=True, kw_only=True):
    """The occupancy of an area changed; `camera` saw the cause and is empty at a reset."""

    area: str
    occupancy: int
    uncertainty: float
    """Half the width of the 95 % interval."""
    entries: int
    exits: int
    """Exits since the last reset, like `entries`."""
    cause: Literal["crossing", "zone", "reset"]


class PpeObserved(Event, frozen=True, kw_only=True):
    """PPE findings for one confirmed person in one frame; the PPE worker votes over many.

    Each finding is the best score of that item on the person, 0 where none was seen.
    """

    track: int
    epoch: int
    sequence: int
    detection: int
    """Index of the person in the frame's detections, for a request for evidence."""
    height_px: float
    """Height of the person in the inspected picture, pixels; small people are hard to judge."""
    zones: str = ""
    """Ids of the zones that contain the feet, separated by commas (an id holds none)."""
    hardhat: float = 0.0
    no_hardhat: float = 0.0
    vest: float = 0.0
    no_vest: float = 0.0
    mask: float = 0.0
    no_mask: float = 0.0
    x1: float = 0.0
    y1: float = 0.0
    x2: float = 0.0
    y2: float = 0.0
    """Corners of the person's box, normalised to the source picture."""


class CameraGap(Event, frozen=True, kw_only=True):
    """Crossings may be missing from `start` to `end` (Unix seconds); sent at the end, `ts` is `end`."""

    start: float
    end: float
    cause: str


class CameraChanged(Event, frozen=True, kw_only=True):
    """The camera's connection changed its state."""

    state: Literal["connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"]
    detail: str = ""
    failures: int = 0
    """Connections that have failed in a row so far."""


class StoreFilling(Event, frozen=True, kw_only=True):
    """Redis fills (`filling`), loses its oldest data (`dropping`), or has room again (`ok`)."""

    state: Literal["ok", "filling", "dropping"]
    used_bytes: int
    limit_bytes: int


class EvidenceRequest(Struct, frozen=True, kw_only=True):
    """Ask inference to save a frame's pictures, which it keeps for `ppe.evidence_s`."""

    id: str
    """Id of the event that the pictures are for; the same id again writes the same files."""
    camera: str
    ts: float
    """Unix seconds of the event."""
    epoch: int
    sequence: int
    detection: int = -1
    """Index of the person in that frame's detections; -1 for none, then only a box gives a crop."""
    x1: float = 0.0
    y1: float = 0.0
    x2: float = 0.0
    y2: float = 0.0
    """Corners of the person's box, for a crop of a later frame; all 0 for none."""


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One change by a person or a program, or one sign-in."""

    ts: float
    """Unix seconds, UTC."""
    who: str
    """Name of the account; empty without a sign-in."""
    via: Literal["session", "token", "anonymous", "cli", "kiosk"]
    action: str
    """Dotted name: `account.create`, `camera.change`, `session.refuse`."""
    target: str
    address: str = ""
    detail: str = ""
    """Readable description of the change; never a secret."""
    token: str = ""
    """Id of the API token that was used."""


class AlertRaised(Event, frozen=True, kw_only=True):
    """A rule of the configuration was met."""

    alert: str
    rule: str
    severity: Literal["info", "warning", "critical"]
    subject: str
    """Zone, line, track or visit concerned; empty for the camera as a whole."""
    title: str


class AlertChanged(Event, frozen=True, kw_only=True):
    """An alert was acknowledged, closed, reopened or escalated; an empty `by` is the rule itself."""

    alert: str
    rule: str
    state: Literal["open", "acknowledged", "closed"]
    by: str = ""
    escalated: int = 0
    """Number of the escalation step, 0 for no escalation."""


class VisitorChanged(Event, frozen=True, kw_only=True):
    """A visit changed; the event has ids and never names, and `camera` is empty."""

    visit: str
    person: str
    state: str
    """State of the visit, one of `visitors.visit`."""
    previous: str
    """Empty for a new visit."""
    version: int
    expected_from: float
    expected_until: float
    area: str = ""
    by: str = ""
    """Name of the user; empty for a rule."""
    auto: int = 0
    """1 where the nightly rule checked the visitor out."""


VisitNotice = Literal["arrived", "sign_out_reminder", "overstayed", "no_show", "watch_listed"]


class VisitorNotice(Event, frozen=True, kw_only=True):
    """A notice about a visit, for its host and the reception."""

    visit: str
    notice: VisitNotice
    """`watch_listed` is about somebody who was put on the watch-list while on site."""


class AreaMismatch(Event, frozen=True, kw_only=True):
    """Cameras and visitor list disagree about an area, or agree again (`closed`)."""

    area: str
    state: Literal["opened", "closed"]
    counted: int
    """People counted by the cameras."""
    expected: int
    """Visitors who are checked in there, plus the staff baseline."""
    since: float
    """Begin of the mismatch, Unix seconds."""
    door: str = ""
    """`<camera>/<line>` with the largest surplus since the last agreement."""


class TailgatingSuspected(Event, frozen=True, kw_only=True):
    """More people passed an entrance than were checked in."""

    line: str
    crossings: int
    check_ins: int
    window_s: float
    evidence: str = ""
    """Ids of the crossings, separated by spaces."""


class RollCallChanged(Event, frozen=True, kw_only=True):
    """A roll call began or ended, or a person was marked; `visit` is empty for the whole roll call."""

    roll_call: str
    state: Literal["started", "safe", "missing", "ended"]
    visit: str = ""
    drill: int = 0
    by: str = ""


class PpeViolation(Event, frozen=True, kw_only=True):
    """A person lacks required PPE (`opened`), or the violation is over (`closed`)."""

    violation: str
    """Id of the violation in both events, and of its evidence."""
    rule: str
    state: Literal["opened", "closed"]
    items: str
    """Missing items, separated by commas."""
    zone: str
    track: int
    first_seen: float
    last_seen: float
    """Time of the last observation, Unix seconds, like `first_seen`."""
    votes: str = ""
    """Newest votes per item, positive for missing."""
    cause: str = ""
    """Reason of the closing: complied, left or gone."""


AnyEvent = (
    LineCrossed
    | ZoneChanged
    | CameraGap
    | CameraChanged
    | ZoneMinute
    | Alert
    | AreaChanged
    | StoreFilling
    | AlertRaised
    | AlertChanged
    | VisitorChanged
    | VisitorNotice
    | AreaMismatch
    | TailgatingSuspected
    | RollCallChanged
    | PpeViolation
)
