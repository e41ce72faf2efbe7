"""Start a supervised process and import its modules at low priority.

A start takes 0.3 s of processor time, nearly all for imports. An update of the configuration starts half a dozen at
once. They took two cores from the model for so long that frames were lost. On Linux every thread has its own priority:
a thread of low priority imports the modules, then the main thread works. To lower the main thread's priority and raise
it again would need privileges.

A program also ends when its supervisord ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading

from crowdperf.supervision import process_tree

LOW_PRIORITY_COMMANDS = ("capture", "tracking", "worker", "web")
"""Commands that may start late. Inference may not: no frame is analysed before it runs."""
IMPORT_NICE = 10
"""Gives a start a tenth of a core that the model would otherwise fill: it is late, but not starved."""


def import_command_modules(words: list[str]) -> None:
    """Import the modules of the command."""
    with contextlib.suppress(ImportError):  # The command itself reports a missing module.
        importlib.import_module("crowdperf.__main__")
        importlib.import_module("crowdperf.cli.supervised")
        from crowdperf.supervision.processes import PROCESSES

        for row in PROCESSES:
            if row.kind in (words[0], "-".join(words[:2])):
                importlib.import_module(row.entry.partition(":")[0])


def import_at_low_priority(words: list[str]) -> None:
    """Import the modules in a thread of low priority."""
    # numpy's threads would inherit the low priority, and the small matrices of these processes need none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    def import_slowly() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), IMPORT_NICE)
        import_command_modules(words)

    thread = threading.Thread(target=import_slowly, name="loading")
    thread.start()
    thread.join()


def main() -> int:
    """Import the modules, then run the command."""
    words = sys.argv[1:]
    # What a process writes is for its own user: visitors' names, pictures, logs.
    os.umask(0o077)
    if "SUPERVISOR_ENABLED" in os.environ:
        process_tree.end_with_parent()
        if not process_tree.has_reader(sys.stdout.fileno()):
            return 1  # supervisord ended before the kernel was asked to signal that.
    if words and words[0] in LOW_PRIORITY_COMMANDS:
        import_at_low_priority(words)
    command: int = importlib.import_module("crowdperf.__main__").main(words)
    return command


if __name__ == "__main__":
    sys.exit(main())
