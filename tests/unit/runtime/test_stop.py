"""A signal that comes at any moment of a wait ends it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, signal, sys, time
from crowdperf.runtime.process_runtime import ProcessRuntime

class Interruption:
    '''Sends SIGTERM at the given line that runs.'''

    def __init__(self, line):
        self.lines_left = line

    def trace(self, frame, event, argument):
        if event == "line":
            self.lines_left -= 1
            if self.lines_left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return self.trace

line, lines_left = 0, 0
while lines_left <= 0:
    line += 1
    runtime, interruption = ProcessRuntime("test", 10.0), Interruption(line)
    runtime.install()
    runtime.tick()
    sys.settrace(interruption.trace)
    runtime.wait_for_stop(0.02)
    sys.settrace(None)
    lines_left = interruption.lines_left
    assert runtime.stopping == (lines_left <= 0), line
    runtime.stop()
print("interrupted", line - 1)
"""


def test_a_signal_in_the_middle_of_a_wait_stops_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, f"the watchdog ended it: {done.stderr}"
    word, lines = done.stdout.split()
    assert word == "interrupted"
    assert int(lines) > 0
