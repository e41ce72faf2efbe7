"""A tracking shard as a process of its own: `python -m tests.support.shard_main <configuration as JSON>`."""

from __future__ import annotations

import sys

import msgspec

from crowdperf.runtime.process_runtime import ProcessRuntime, log_to_stderr
from crowdperf.settings.process_config import TrackingConfig
from crowdperf.tracking.process import main

if __name__ == "__main__":
    log_to_stderr("tracking-0")
    runtime = ProcessRuntime("tracking-0", 30.0)
    runtime.install()
    main(msgspec.json.decode(sys.argv[1], type=TrackingConfig), runtime)
