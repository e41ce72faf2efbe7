"""A capture process for tests: its slice comes on standard input, its metrics go to standard error as JSON lines."""

from __future__ import annotations

import sys
import threading

import msgspec

from crowdperf.capture.process import main
from crowdperf.runtime import Runtime, log_to_stderr
from crowdperf.slices import CaptureGroup


def _print_metrics(runtime: Runtime) -> None:
    while not runtime.wait(0.1):
        snapshot = runtime.metrics.snapshot("capture-cam", 0.0)
        sys.stderr.buffer.write(b"METRICS " + msgspec.json.encode(snapshot) + b"\n")
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    log_to_stderr("capture-cam")
    runtime = Runtime("capture-cam", max_silence_s=30)
    runtime.install()
    threading.Thread(target=_print_metrics, args=(runtime,), daemon=True).start()
    main(msgspec.json.decode(sys.stdin.buffer.read(), type=CaptureGroup), runtime)
    runtime.finish()
