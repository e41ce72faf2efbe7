"""How many instances each worker has."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from crowdperf.settings.base import Settings

Instances = Annotated[int, Meta(ge=1, le=16)]


class Workers(Settings, frozen=True, kw_only=True):
    """Instances per worker. The work is split over them; one is enough for some hundred cameras."""

    notify: Instances = 1
    visitors: Instances = 1
    ppe: Instances = 1
    areas: Instances = 1
    recorder: Instances = 1
    housekeeping: Instances = 1
