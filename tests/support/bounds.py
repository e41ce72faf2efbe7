"""A walk over all that an object keeps: what is the longest thing in there?"""

from __future__ import annotations

import functools
import logging
import re
import threading
import types
import zoneinfo
from collections import deque
from collections.abc import Iterator

import numpy as np
import redis
import redis.asyncio

PLAIN = (str, bytes, int, float, type(None))
NOT_OURS = (
    *(type, types.ModuleType, logging.Logger, re.Pattern, zoneinfo.ZoneInfo, threading.Thread),
    *(redis.Redis, redis.asyncio.Redis, redis.ConnectionPool),
)
"""Whose inside is not looked at: the interpreter's, or a library's with bounds of its own."""


def largest(thing: object, *besides: object) -> tuple[int, str]:
    """Return the longest container that can be reached from an object, and the way to it.

    Args:
        besides: objects that are left out with all that is in them: what the configuration says, for one.
    """
    seen = {id(one) for one in besides}
    todo: deque[tuple[object, str]] = deque([(thing, type(thing).__name__)])
    found = (0, "")
    while todo:
        one, path = todo.popleft()
        if id(one) in seen or isinstance(one, (*PLAIN, *NOT_OURS)):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            found = max(found, (one.shape[0] if one.ndim else 0, path))
        elif isinstance(one, (dict, list, tuple, set, frozenset, deque)):
            found = max(found, (len(one), path))
        todo.extend(_inside(one, path))
    return found


def _inside(one: object, path: str) -> Iterator[tuple[object, str]]:
    if isinstance(one, (dict, types.MappingProxyType)):
        yield from ((value, f"{path}[{key!r}]") for key, value in list(one.items()))
    elif isinstance(one, (list, tuple, set, frozenset, deque)):
        yield from ((value, f"{path}[]") for value in list(one))
    elif isinstance(one, types.MethodType):
        yield one.__self__, f"{path}.self"
    elif isinstance(one, types.FunctionType):
        for cell in one.__closure__ or ():
            yield cell.cell_contents, f"{path}.closure"
        yield one.__defaults__, f"{path}.defaults"
    elif isinstance(one, functools.partial):
        yield from ((value, f"{path}.partial") for value in (one.func, one.args, one.keywords))
    slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [*getattr(one, "__dict__", {}), *slots, *getattr(type(one), "__struct_fields__", ())]
    yield from ((getattr(one, name, None), f"{path}.{name}") for name in dict.fromkeys(names))
