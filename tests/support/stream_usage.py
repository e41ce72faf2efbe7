"""Derive from the source which streams a process reads and writes.

The analysis starts at the entry function and follows names: functions, classes, constants, and those methods of
reached classes whose name is used somewhere in reached code. Nothing is imported or run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.source_scan import Module, Source, called

USES = {"Publisher": "publish", "encode": "encode", "stream_key": "key"}
"""Calls that take a stream constant. Any other use of the constant reads."""
NEUTRAL = frozenset({"max_entries", "name"})
"""Attributes of a stream that neither read nor write."""
STREAMS_MODULE = "crowdperf.messaging.streams"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Part = tuple[str, str]
"""A module and the name of one of its definitions, with the method for a class: `Outbox.send`."""


class _Reached:
    """What one entry function reaches."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.parts: dict[Part, list[ast.AST]] = {}
        self._methods: dict[str, list[tuple[Part, ast.AST]]] = {}
        """Methods of reached classes, by name, that no reached code uses so far."""
        self._attributes: set[str] = set()
        self._todo: list[tuple[Module, Part, ast.AST]] = []

    def follow(self, module: str, name: str) -> None:
        self._reach(self._source.modules[module], name)
        while self._todo:
            home, part, node = self._todo.pop()
            self.parts.setdefault(part, []).append(node)
            for child in ast.walk(node):
                if isinstance(child, ast.Name):
                    self._reach(home, child.id)
                    imported = self._source.modules.get(".".join(home.imports.get(child.id, ())))
                    if imported is not None:
                        # The web process lists its modules of routes, and takes the router of each.
                        self._reach(imported, "router")
                elif isinstance(child, ast.Attribute):
                    self._use_attribute(child.attr)
                    target = home.imports.get(child.value.id) if isinstance(child.value, ast.Name) else None
                    if target and ".".join(target) in self._source.modules:
                        self._reach(self._source.modules[".".join(target)], child.attr)

    def _reach(self, module: Module, name: str) -> None:
        while name in module.imports:
            origin, name = module.imports[name]
            if origin not in self._source.modules or origin == STREAMS_MODULE:
                return
            module = self._source.modules[origin]
        part = module.name, name
        if part in self.parts:
            return
        for node in module.tree.body:
            if isinstance(node, Definition) and node.name == name:
                self.parts[part] = []
                if isinstance(node, ast.ClassDef):
                    self._reach_class(module, part, node)
                else:
                    self._todo.append((module, part, node))
        if name in module.constants:
            self.parts[part] = []
            self._todo.append((module, part, module.constants[name]))

    def _reach_class(self, module: Module, part: Part, node: ast.ClassDef) -> None:
        for child in ast.iter_child_nodes(node):
            method = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else "__class__"
            if method.startswith("__") or method in self._attributes:
                self._todo.append((module, part, child))
            else:
                self._methods.setdefault(method, []).append((part, child))

    def _use_attribute(self, name: str) -> None:
        if name not in self._attributes:
            self._attributes.add(name)
            for part, node in self._methods.pop(name, []):
                self._todo.append((self._source.modules[part[0]], part, node))


def find_streams(source: Source, entry: str, names: dict[str, str]) -> tuple[set[str], set[str]]:
    """Find the streams that a process reads and writes.

    Args:
        source: The parsed packages.
        entry: `module:function` of the process.
        names: Constant in `messaging.streams` -> name of the stream.

    Returns:
        The names of the streams that it reads, and of those that it writes. A function or class that encodes entries
        of a stream needs its key to append them. Any other use of a key (read, trim, delete) counts as reading.
    """
    reached = _Reached(source)
    reached.follow(*entry.split(":"))
    overridden = {
        keyword.arg
        for nodes in reached.parts.values()
        for node in nodes
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
    }
    reads, writes = set(), set()
    for (home, _), nodes in reached.parts.items():
        imports = source.modules[home].imports
        uses: dict[str, set[str]] = {}
        for node in nodes:
            for constant, use in _find_uses(node, overridden):
                if constant in names and imports.get(constant) == (STREAMS_MODULE, constant):
                    uses.setdefault(use, set()).add(names[constant])
        appended = uses.get("encode", set())
        writes |= appended | uses.get("publish", set())
        reads |= uses.get("read", set()) | uses.get("key", set()) - appended
    return reads, writes


def _find_uses(node: ast.AST, overridden: set[str | None], use: str = "read") -> Iterator[tuple[str, str]]:
    """Yield each name with its use: `publish`, `encode`, `key` or `read`."""
    if isinstance(node, ast.Name):
        yield node.id, use
    elif isinstance(node, ast.arguments):
        defaults = [*zip(reversed(node.args), reversed(node.defaults)), *zip(node.kwonlyargs, node.kw_defaults)]
        for argument, default in defaults:
            if default is not None and argument.arg not in overridden:
                yield from _find_uses(default, overridden)
    elif not isinstance(node, ast.Attribute) or node.attr not in NEUTRAL:
        inner = USES.get(called(node), "read") if isinstance(node, ast.Call) else "read"
        for child in ast.iter_child_nodes(node):
            yield from _find_uses(child, overridden, inner)
