"""Log to stderr without secrets."""

from __future__ import annotations

import logging
import sys
import time

from crowdperf.primitives.redaction import redact


class _RedactingFormatter(logging.Formatter):
    """Formats the whole record, traceback included, and then removes credentials."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_to_stderr(name: str, level: int = logging.INFO) -> None:
    """Log to stderr, from where supervisord writes and rotates the file."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _RedactingFormatter(f"%(asctime)s.%(msecs)03dZ %(levelname)s {name} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
