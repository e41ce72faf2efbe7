"""Events and configurations for tests of alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from crowdperf.messaging.schema import Alert, CameraChanged, CameraGap, LineCrossed, ZoneChanged
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.worker_config import NotifyConfig, build_notify_config
from crowdperf.storage.alerts import AlertDoc
from crowdperf.workers.notify.logic import Notification

NOW = 1_795_600_000.0
SQUARE = {"id": "square", "name": "Square", "polygon": [[0, 0], [1, 0], [1, 1]], "limit": 4}
DOOR = {"id": "door", "name": "Door", "p1": [0.5, 0.1], "p2": [0.5, 0.9]}
CAMERAS = [
    {"id": "plaza", "name": "Plaza", "url": "rtsp://192.0.2.1/", "zones": [SQUARE], "lines": [DOOR]},
    {"id": "gate", "url": "rtsp://192.0.2.2/", "zones": [SQUARE], "lines": [DOOR]},
]

ALERT = AlertDoc(
    id="crowd:1", rule="crowd", severity="warning", camera="plaza", subject="square", title="Too many",
    detail="Plaza: 5 in Square, more than 4", event="1", raised_at=NOW, last_at=NOW, count=1,
)  # fmt: skip
NOTIFICATION = Notification(
    id="crowd:1:0", channel="hook", due=NOW, stage=0, alert=ALERT, site="Riverside", camera_title="Plaza"
)


def make_config(alerts: dict[str, Any], redis_url: str = "", instance: int = 0, instances: int = 1) -> NotifyConfig:
    """Return the notify worker's configuration of a site with these alerts."""
    config = parse(
        msgspec.json.encode(
            {
                "site": {"name": "Riverside", "timezone": "Europe/Berlin"},
                "redis": {"url": redis_url},
                "workers": {"notify": instances},
                "cameras": CAMERAS,
                "alerts": alerts,
            }
        )
    )
    return build_notify_config(Deployment(config, Paths(Path("/nowhere"))), instance)


def zone(n: int, occupancy: int, ts: float, camera: str = "plaza") -> ZoneChanged:
    """Return the square's n-th change."""
    return ZoneChanged(
        id=f"{camera}:1:{n}:square:zone_in:0", camera=camera, ts=ts, zone="square", change="in", class_name="person",
        track=n, occupancy=occupancy, epoch=1, sequence=n,
    )  # fmt: skip


def crossing(n: int, ts: float, camera: str = "plaza", class_name: str = "person") -> LineCrossed:
    """Return the door's n-th crossing."""
    return LineCrossed(
        id=f"{camera}:1:{n}:door:in:0", camera=camera, ts=ts, line="door", direction="in", class_name=class_name,
        track=n, epoch=1, sequence=n,
    )  # fmt: skip


def state(n: int, name: Any, ts: float, camera: str = "plaza") -> CameraChanged:
    """Return the camera's n-th change of state."""
    return CameraChanged(id=f"{camera}:state:{n}:{name}", camera=camera, ts=ts, state=name)


def gap(seconds: float, ts: float) -> CameraGap:
    """Return a gap that ends at `ts`."""
    return CameraGap(id="plaza:gap:1:9", camera="plaza", ts=ts, start=ts - seconds, end=ts, cause="frames missing")


def breach(n: int, name: Any, ts: float) -> Alert:
    """Somebody loiters in the square, or does not any more."""
    return Alert(
        id=f"plaza:1:{n}:square:loitering_{name}", camera="plaza", ts=ts, rule="loitering", state=name,
        alert=f"plaza:1:{n}:square:loitering_opened", zone="square", value=9.0, limit=5.0, track=n,
    )  # fmt: skip
