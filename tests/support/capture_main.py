"""A capture process for tests: configuration on standard input, metrics on standard error as JSON lines."""

from __future__ import annotations

import sys
import threading

import msgspec

from crowdperf.capture.process import main
from crowdperf.runtime.process_runtime import ProcessRuntime, log_to_stderr
from crowdperf.settings.process_config import CaptureGroupConfig


def _print_metrics(runtime: ProcessRuntime) -> None:
    while not runtime.wait_for_stop(0.1):
        snapshot = runtime.metrics.snapshot("capture-cam", 0.0)
        sys.stderr.buffer.write(b"METRICS " + msgspec.json.encode(snapshot) + b"\n")
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    log_to_stderr("capture-cam")
    runtime = ProcessRuntime("capture-cam", max_silence_s=30)
    runtime.install()
    threading.Thread(target=_print_metrics, args=(runtime,), daemon=True).start()
    main(msgspec.json.decode(sys.stdin.buffer.read(), type=CaptureGroupConfig), runtime)
    runtime.finish()
