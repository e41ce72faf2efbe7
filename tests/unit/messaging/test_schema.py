"""What crosses a process boundary stays readable: golden bytes of messages that older versions have stored."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AnyEvent, CameraGap, FrameDetections, PpeColumns, TrackedFrame
from crowdperf.messaging.streams import AUDIT, DETECTIONS, EVENTS, OBSERVATIONS, Stream
from crowdperf.storage.counts import build_crossing, decode_member, encode_member

NO_NUMBER = struct.pack("<4f", 0.0, float("nan"), 0.0, 0.0)
GOLDEN_DETECTIONS = bytes.fromhex(
    "99a57068617a61cf0000019a00000000cd019ccf18b8a1d2c3b4a596c4100000003e0000003f0000803e0000403fc4040000403fc40100cd0280cd0168"
)
GOLDEN_WITH_PPE = bytes.fromhex(
    "9aa57068617a61cf0000019a00000000cd019ccf18b8a1d2c3b4a596c4100000003e0000003f0000803e0000403fc4040000403fc40100"
    "cd0280cd016896c4020000c4020000c40102c4040000003fc4100000003e0000003f0000803e0000403fcd02d0"
)
GOLDEN_OBSERVATION = {
    b"type": b"PpeObserved",
    b"id": b"plaza:1:2:ppe:7",
    b"camera": b"plaza",
    b"ts": b"1700000000.25",
    b"track": b"7",
    b"epoch": b"1",
    b"sequence": b"2",
    b"detection": b"3",
    b"height_px": b"212.5",
    b"zones": b"yard,gate",
    b"hardhat": b"0.0",
    b"no_hardhat": b"0.61",
    b"vest": b"0.9",
    b"no_vest": b"0.0",
    b"mask": b"0.0",
    b"no_mask": b"0.0",
    b"x1": b"0.25",
    b"y1": b"0.125",
    b"x2": b"0.5",
    b"y2": b"0.75",
}
GOLDEN_EVENTS: dict[str, dict[bytes, bytes]] = {
    "LineCrossed": {
        b"type": b"LineCrossed",
        b"id": b"plaza:1:2:door:in:0",
        b"camera": b"plaza",
        b"ts": b"1700000000.25",
        b"line": b"door",
        b"direction": b"in",
        b"klass": b"person",
        b"track": b"7",
        b"epoch": b"1",
        b"sequence": b"2",
    },
    "ZoneChanged": {
        b"type": b"ZoneChanged",
        b"id": b"plaza:1:2:square:zone_in:0",
        b"camera": b"plaza",
        b"ts": b"1700000000.5",
        b"zone": b"square",
        b"change": b"in",
        b"klass": b"person",
        b"track": b"7",
        b"occupancy": b"3",
        b"epoch": b"1",
        b"sequence": b"2",
        b"dwell_s": b"0.0",
    },
    "ZoneMinute": {
        b"type": b"ZoneMinute",
        b"id": b"plaza:square:minute:28333333",
        b"camera": b"plaza",
        b"ts": b"1699999980.0",
        b"zone": b"square",
        b"occupancy": b"1",
        b"maximum": b"3",
        b"mean": b"1.25",
        b"observed_s": b"60.0",
        b"entries": b"2",
        b"exits": b"2",
        b"dwells": b"12.5,3",
        b"longest_wait_s": b"0.0",
    },
    "Alert": {
        b"type": b"Alert",
        b"id": b"plaza:1:9:square:occupancy_closed:0",
        b"camera": b"plaza",
        b"ts": b"1700000009.0",
        b"rule": b"occupancy",
        b"state": b"closed",
        b"alert": b"plaza:1:2:square:occupancy_opened:0",
        b"zone": b"square",
        b"area": b"",
        b"value": b"5.0",
        b"limit": b"3.0",
        b"opened_at": b"1700000000.5",
        b"track": b"0",
        b"klass": b"",
        b"epoch": b"1",
        b"sequence": b"9",
    },
    "AreaChanged": {
        b"type": b"AreaChanged",
        b"id": b"area:hall:plaza:1:2:door:in:0",
        b"camera": b"plaza",
        b"ts": b"1700000000.25",
        b"area": b"hall",
        b"occupancy": b"12",
        b"uncertainty": b"1.4",
        b"entries": b"20",
        b"exits": b"8",
        b"cause": b"crossing",
    },
    "CameraGap": {
        b"type": b"CameraGap",
        b"id": b"plaza:gap:1:9",
        b"camera": b"plaza",
        b"ts": b"1700000009.0",
        b"start": b"1700000001.0",
        b"end": b"1700000009.0",
        b"cause": b"frames missing",
    },
    "CameraChanged": {
        b"type": b"CameraChanged",
        b"id": b"plaza:state:1:live",
        b"camera": b"plaza",
        b"ts": b"1700000000.0",
        b"state": b"live",
        b"detail": b"",
        b"failures": b"0",
    },
    "AlertRaised": {
        b"type": b"AlertRaised",
        b"id": b"crowd:plaza:1:2:square:zone_in:0:raised",
        b"camera": b"plaza",
        b"ts": b"1700000000.5",
        b"alert": b"crowd:plaza:1:2:square:zone_in:0",
        b"rule": b"crowd",
        b"severity": b"warning",
        b"subject": b"square",
        b"title": b"Too many: 5 in Square, more than 4",
    },
    "AlertChanged": {
        b"type": b"AlertChanged",
        b"id": b"crowd:plaza:1:2:square:zone_in:0:acknowledged:1",
        b"camera": b"plaza",
        b"ts": b"1700000000.5",
        b"alert": b"crowd:plaza:1:2:square:zone_in:0",
        b"rule": b"crowd",
        b"state": b"acknowledged",
        b"by": b"ada",
        b"escalated": b"0",
    },
}
GOLDEN_EVENTS |= {
    "VisitorChanged": {
        b"type": b"VisitorChanged",
        b"id": b"visit:a1:2",
        b"camera": b"",
        b"ts": b"1700000000.5",
        b"visit": b"a1",
        b"person": b"b2",
        b"state": b"arrived",
        b"previous": b"invited",
        b"version": b"2",
        b"expected_from": b"1700000000.0",
        b"expected_until": b"1700007200.0",
        b"area": b"lab",
        b"by": b"ada",
        b"auto": b"0",
    },
    "VisitorNotice": {
        b"type": b"VisitorNotice",
        b"id": b"visit:a1:2:arrived",
        b"camera": b"",
        b"ts": b"1700000000.5",
        b"visit": b"a1",
        b"notice": b"arrived",
    },
    "AreaMismatch": {
        b"type": b"AreaMismatch",
        b"id": b"mismatch:lab:1700000000.0:opened",
        b"camera": b"",
        b"ts": b"1700000300.0",
        b"area": b"lab",
        b"state": b"opened",
        b"counted": b"5",
        b"expected": b"3",
        b"since": b"1700000000.0",
        b"door": b"lobby/door",
    },
    "TailgatingSuspected": {
        b"type": b"TailgatingSuspected",
        b"id": b"tailgating:lobby:1:2:door:in:0",
        b"camera": b"lobby",
        b"ts": b"1700000000.5",
        b"line": b"door",
        b"crossings": b"2",
        b"check_ins": b"1",
        b"window_s": b"60.0",
        b"evidence": b"lobby:1:2:door:in:0",
    },
    "RollCallChanged": {
        b"type": b"RollCallChanged",
        b"id": b"roll-call:c3:a1:safe:1700000000.5",
        b"camera": b"",
        b"ts": b"1700000000.5",
        b"roll_call": b"c3",
        b"state": b"safe",
        b"visit": b"a1",
        b"drill": b"1",
        b"by": b"ada",
    },
}
GOLDEN_EVENTS["PpeViolation"] = {
    b"type": b"PpeViolation",
    b"id": b"yard:1:2:ppe:7:hats:opened:1",
    b"camera": b"yard",
    b"ts": b"1700000000.5",
    b"violation": b"yard:1:2:ppe:7:hats",
    b"rule": b"hats",
    b"state": b"opened",
    b"items": b"hardhat",
    b"zone": b"site",
    b"track": b"7",
    b"first_seen": b"1700000000.5",
    b"last_seen": b"1700000000.5",
    b"votes": b"hardhat:+0.60,+0.55,+0.61",
    b"cause": b"",
}
GOLDEN_EVENTS["StoreFilling"] = {
    b"type": b"StoreFilling",
    b"id": b"store:filling:1",
    b"camera": b"",
    b"ts": b"1700000000.0",
    b"state": b"filling",
    b"used_bytes": b"800",
    b"limit_bytes": b"1000",
}
OLDER: dict[str, dict[bytes, bytes]] = {
    "ZoneChanged without dwell_s": {k: v for k, v in GOLDEN_EVENTS["ZoneChanged"].items() if k != b"dwell_s"},
    "AlertChanged without escalated": {k: v for k, v in GOLDEN_EVENTS["AlertChanged"].items() if k != b"escalated"},
}
"""As versions before wrote them."""
GOLDEN_TRACKED = bytes.fromhex("98a5706c617a610102cf17979cfe3d85ca40c400c400c40081a673717561726503")
"""TrackedFrame before `queues`."""
GOLDEN_QUEUES = bytes.fromhex(
    "99a5706c617a610102cf17979cfe3d85ca40c400c400c40081a67371756172650381a67371756172659302cb4029000000000000cb402000000000"
    "0000"
)
GOLDEN_MEMBER = (
    b'{"id":"plaza:1:2:door:in:0","ts":1700000000.25,"camera":"plaza","line":"door","direction":"in",'
    b'"class":"person","track":7}'
)


def test_golden_detections() -> None:
    message = msgspec.msgpack.decode(GOLDEN_DETECTIONS, type=FrameDetections)
    assert (message.camera, message.sequence, message.source_width, message.source_height) == ("phaza", 412, 640, 360)
    assert len(message.boxes) == 16
    assert message.ppe is None, "what an older version stored"


def test_golden_detections_with_ppe() -> None:
    message = msgspec.msgpack.decode(GOLDEN_WITH_PPE, type=FrameDetections)
    assert message.ppe is not None
    assert (message.ppe.items, message.ppe.picture_height, len(message.ppe.boxes)) == (b"\x02", 720, 16)
    assert message.carried == b"", "what a version without regions stored"
    assert msgspec.msgpack.encode(message) == b"\x9b" + GOLDEN_WITH_PPE[1:] + b"\xc4\x00"


def test_golden_detections_with_carried() -> None:
    stored = b"\x9b" + GOLDEN_WITH_PPE[1:] + b"\xc4\x01\x01"
    message = msgspec.msgpack.decode(stored, type=FrameDetections)
    assert message.carried == b"\x01"
    assert msgspec.msgpack.encode(message) == stored


def test_golden_observation() -> None:
    event = codec.decode(OBSERVATIONS, GOLDEN_OBSERVATION)
    assert (event.track, event.no_hardhat, event.zones.split(",")) == (7, 0.61, ["yard", "gate"])
    assert {k.encode(): str(v).encode() for k, v in codec.encode(OBSERVATIONS, event).items()} == GOLDEN_OBSERVATION


@pytest.mark.parametrize("kind", GOLDEN_EVENTS)
def test_golden_events(kind: str) -> None:
    event = codec.decode(EVENTS, GOLDEN_EVENTS[kind])
    assert type(event).__name__ == kind
    assert {k.encode(): str(v).encode() for k, v in codec.encode(EVENTS, event).items()} == GOLDEN_EVENTS[kind]


@pytest.mark.parametrize("kind", OLDER)
def test_older_events_are_read(kind: str) -> None:
    assert codec.decode(EVENTS, OLDER[kind]).id


def test_a_tracked_frame_is_read_with_and_without_queues() -> None:
    frame = msgspec.msgpack.decode(GOLDEN_TRACKED, type=TrackedFrame)
    assert (frame.camera, frame.occupancy, frame.queues) == ("plaza", {"square": 3}, {})
    queues = msgspec.msgpack.decode(GOLDEN_QUEUES, type=TrackedFrame).queues
    assert (queues["square"].length, queues["square"].longest_s, queues["square"].served_s) == (2, 12.5, 8.0)
    assert msgspec.msgpack.encode(msgspec.structs.replace(frame, queues=queues)) == GOLDEN_QUEUES


def test_golden_member() -> None:
    event = codec.decode(EVENTS, GOLDEN_EVENTS["LineCrossed"])
    assert encode_member(build_crossing(event)) == GOLDEN_MEMBER
    assert decode_member(GOLDEN_MEMBER).class_name == "person"


def test_every_event_has_a_golden_form() -> None:
    assert {kind.__name__ for kind in AnyEvent.__args__} == set(GOLDEN_EVENTS)


def test_a_field_that_a_newer_version_added_is_ignored() -> None:
    assert codec.decode(EVENTS, {**GOLDEN_EVENTS["LineCrossed"], b"colour": b"red"}).track == 7


def test_golden_audit_entry() -> None:
    fields = {
        b"ts": b"1700000000.25",
        b"who": b"ada",
        b"via": b"session",
        b"action": b"camera.change",
        b"target": b"plaza",
        b"address": b"203.0.113.9",
        b"detail": b"version 7",
        b"token": b"",
    }
    entry = codec.decode(AUDIT, fields)
    assert (entry.who, entry.ts, entry.detail) == ("ada", 1700000000.25, "version 7")
    assert {k.encode(): str(v).encode() for k, v in codec.encode(AUDIT, entry).items()} == fields


@pytest.mark.parametrize("fields", [{}, {b"type": b"Nonsense"}, {b"type": b"LineCrossed", b"id": b"\xff"}])
def test_what_cannot_be_decoded_is_poison(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(codec.PoisonError):
        codec.decode(EVENTS, fields)


@pytest.mark.parametrize("ts", ["nan", "inf", "-inf", "-5", "1e18"])
@pytest.mark.parametrize("stream", [EVENTS, AUDIT], ids=["events", "audit"])
def test_a_time_that_is_no_date_is_poison(stream: Stream, ts: str) -> None:
    gap = {"type": "CameraGap", "id": "g", "camera": "c", "start": "1", "end": "2", "cause": ""}
    audit = {"who": "ada", "via": "cli", "action": "camera.change", "target": "plaza"}
    fields = {**(gap if stream is EVENTS else audit), "ts": ts}
    with pytest.raises(codec.PoisonError, match="ts"):
        codec.decode(stream, {name.encode(): value.encode() for name, value in fields.items()})


@pytest.mark.parametrize("name", ["start", "end"])
def test_a_number_that_is_not_finite_is_poison(name: str) -> None:
    fields = {"type": "CameraGap", "id": "g", "camera": "c", "ts": "2", "start": "1", "end": "2", "cause": ""}
    with pytest.raises(codec.PoisonError, match=f"{name} nan"):
        codec.decode(EVENTS, {key.encode(): value.encode() for key, value in (fields | {name: "nan"}).items()})


@pytest.mark.parametrize("change", [{"boxes": NO_NUMBER}, {"scores": NO_NUMBER}, {"captured_at_ns": -1}])
def test_a_packed_number_that_is_not_finite_is_poison(change: dict[str, Any]) -> None:
    frame = FrameDetections("lobby", 1, 1, 10**18, bytes(16), bytes(4), bytes(1))
    fields = codec.encode(DETECTIONS, msgspec.structs.replace(frame, **change))
    with pytest.raises(codec.PoisonError, match=next(iter(change))):
        codec.decode(DETECTIONS, {b"d": fields["d"]})


def test_a_number_of_the_ppe_model_that_is_not_finite_is_poison() -> None:
    ppe = PpeColumns(bytes(2), bytes(2), bytes(1), NO_NUMBER, bytes(16), 360)
    frame = FrameDetections("lobby", 1, 1, 10**18, bytes(16), bytes(4), bytes(1), ppe=ppe)
    with pytest.raises(codec.PoisonError, match="scores"):
        codec.decode(DETECTIONS, {b"d": codec.encode(DETECTIONS, frame)["d"]})


@given(st.binary(max_size=40))
def test_no_bytes_raise_anything_but_poison(noise: bytes) -> None:
    with contextlib.suppress(codec.PoisonError):
        codec.decode(DETECTIONS, {b"d": noise})


@given(st.floats(1e9, 2e9), st.text(max_size=20))
def test_an_event_survives_the_wire(ts: float, cause: str) -> None:
    event = CameraGap(id="g", camera="c", ts=ts, start=ts, end=ts, cause=cause)
    fields = {k.encode(): str(v).encode("utf-8", "surrogatepass") for k, v in codec.encode(EVENTS, event).items()}
    try:
        assert codec.decode(EVENTS, fields) == event
    except codec.PoisonError:
        assert not cause.isprintable()
