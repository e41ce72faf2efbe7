"""What replay found, as one JSON document: the same clip and configurations give the same bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from crowdperf.replay.detections import BEGIN_S
from crowdperf.replay.difference import Compared, Difference
from crowdperf.replay.run import Crossing, Outcome, Replayed


def document(replayed: Replayed, compared: Compared | None) -> bytes:
    """The whole, indented. It names no path, no machine and no duration of the work."""
    clip = replayed.clip
    content: dict[str, Any] = {
        "clip": {
            "name": clip.path.name,
            "width": clip.width,
            "height": clip.height,
            "fps": clip.fps,
            "pictures": len(replayed.times),
            "seconds": round(replayed.length_s, 6),
        },
        "configurations": [_outcome(outcome) for outcome in replayed.outcomes],
    }
    if compared is not None:
        content["same"] = compared.same
        content["differences"] = [_difference(one, replayed) for one in compared.differences]
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.setup.name,
        "camera": outcome.setup.tracked.camera_id,
        "model": outcome.model,
        "analysed": outcome.analysed,
        "counts": [
            {"line": line, "direction": direction, "class": klass, "count": count}
            for (line, direction, klass), count in sorted(outcome.counts().items())
        ],
        "zones": {name: msgspec.to_builtins(zone) for name, zone in outcome.zones.items()},
        "events": [
            # The time of day is as good as any (docs/replay.md): what counts is the second of the clip.
            {**msgspec.to_builtins(event), "at_s": round(event.ts - BEGIN_S, 6)}
            for event in outcome.events
        ],
    }


def _difference(one: Difference, replayed: Replayed) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": one.kind, "at_s": round(one.crossing.at_s, 6), "line": one.crossing.event.line}
    names = [outcome.setup.name for outcome in replayed.outcomes]
    row["counted"] = {names[one.which]: _counted(one.crossing)}
    if one.other is not None:
        row["counted"][names[1]] = _counted(one.other)
    return row


def _counted(crossing: Crossing) -> dict[str, Any]:
    event = crossing.event
    return {"id": event.id, "direction": event.direction, "class": event.klass, "picture": crossing.number}
