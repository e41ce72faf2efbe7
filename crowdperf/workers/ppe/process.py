"""worker-ppe: turns observations of single frames into violations of PPE rules."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.schema import EvidenceRequest
from crowdperf.messaging.streams import EVIDENCE_REQUESTS, OBSERVATIONS, stream_key
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.worker_config import PpeConfig
from crowdperf.storage import violations
from crowdperf.workers.leases import Leases
from crowdperf.workers.ppe.logic import PpeLogic
from crowdperf.workers.sharded_consumer import ShardedConsumer, run_worker

WORKER = "ppe"


def main(config: PpeConfig, runtime: ProcessRuntime) -> None:
    """Run until a stop is requested."""
    client = connect(config.redis_url)
    prefix = config.key_prefix

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, violations.ViolationUpdate):
            violations.stage(pipe, effect, prefix)
        elif isinstance(effect, violations.Compliance):
            violations.stage_compliance(pipe, effect, prefix)
        elif isinstance(effect, EvidenceRequest):
            fields = codec.encode(EVIDENCE_REQUESTS, effect)
            name = stream_key(EVIDENCE_REQUESTS, prefix=prefix)
            pipe.xadd(name, fields, maxlen=EVIDENCE_REQUESTS.max_entries, approximate=True)

    leases = Leases(client, WORKER, config.instance, config.instances, runtime.name, prefix)
    consumer = ShardedConsumer(
        client,
        PpeLogic(config),
        leases,
        runtime.metrics,
        time.monotonic,
        time.time,
        stage=stage,
        prefix=prefix,
        input_stream=OBSERVATIONS,
    )
    run_worker(consumer, runtime)
    consumer.stop()
