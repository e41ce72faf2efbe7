"""Check names and docstrings of the code base: `python -m tests.support.language [folder or file ...]`.

The rules are those of CONTRIBUTING.md. Each finding names file, line and remedy.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_SUMMARY = 100
"""Longest first line of a docstring, in characters."""
MIN_ARGUMENTS = 3
"""A public function with this many arguments documents each of them."""
NO_VERBS = frozenset(
    [
        "whether",
        "what",
        "how",
        "who",
        "where",
        "when",
        "why",
        "which",
        "whose",
        "of",
        "as",
        "for",
        "the",
        "a",
        "an",
        "one",
        "all",
        "every",
        "from",
        "in",
        "by",
        "so",
        "it",
        "its",
        "none",
        "his",
        "her",
        "their",
        "this",
        "that",
        "some",
        "more",
        "both",
        "no",
        "not",
        "on",
        "with",
        "to",
        "if",
        "each",
        "any",
    ]
)
"""A function's docstring does not begin with one of these words."""
BANNED = re.compile(r"\b(nobody|whoever|whatever|anew|said|told|wish(?:es)?|riddle|how manieth)\b", re.IGNORECASE)
"""Words of a private dialect. The remedy is a plain sentence."""
BOUNDS = re.compile(r"(^|_)(MOST|LEAST|LONGEST|LARGEST|SHORTEST|SMALLEST|GREATEST)(_|$)")
"""Constants that every engineer looks for as MAX or MIN."""
ROUTES = frozenset({"get", "post", "put", "patch", "delete", "websocket", "route", "asgi", "post_action"})
"""Decorators of routes: the OpenAPI document describes their parameters."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_file(path: Path) -> Iterator[str]:
    """Yield the findings of one module, each as `path:line: text`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for parent, node in walk(tree):
        if isinstance(node, ast.ClassDef | Function):
            for finding in check_docstring(node, parent):
                yield f"{path}:{node.lineno}: {node.name}: {finding}"
    for name, line in find_constants(tree):
        if BOUNDS.search(name):
            yield f"{path}:{line}: {name}: say MAX_ or MIN_"
    for text, line in find_notes(tree):
        if found := BANNED.search(text):
            yield f"{path}:{line}: note of a constant or field: write '{found[0]}' plainly"
        if text[:1].islower():
            yield f"{path}:{line}: note of a constant or field: write a full sentence"


def walk(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield (parent, child) for every node below `node`."""
    for child in ast.iter_child_nodes(node):
        yield node, child
        yield from walk(child)


def check_docstring(node: ast.ClassDef | Function, parent: ast.AST) -> Iterator[str]:
    """Yield what is wrong with the docstring of a class or function."""
    text = ast.get_docstring(node)
    if text is None:
        return
    summary = text.splitlines()[0]
    if len(summary) > MAX_SUMMARY:
        yield f"summary of {len(summary)} characters, {MAX_SUMMARY} at most"
    if not summary.endswith((".", ":", "!", "?")):
        yield "the first line is not one sentence with a period"
    if found := BANNED.search(text):
        yield f"write '{found[0]}' plainly"
    if isinstance(node, ast.ClassDef):
        yield from check_constructor(node, text)
        return
    first = re.split(r"[\s,.:;]", summary.lower(), maxsplit=1)[0].strip("`\"'(")
    if first in NO_VERBS:
        yield f"begin with a verb, not '{first}'"
    is_described = is_public(node) and not is_route(node) and isinstance(parent, ast.Module | ast.ClassDef)
    if is_described and len(arguments(node)) >= MIN_ARGUMENTS:
        yield from check_sections(node, text)


def check_constructor(node: ast.ClassDef, text: str) -> Iterator[str]:
    """Yield a finding where a public class with three or more arguments does not document them."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__" and not node.name.startswith("_"):
            both = f"{text}\n{ast.get_docstring(member) or ''}"
            if len(arguments(member)) >= MIN_ARGUMENTS and not has_section(both, "Args"):
                yield "document the arguments of __init__ under `Args:`"


def check_sections(node: Function, text: str) -> Iterator[str]:
    """Yield a finding for each missing section of a public function with three or more arguments."""
    if not has_section(text, "Args"):
        yield "document the arguments under `Args:`"
    returns = ast.unparse(node.returns) if node.returns else "None"
    if returns not in ("None", "NoReturn", "Never") and not (
        has_section(text, "Returns") or has_section(text, "Yields")
    ):
        yield f"document what is returned ({returns}) under `Returns:`"


def has_section(text: str, name: str) -> bool:
    """Check whether a docstring has the section `name:`."""
    return re.search(rf"^\s*{name}:\s*$", text, re.MULTILINE) is not None


def arguments(node: Function) -> list[str]:
    """List the names of a function's arguments without `self` and `cls`."""
    found = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one.arg for one in found if one.arg not in ("self", "cls")]


def is_public(node: Function) -> bool:
    """Check whether a function is public."""
    return not node.name.startswith("_")


def is_route(node: Function) -> bool:
    """Check whether a function is the handler of a route."""
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(target, ast.Name) and target.id in ROUTES:
            return True
    return False


def find_constants(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield name and line of every constant of a module or class."""
    for _, node in walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and target.id.isupper():
                yield target.id, node.lineno


def find_notes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield text and line of the strings that document a constant or a field."""
    for node in (tree, *(child for _, child in walk(tree))):
        body = getattr(node, "body", None)
        for before, after in zip(body or [], (body or [])[1:]) if isinstance(body, list) else ():
            if not isinstance(before, ast.Assign | ast.AnnAssign):
                continue
            if (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                yield after.value.value.strip(), after.lineno


def find_duplicate_classes(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Map each class name that is defined more than once to its places."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for _, node in walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path}:{node.lineno}")
    return {name: found for name, found in places.items() if len(found) > 1}


def main() -> int:
    """Print the findings of the named files or folders; exit with 1 where there are any."""
    count = 0
    for word in sys.argv[1:] or ["crowdperf"]:
        root = Path(word)
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            for finding in check_file(path):
                print(finding)
                count += 1
    print(f"{count} findings", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
