"""Compiled geometries: kept by last use, as many as open rings need; a failure concerns its own size."""

from __future__ import annotations

import pytest

from crowdperf.models.geometry_store import MIN_GEOMETRIES, GeometryStore, Size, compute_max_geometries
from crowdperf.models.registry import ModelError
from tests.conftest import wait_until

SIZES = [(32 * (number + 1), 32) for number in range(12)]


class Compiler:
    """Counts what it builds; `failing` sizes raise."""

    def __init__(self) -> None:
        self.built: list[Size] = []
        self.failing: dict[Size, Exception] = {}

    def build(self, size: Size) -> str:
        self.built.append(size)
        if size in self.failing:
            raise self.failing[size]
        return f"{size}"


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


def test_nine_sizes_of_open_rings_compile_once(compiler: Compiler) -> None:
    store = GeometryStore(compiler.build, 20)
    store.retain(SIZES[:9])
    for _ in range(3):
        assert [store.get(size) for size in SIZES[:9]] == [f"{size}" for size in SIZES[:9]]
    assert compiler.built == SIZES[:9]


def test_the_least_recently_used_is_dropped(compiler: Compiler) -> None:
    store = GeometryStore(compiler.build, 20)
    for size in [*SIZES[:8], SIZES[0], SIZES[8], SIZES[0]]:
        store.get(size)
    assert compiler.built == SIZES[:9], "the first one was used again and stays"
    store.get(SIZES[1])
    assert compiler.built == [*SIZES[:9], SIZES[1]]


def test_what_no_ring_needs_is_dropped_before_what_one_needs(compiler: Compiler) -> None:
    store = GeometryStore(compiler.build, 20)
    store.retain(SIZES[:1])
    for size in SIZES[:9]:
        store.get(size)
    store.get(SIZES[0])
    assert compiler.built.count(SIZES[0]) == 1


def test_a_size_beyond_the_memory_is_refused_until_another_goes(compiler: Compiler) -> None:
    store = GeometryStore(compiler.build, MIN_GEOMETRIES + 1)
    store.retain(SIZES)
    for size in SIZES[:9]:
        store.get(size)
    for size in SIZES[9:]:
        assert store.ready(size), "refused at once, not compiled at every frame"
        with pytest.raises(ModelError, match=rf"no memory for pictures of {size[0]}x32.*Remedy"):
            store.get(size)
    assert compiler.built == SIZES[:9]
    store.retain(SIZES[1:10])
    assert store.get(SIZES[9]) == f"{SIZES[9]}"
    assert all(store.get(size) for size in SIZES[1:9])
    assert compiler.built == SIZES[:10]


@pytest.mark.parametrize("error", [RuntimeError("TopK exceeds 60\nmore"), MemoryError(), ModelError("own. Remedy: x.")])
def test_any_failure_to_build_concerns_its_size_only(compiler: Compiler, error: Exception) -> None:
    store = GeometryStore(compiler.build, 20)
    store.retain(SIZES[:2])
    compiler.failing[SIZES[0]] = error
    wait_until(lambda: store.ready(SIZES[0]), what="the failure")
    for _ in range(3):
        with pytest.raises(ModelError, match="Remedy"):
            store.get(SIZES[0])
    assert store.get(SIZES[1])
    assert compiler.built == SIZES[:2], "tried once"
    # The camera is opened again: the size gets another chance.
    compiler.failing.clear()
    store.retain(SIZES[1:2])
    store.retain(SIZES[:2])
    assert store.get(SIZES[0])


def test_memory_bounds_the_number() -> None:
    assert compute_max_geometries() > 0
