"""Keep what a model needs for each picture size: built in the background, dropped by last use, bounded by memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from crowdperf.models.registry import ModelError
from crowdperf.runtime.control_group import find_usable_memory

MIN_GEOMETRIES = 8
"""Number of geometries kept in any case; more are kept while open rings need them."""
GEOMETRY_BYTES = 80 * 2**20
"""Memory of one compiled geometry, measured: 76 to 84 MiB."""
MEMORY_SHARE = 0.25
"""Geometries take at most this share of the memory there is."""

Size = tuple[int, int]
"""Width and height of the model input, pixels."""
Built = TypeVar("Built")


class GeometryStore(Generic[Built]):
    """What was built for each size. A failure to build is kept too, and concerns its own size only.

    Args:
        build: runs on a thread of its own; may raise anything.
        max_geometries: bound by memory; 0 derives it from the memory there is.
    """

    def __init__(self, build: Callable[[Size], Built], max_geometries: int = 0) -> None:
        self._build = build
        self._max_geometries = max_geometries or compute_max_geometries()
        self._worker = ThreadPoolExecutor(1, "compile")
        self._built: OrderedDict[Size, Built] = OrderedDict()
        """The least recently used is first."""
        self._builds: dict[Size, Future[Built]] = {}
        """Builds that run, that failed, or whose result was not fetched yet."""
        self._needed: frozenset[Size] = frozenset()

    def ready(self, size: Size) -> bool:
        """Check whether `get` answers at once; if not, start to build in the background."""
        if size in self._built or (size not in self._builds and self._is_full()):
            return True
        if size not in self._builds:
            self._drop_unused_builds()
            self._builds[size] = self._worker.submit(self._build, size)
        return self._builds[size].done()

    def get(self, size: Size) -> Built:
        """Return what is built for this size, after waiting for it; raise ModelError if that failed."""
        if size in self._built:
            self._built.move_to_end(size)
            return self._built[size]
        self.ready(size)
        if size not in self._builds:
            raise ModelError(
                f"there is no memory for pictures of {size[0]}x{size[1]}: the model is prepared for "
                f"{len(self._built)} other sizes, which all are in use. Remedy: give cameras the same analysis_width, "
                "or add memory."
            )
        # A failure stays in `_builds` while a ring needs it: it would be the same at every frame.
        error = self._builds[size].exception()
        if isinstance(error, ModelError):
            raise error
        if error is not None:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(
                f"the model cannot be prepared for pictures of {size[0]}x{size[1]}: {reason}. "
                "Remedy: change the camera's analysis_width, or use another model."
            ) from error
        self._built[size] = self._builds.pop(size).result()
        while len(self._built) > self._get_limit():
            unneeded = [other for other in self._built if other not in self._needed and other != size]
            del self._built[unneeded[0] if unneeded else next(iter(self._built))]
        return self._built[size]

    def retain(self, needed: Collection[Size]) -> None:
        """Keep the sizes that open rings need, as far as memory allows; forget the failures of all others."""
        gone = self._needed.difference(needed)
        self._needed = frozenset(needed)
        for size in gone.intersection(self._builds):
            if self._builds[size].done():
                del self._builds[size]

    def _get_limit(self) -> int:
        return max(MIN_GEOMETRIES, min(len(self._needed), self._max_geometries))

    def _is_full(self) -> bool:
        """Check whether open rings need all that is kept; to drop one would compile at every frame."""
        failed = {size for size, build in self._builds.items() if build.done() and build.exception() is not None}
        kept = (self._built.keys() | self._builds.keys()) - failed
        return len(kept & self._needed) >= self._get_limit()

    def _drop_unused_builds(self) -> None:
        """Drop results that were never used: their cameras stopped before the size was ready."""
        done = [size for size, build in self._builds.items() if build.done() and size not in self._needed]
        for size in done[: 1 - MIN_GEOMETRIES]:
            del self._builds[size]


def compute_max_geometries() -> int:
    """Compute how many geometries fit into their share of the memory that this process may use."""
    return int(find_usable_memory() * MEMORY_SHARE) // GEOMETRY_BYTES
