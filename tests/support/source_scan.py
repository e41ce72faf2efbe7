"""Read the strings that the source hands to calls, without importing it.

A string is resolved as far as the source allows: constants, f-strings, sums, loops over literals, `Literal` types. What
only a running program knows becomes `*`.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

UNKNOWN = "*"
MAX_DEPTH = 12
MAX_VALUES = 200
Scope = ast.FunctionDef | ast.AsyncFunctionDef
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Module:
    """One parsed file."""

    name: str
    tree: ast.Module
    constants: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    attributes: dict[str, list[ast.expr]] = field(default_factory=dict)
    """Name of an attribute of `self` -> what is assigned to it anywhere in the file."""
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, innermost first."""
        while node in self.parents:
            node = self.parents[node]
            yield node


class Source:
    """All files of some packages."""

    def __init__(self, root: Path, *packages: str) -> None:
        self.modules: dict[str, Module] = {}
        for path in sorted(path for package in packages for path in (root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            self.modules[name] = _parse(name, path.read_text(encoding="utf-8"))

    def calls(self) -> Iterator[tuple[Module, ast.Call]]:
        """Yield every call."""
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call):
                    yield module, node

    def texts(self) -> Iterator[tuple[Module, ast.expr, set[str]]]:
        """Yield every outermost expression that makes a string, docstrings left out, with its values."""
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if not isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                    continue
                parent = module.parents[node]
                if isinstance(parent, ast.Expr | ast.JoinedStr | ast.FormattedValue | ast.BinOp):
                    continue
                if isinstance(node, ast.Constant) and not isinstance(node.value, str):
                    continue
                yield module, node, self.values(module, node)

    def values(self, module: Module, node: ast.expr, depth: int = 0) -> set[str]:
        """Resolve an expression to the strings it may be, with `*` for what is unknown."""
        found = self._values(module, node, depth) if depth < MAX_DEPTH else set()
        return {_squeezed(text) for text in found} or {UNKNOWN}

    def _values(self, module: Module, node: ast.expr, depth: int) -> set[str]:
        if isinstance(node, ast.Constant):
            return {node.value} if isinstance(node.value, str) else set()
        if isinstance(node, ast.JoinedStr):
            return self._joined(module, node.values, depth)
        if isinstance(node, ast.FormattedValue):
            return self.values(module, node.value, depth + 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined(module, [node.left, node.right], depth)
        if isinstance(node, ast.IfExp):
            return self.values(module, node.body, depth + 1) | self.values(module, node.orelse, depth + 1)
        if isinstance(node, ast.Name):
            return self._named(module, node, depth)
        if isinstance(node, ast.Attribute):
            return self._attribute(module, node, depth)
        return {UNKNOWN}

    def _joined(self, module: Module, parts: list[ast.expr], depth: int) -> set[str]:
        choices = [sorted(self.values(module, part, depth + 1)) for part in parts]
        return {"".join(each) for each in itertools.islice(itertools.product(*choices), MAX_VALUES)}

    def _named(self, module: Module, node: ast.Name, depth: int) -> set[str]:
        for scope in module.above(node):
            loops = scope.generators if isinstance(scope, COMPREHENSIONS) else [scope]
            for loop in loops:
                if isinstance(loop, ast.For | ast.AsyncFor | ast.comprehension) and node.id in _targets(loop.target):
                    return self._looped(module, loop, node.id, depth)
            if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
                own = _assigned(scope, node.id)
                if own is not None:
                    return self.values(module, own, depth + 1)
                inner_loop = _loop_of(scope, node.id)
                if inner_loop is not None:
                    return self._looped(module, inner_loop, node.id, depth)
                every = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
                for argument in every:
                    if argument.arg == node.id:
                        return self._literal(module, argument.annotation)
        where, constant = self.constant(module, node.id)
        return self.values(where, constant, depth + 1) if constant is not None else {UNKNOWN}

    def _attribute(self, module: Module, node: ast.Attribute, depth: int) -> set[str]:
        if not isinstance(node.value, ast.Name):
            return {UNKNOWN}
        if node.value.id == "self":
            given = module.attributes.get(node.attr, [])
            return (
                set().union(*(self._values(module, each, depth + 1) for each in given)) if depth < MAX_DEPTH else set()
            )
        where, constant = self.constant(module, node.value.id)
        if isinstance(constant, ast.Call):
            for keyword in constant.keywords:
                if keyword.arg == node.attr:
                    return self.values(where, keyword.value, depth + 1)
        return {UNKNOWN}

    def _looped(
        self, module: Module, loop: ast.For | ast.AsyncFor | ast.comprehension, name: str, depth: int
    ) -> set[str]:
        found: set[str] = set()
        for one in self._elements(module, loop.iter, loop.target, name, depth + 1):
            found |= self.values(module, one, depth + 1)
        return found

    def _elements(self, module: Module, node: ast.expr, target: ast.expr, name: str, depth: int) -> Iterator[ast.expr]:
        """Yield what the loop's variable `name` becomes."""
        at = next((i for i, part in enumerate(getattr(target, "elts", [])) if name in _targets(part)), None)
        if depth >= MAX_DEPTH:
            return
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            for part, one in zip(getattr(target, "elts", []), node.args):
                if name in _targets(part):
                    yield from self._elements(module, one, part, name, depth + 1)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "items":
            if at == 0:
                yield from self._elements(module, node.func.value, ast.Name(name), name, depth + 1)
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            for one in node.elts:
                if at is None:
                    yield one
                elif isinstance(one, ast.Tuple) and at < len(one.elts):
                    yield one.elts[at]
        elif isinstance(node, ast.Dict):
            yield from (key for key in node.keys if key is not None)
        elif isinstance(node, ast.IfExp):
            yield from self._elements(module, node.body, target, name, depth + 1)
            yield from self._elements(module, node.orelse, target, name, depth + 1)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            for one in module.attributes.get(node.attr, []):
                yield from self._elements(module, one, target, name, depth + 1)
        elif isinstance(node, ast.Name):
            for scope in module.above(node):
                own = _assigned(scope, node.id) if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef) else None
                if own is not None:
                    yield from self._elements(module, own, target, name, depth + 1)
                    return
            where, constant = self.constant(module, node.id)
            if constant is not None:
                yield from self._elements(where, constant, target, name, depth + 1)

    def constant(self, module: Module, name: str) -> tuple[Module, ast.expr | None]:
        """Find the module-level value of a name, through imports."""
        for _ in range(MAX_DEPTH):
            if name in module.constants:
                return module, module.constants[name]
            origin, name = module.imports.get(name, ("", ""))
            if origin not in self.modules:
                break
            module = self.modules[origin]
        return module, None

    def _literal(self, module: Module, annotation: ast.expr | None, depth: int = 0) -> set[str]:
        """Read the strings of a `Literal` type."""
        if annotation is None or depth > MAX_DEPTH:
            return {UNKNOWN}
        if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
            inside = annotation.slice
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
        if isinstance(annotation, ast.Name):
            where, constant = self.constant(module, annotation.id)
            return self._literal(where, constant, depth + 1)
        return {UNKNOWN}


@functools.cache
def source_of(root: Path, *packages: str) -> Source:
    """Return the parsed files of some packages, parsed once."""
    return Source(root, *packages)


def called(node: ast.Call) -> str:
    """Return the last name of what is called: `publish` for `self.bus.publish(…)`."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def argument(node: ast.Call, position: int, keyword: str = "") -> ast.expr | None:
    """Return one argument of a call."""
    named = next((each.value for each in node.keywords if each.arg == keyword), None)
    return node.args[position] if position < len(node.args) else named


def _parse(name: str, text: str) -> Module:
    module = Module(name, ast.parse(text))
    for node in ast.walk(module.tree):
        for child in ast.iter_child_nodes(node):
            module.parents[child] = node
        if isinstance(node, ast.ImportFrom) and node.module:
            module.imports |= {each.asname or each.name: (node.module, each.name) for each in node.names}
        for target, value in _assignments(node):
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                module.attributes.setdefault(target.attr, []).append(value)
    for node in module.tree.body:
        module.constants |= {target.id: value for target, value in _assignments(node) if isinstance(target, ast.Name)}
    return module


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.target, node.value
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts)
        else:
            yield target, node.value


def _assigned(scope: Scope, name: str) -> ast.expr | None:
    return _locals(scope)[0].get(name)


def _loop_of(scope: Scope, name: str) -> ast.For | ast.AsyncFor | None:
    return _locals(scope)[1].get(name)


@functools.cache
def _locals(scope: Scope) -> tuple[dict[str, ast.expr], dict[str, ast.For | ast.AsyncFor]]:
    """Map the names of a function to their first value, and to the loop that sets them."""
    values: dict[str, ast.expr] = {}
    loops: dict[str, ast.For | ast.AsyncFor] = {}
    for node in ast.walk(scope):
        for target, value in _assignments(node):
            if isinstance(target, ast.Name):
                values.setdefault(target.id, value)
        if isinstance(node, ast.For | ast.AsyncFor):
            loops |= dict.fromkeys(_targets(node.target) - loops.keys(), node)
    return values, loops


def _targets(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def _squeezed(text: str) -> str:
    while UNKNOWN * 2 in text:
        text = text.replace(UNKNOWN * 2, UNKNOWN)
    return text
