"""Keep secrets out of logs and texts."""

from __future__ import annotations

import logging
import re
import sys
import time

CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")


def redact(text: str) -> str:
    """`text` with the user and password of every URL replaced by `***`: the one door for logs and error texts."""
    return CREDENTIALS.sub("***@", text)


class _RedactingFormatter(logging.Formatter):
    """Formats the whole record, traceback included, and only then removes credentials."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_to_stderr(name: str, level: int = logging.INFO) -> None:
    """Send this process's log to stderr, where supervisord rotates it."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _RedactingFormatter(f"%(asctime)s.%(msecs)03dZ %(levelname)s {name} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
