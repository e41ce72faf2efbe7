"""Every message that crosses a process boundary. Nothing but msgspec is imported here.

Rules, tested with stored golden bytes: fields are added at the end with a default, never reordered, never retyped.
Business events travel as maps whose values are readable in redis-cli; `FrameDetections` and `TrackedFrame` carry packed
columns, which is about 14 times cheaper.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Direction = Literal["in", "out"]
ZoneRuleKind = Literal["occupancy", "loitering", "wrong_way"]


class PpeColumns(Struct, frozen=True, array_like=True):
    """What the PPE model saw on the people of one frame."""

    persons: bytes
    """uint16 little-endian, shape (k,): the detections (people) that were looked at."""
    owners: bytes
    """uint16 little-endian, shape (m,): the detection that each item belongs to, one of `persons`."""
    items: bytes
    """uint8, shape (m,): index into `settings.ppe.PPE_CLASSES`."""
    scores: bytes
    """float32 little-endian, shape (m,)."""
    boxes: bytes
    """float32 little-endian, shape (m, 4), as in FrameDetections."""
    picture_height: int
    """Pixels, of the picture that was looked at."""


class FrameDetections(Struct, frozen=True, array_like=True):
    """What the model saw in one analysed frame."""

    camera: str
    epoch: int
    """Ring epoch; (epoch, sequence) names a frame for ever."""
    sequence: int
    captured_at_ns: int
    """Wall clock when the frame's first byte arrived, nanoseconds since 1970."""
    boxes: bytes
    """float32 little-endian, shape (n, 4), x1 y1 x2 y2 normalised to the SOURCE picture."""
    scores: bytes
    """float32 little-endian, shape (n,)."""
    classes: bytes
    """uint8, shape (n,): index into `settings.base.CLASSES`."""
    source_width: int = 0
    source_height: int = 0
    ppe: PpeColumns | None = None
    """None where the PPE model was not asked."""


class QueueNow(Struct, frozen=True, array_like=True):
    """A zone of kind `queue` as it is now."""

    length: int
    """People who have been inside for `queue_after_s`."""
    longest_s: float
    """How long the first of them has waited."""
    served_s: float
    """How long those waited who left last, a mean that forgets; 0 before the first."""


class TrackedFrame(Struct, frozen=True, array_like=True):
    """The live boxes of one frame, for people's eyes only: never counted from."""

    camera: str
    epoch: int
    sequence: int
    captured_at_ns: int
    boxes: bytes
    """float32 little-endian, shape (n, 4), as in FrameDetections."""
    tracks: bytes
    """uint32 little-endian, shape (n,)."""
    classes: bytes
    """uint8, shape (n,)."""
    occupancy: dict[str, int] = {}
    """Zone id -> tracks inside now."""
    queues: dict[str, QueueNow] = {}


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    """Base of every business event. `id` is deterministic: a redelivered or replayed event has the same one."""

    id: str
    camera: str
    ts: float
    """Unix seconds, UTC."""


class LineCrossed(Event, frozen=True, kw_only=True):
    """A confirmed track changed to the other side of a line, at the time of its first sample there."""

    line: str
    direction: Direction
    class_name: str = field(name="klass")
    track: int
    epoch: int
    sequence: int


class ZoneChanged(Event, frozen=True, kw_only=True):
    """A track settled inside or outside a zone; `occupancy` is the zone's count after it."""

    zone: str
    change: Direction
    class_name: str = field(name="klass")
    track: int
    occupancy: int
    epoch: int
    sequence: int
    dwell_s: float = 0.0
    """`out`: how long it was inside."""


class ZoneMinute(Event, frozen=True, kw_only=True):
    """One minute of a zone in which somebody was inside; `ts` is the minute's beginning."""

    zone: str
    occupancy: int
    """At its end."""
    maximum: int
    mean: float
    """Over the time that was observed."""
    observed_s: float
    entries: int
    exits: int
    dwells: str = ""
    """Seconds that each of those who left had been inside, separated by commas."""
    longest_wait_s: float = 0.0
    """Queues: the longest that anybody had waited at the minute's end."""


class Alert(Event, frozen=True, kw_only=True):
    """A rule of a zone or an area was broken (`opened`), or holds again (`closed`)."""

    rule: ZoneRuleKind
    state: Literal["opened", "closed"]
    alert: str
    """The same for the opening and the closing: the id of the event that opened it."""
    zone: str = ""
    area: str = ""
    value: float = 0.0
    """Occupancy, or seconds inside; at a closing the greatest since the opening."""
    limit: float = 0.0
    opened_at: float = 0.0
    track: int = 0
    class_name: str = field(name="klass", default="")
    epoch: int = 0
    sequence: int = 0


class AreaChanged(Event, frozen=True, kw_only=True):
    """The occupancy of an area of the site changed; `camera` is where the cause was seen, empty at a reset."""

    area: str
    occupancy: int
    uncertainty: float
    """Half the width of the 95 % interval."""
    entries: int
    exits: int
    """Since the last reset."""
    cause: Literal["crossing", "zone", "reset"]


class PpeObserved(Event, frozen=True, kw_only=True):
    """What was seen of a confirmed person in one frame that the PPE model looked at; `PPEWorker` votes over many.

    Each finding is the best score of such an item on that person, 0 where none was seen.
    """

    track: int
    epoch: int
    sequence: int
    detection: int
    """Index of the person in the frame's detections: a request for evidence names it."""
    height_px: float
    """Height of the person in the picture that was looked at, pixels: small people are hard to judge."""
    zones: str = ""
    """Ids of the zones in which the feet are, separated by commas (an id holds none)."""
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
    """The person's box, normalised to the source picture."""


