"""Limit the threads of a network to the cores that this process may use."""

from __future__ import annotations

import logging

from crowdperf.runtime.control_group import find_usable_cores

log = logging.getLogger(__name__)


def limit_threads(requested: int) -> int:
    """Return the number of threads to use: all usable cores for 0, and never more than these."""
    cores = find_usable_cores()
    if requested > cores.whole:
        log.warning(
            "%d threads are wanted, %s; %d are used. Remedy: set inference.threads to 0, or allow more cores.",
            *(requested, cores.description, cores.whole),
        )
    return min(requested or cores.whole, cores.whole)
