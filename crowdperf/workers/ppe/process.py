"""worker-ppe: from observations of single frames to violations of rules."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from crowdperf.events import wire
from crowdperf.events.connection import connect
from crowdperf.events.schema import EvidenceRequest
from crowdperf.events.streams import EVIDENCE_REQUESTS, OBSERVATIONS, key
from crowdperf.rule_slices import PpeSlice
from crowdperf.runtime import Runtime
from crowdperf.storage import violations
from crowdperf.workers.base import Member
from crowdperf.workers.leases import Leases
from crowdperf.workers.loop import work
from crowdperf.workers.ppe.logic import PpeLogic

WORKER = "ppe"


def main(slice_: PpeSlice, runtime: Runtime) -> None:
    """Work until told to stop."""
    client = connect(slice_.redis_url)
    prefix = slice_.key_prefix

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, violations.ViolationSet):
            violations.stage(pipe, effect, prefix)
        elif isinstance(effect, violations.Compliance):
            violations.stage_compliance(pipe, effect, prefix)
        elif isinstance(effect, EvidenceRequest):
            fields = wire.encode(EVIDENCE_REQUESTS, effect)
            name = key(EVIDENCE_REQUESTS, prefix=prefix)
            pipe.xadd(name, fields, maxlen=EVIDENCE_REQUESTS.max_entries, approximate=True)

    leases = Leases(client, WORKER, slice_.instance, slice_.instances, runtime.name, prefix)
    member = Member(
        client,
        PpeLogic(slice_),
        leases,
        runtime.metrics,
        time.monotonic,
        time.time,
        stage=stage,
        prefix=prefix,
        reads=OBSERVATIONS,
    )
    work(member, runtime)
    member.stop()