class CameraGap(Event, frozen=True, kw_only=True):
    """From `start` to `end` (Unix seconds) its crossings may be missing; said when it is over, `ts` is `end`."""

    start: float
    end: float
    cause: str


class CameraChanged(Event, frozen=True, kw_only=True):
    """The camera's connection changed its state."""

    state: Literal["connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"]
    detail: str = ""
    failures: int = 0
    """Connections that have failed in a row by then; what the retries of a camera that stays down have come to."""


class StoreFilling(Event, frozen=True, kw_only=True):
    """The history's server fills (`filling`), is relieved of its oldest data (`dropping`), or has room again (`ok`)."""

    state: Literal["ok", "filling", "dropping"]
    used_bytes: int
    limit_bytes: int


class EvidenceRequest(Struct, frozen=True, kw_only=True):
    """Asks inference for a frame's pictures, kept for `ppe.evidence_s` where `storage.evidence` says."""

    id: str
    """Of the event that the pictures are for; the same id again writes the same files."""
    camera: str
    ts: float
    """Unix seconds of the event."""
    epoch: int
    sequence: int
    detection: int = -1
    """Index of the person in that frame's detections; -1 for none: then there is no crop, unless there is a box."""
    x1: float = 0.0
    y1: float = 0.0
    x2: float = 0.0
    y2: float = 0.0
    """Where the person was, for a crop of a later frame; all 0 for nowhere."""


class EvidenceSaved(Struct, frozen=True, kw_only=True):
    """The answer to one EvidenceRequest."""

    id: str
    camera: str
    ts: float
    """Unix seconds of the picture; of the request where there is none."""
    epoch: int
    sequence: int
    """The frame that was saved."""
    exact: bool = True
    """False: the frame was gone, this is the nearest later one there was."""
    full: str = ""
    crop: str = ""
    """Paths relative to the evidence folder; empty for a picture that could not be had."""
    problem: str = ""
    """Why there is none."""


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One change that a person or a program made, or one sign-in."""

    ts: float
    """Unix seconds, UTC."""
    who: str
    """The account's name; empty for one that is not signed in."""
    via: Literal["session", "token", "anonymous", "cli"]
    action: str
    """Dotted: `account.create`, `camera.change`, `session.refuse`."""
    target: str
    address: str = ""
    detail: str = ""
    """What changed, as people read it; never a secret."""
    token: str = ""
    """Id of the API token that was used."""


class AlertRaised(Event, frozen=True, kw_only=True):
    """A rule of the configuration was met."""

    alert: str
    rule: str
    severity: Literal["info", "warning", "critical"]
    subject: str
    """The zone, line, track or visit that it is about; empty for the camera as a whole."""
    title: str


class AlertChanged(Event, frozen=True, kw_only=True):
    """An alert was acknowledged, closed, opened again or escalated; `by` is the user, empty for the rule itself."""

    alert: str
    rule: str
    state: Literal["open", "acknowledged", "closed"]
    by: str = ""
    escalated: int = 0
    """The step that was taken, where it was escalated; else 0."""


class VisitorChanged(Event, frozen=True, kw_only=True):
    """A visit changed. It carries ids, never names: who that is stays in the visitors' store. `camera` is empty."""

    visit: str
    person: str
    state: str
    """`visitors.model.State`."""
    previous: str
    """Empty for a new visit."""
    version: int
    expected_from: float
    expected_until: float
    area: str = ""
    by: str = ""
    """The user; empty for a rule."""
    auto: int = 0
    """1: checked out by the night's rule."""


class VisitorNotice(Event, frozen=True, kw_only=True):
    """Something that a visit's host should hear of."""

    visit: str
    notice: Literal["arrived", "sign_out_reminder", "overstayed", "no_show"]


class AreaMismatch(Event, frozen=True, kw_only=True):
    """Cameras and the list of visitors disagree about an area, or agree again (`closed`)."""

    area: str
    state: Literal["opened", "closed"]
    counted: int
    """By the cameras."""
    expected: int
    """Visitors who are checked in there, and the staff baseline."""
    since: float
    """Unix seconds."""
    door: str = ""
    """`<camera>/<line>` with the greatest surplus since they last agreed."""


class TailgatingSuspected(Event, frozen=True, kw_only=True):
    """More people passed an entrance than were checked in."""

    line: str
    crossings: int
    check_ins: int
    window_s: float
    evidence: str = ""
    """Ids of the crossings, separated by spaces."""


class RollCallChanged(Event, frozen=True, kw_only=True):
    """An evacuation began or ended, or a person was marked; `visit` is empty for the roll call as a whole."""

    roll_call: str
    state: Literal["started", "safe", "missing", "ended"]
    visit: str = ""
    drill: int = 0
    by: str = ""


class PpeViolation(Event, frozen=True, kw_only=True):
    """A person does not wear what a rule asks for (`opened`), or it is over (`closed`). One violation, two events."""

    violation: str
    """The same for both; also the id of its evidence."""
    rule: str
    state: Literal["opened", "closed"]
    items: str
    """What is missing, separated by commas."""
    zone: str
    track: int
    first_seen: float
    last_seen: float
    """Unix seconds."""
    votes: str = ""
    """Per item the newest votes, positive for missing."""
    cause: str = ""
    """`closed`: complied, left or gone."""


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
