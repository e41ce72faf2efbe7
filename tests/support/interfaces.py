"""Collect what users and other programs rely on, as lines of text, one kind a file.

`python -m tests.support.interfaces` writes tests/architecture/interfaces/ again. Names that only Python code sees
(modules, classes, functions) are left out on purpose: they may change.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import contextlib
import importlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from bench.__main__ import names as bench_names
from bench.harness import Row, compared, paired
from crowdperf.__main__ import main as run_command
from crowdperf.messaging import codec
from crowdperf.messaging.consumer import Consumer, PositionConsumer, create_group
from crowdperf.messaging.redis.acl import build_acl_rules as acl_rule
from crowdperf.messaging.streams import STREAMS
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.metrics_table import METRICS
from crowdperf.settings.config import Deployment, build_json_schema, parse
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.process_config import build_web_config
from crowdperf.storage.alerts import AlertDoc, AlertView
from crowdperf.storage.violations import Violation, ViolationView
from crowdperf.supervision.processes import PROCESSES
from crowdperf.supervision.programs import render as render_programs
from crowdperf.visitors.visit import Person, Visit, WatchListEntry
from crowdperf.web.app import create_app
from crowdperf.web.metrics_report import render as render_metrics
from crowdperf.web.rates import StreamRate
from crowdperf.workers.leases import Leases
from crowdperf.workers.sharded_consumer import run_worker
from tests.support.source_scan import UNKNOWN, Module, Source, argument, called, source_of

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "architecture" / "interfaces"
PROSE = {"title", "description", "summary", "examples", "example", "operationId", "tags"}
SPLIT = " > "
"""Between what lines share, which the file says once, and the rest."""
METHODS = ("get", "post", "put", "patch", "delete")
VARIABLES = ("TARGET_FPS", "QUEUE_MAX", "RTSP_STIMEOUT_USEC", "FFMPEG_EXTRA_FLAGS", "CUDA_EMPTY_EVERY")
MODULE = re.compile(r"\bcrowdperf(\.[a-z_]+)+(:[a-z_]+)?")
"""A Python module inside a command: it may move."""
SITE = {
    "cameras": [
        {"id": "lobby", "url": "rtsp://192.0.2.7/a"},
        {"id": "yard", "url": "rtsp://192.0.2.8/b"},
        {"id": "off", "url": "rtsp://192.0.2.9/c", "enabled": False},
    ],
    "tracking": {"shards": 2},
    "workers": dict.fromkeys(("recorder", "areas", "housekeeping", "notify", "ppe", "visitors"), 2),
    "postgres": {"dsn": "env:DSN"},
}
"""Everything on: each kind of program, more than once where there may be several."""
LABELS = {"camera": "lobby", "part": "gate", "area": "hall", "channel": "mail", "stream": "events", "task": "evidence"}
"""A sample value of each label of a metric."""


# Streams


def streams() -> list[str]:
    """Return the bytes of one sample of each stream's types, and each type's layout."""
    lines = []
    for stream in STREAMS:
        for kind in getattr(stream.message_type, "__args__", (stream.message_type,)):
            sample = _sample(msgspec.inspect.type_info(kind))
            label = f"{stream.name} {kind.__struct_config__.tag or ''}".strip()
            encoded = codec.encode(stream, msgspec.convert(sample, kind))
            fields = [f"{name}={value.hex() if isinstance(value, bytes) else value}" for name, value in encoded.items()]
            lines.append(f"{label} bytes {' '.join(fields)}")
            lines.append(f"{label} layout {_layout(kind)}")
    return lines


def _sample(info: Any) -> Any:
    """Build a value of a type; a Struct as the builtins that convert to it."""
    types = msgspec.inspect
    if isinstance(info, types.StructType):
        fields = {item.encode_name: _sample(item.type) for item in info.fields}
        if info.array_like:
            return list(fields.values())
        return {info.tag_field: info.tag, **fields} if info.tag_field else fields
    if isinstance(info, types.UnionType):
        return _sample(next(one for one in info.types if not isinstance(one, types.NoneType)))
    if isinstance(info, types.LiteralType):
        return info.values[0]
    if isinstance(info, types.DictType):
        return {_sample(info.key_type): _sample(info.value_type)}
    plain: dict[type, object] = {
        types.StrType: "a",
        types.IntType: 7,
        types.FloatType: 1.5,
        types.BytesType: b"\x01",
        types.BoolType: True,
    }
    return plain[type(info)]


def _layout(kind: Any) -> str:
    """Describe a type as it is encoded: names, order, types, what may be missing."""
    return _described(msgspec.inspect.type_info(kind), ())


def _described(info: Any, around: tuple[type, ...]) -> str:
    types = msgspec.inspect
    if isinstance(info, types.Metadata):
        return _described(info.type, around)
    if isinstance(info, types.StructType):
        if info.cls in around:
            return "<the same again>"
        inside = (*around, info.cls)
        parts = [f"{info.tag_field}={info.tag}"] if info.tag_field else []
        for item in info.fields:
            # The name of a field of an array is no part of its bytes.
            name = "" if info.array_like else item.encode_name + ("" if item.required else "?") + ": "
            missing = "?" if info.array_like and not item.required else ""
            parts.append(f"{name}{_described(item.type, inside)}{missing}")
        return ("[{}]" if info.array_like else "{{{}}}").format(", ".join(parts))
    if isinstance(info, types.UnionType):
        return " | ".join(_described(one, around) for one in info.types)
    if isinstance(info, types.LiteralType):
        return " | ".join(json.dumps(value) for value in info.values)
    if isinstance(info, types.DictType):
        return f"{{{_described(info.key_type, around)} -> {_described(info.value_type, around)}}}"
    if isinstance(info, types.TupleType):
        return f"({', '.join(_described(one, around) for one in info.item_types)})"
    if hasattr(info, "item_type"):
        return f"[{_described(info.item_type, around)}, ...]"
    return type(info).__name__.removesuffix("Type").lower()


# Redis


def redis_keys() -> list[str]:
    """Return the key patterns of the source, the readers' names, and the ACL rule."""
    source = source_of(ROOT, "crowdperf")
    own = re.compile(r"^\S*(crowdperf:[a-z{]\S*|person_logs|vehicle_logs)$")
    texts = {text for _, _, several in source.texts() for text in several} | set(_filled_in(source))
    found = {f"key {_pattern(text)}" for text in texts if own.match(text) and "::" not in text}
    groups = {
        Consumer.__name__: (2, "group"),
        PositionConsumer.__name__: (2, "group"),
        create_group.__name__: (2, "group"),
        Leases.__name__: (1, "worker"),
        run_worker.__name__: (0, "worker"),
    }
    for module, node in source.calls():
        if called(node) in groups:
            given = argument(node, *groups[called(node)])
            if given is not None:
                found |= {f"reader {text}" for text in source.values(module, given) - {UNKNOWN}}
    return [*found, f"acl {acl_rule()}", f"acl {acl_rule('north:')}"]


def _pattern(text: str) -> str:
    """Write a key without the configured prefix, with `*` for all that varies."""
    text = text.removeprefix(UNKNOWN).replace("{camera}", UNKNOWN)
    return text + UNKNOWN if text.endswith(":") else text


def _filled_in(source: Source) -> Iterator[str]:
    """Yield the patterns of functions that make a key, with what their callers hand to them."""
    makers: dict[str, list[tuple[Module, ast.FunctionDef, ast.expr]]] = {}
    for module in source.modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            returns = _returns(node)
            if len(returns) == 1 and any("crowdperf:" in text for text in source.values(module, returns[0])):
                makers.setdefault(node.name, []).append((module, node, returns[0]))
    for module, node in source.calls():
        for home, maker, result in makers.get(called(node), []):
            if maker.name.startswith("_") and home is not module:
                continue
            names = [each.arg for each in maker.args.args if each.arg != "self"]
            given = {name: argument(node, at, name) for at, name in enumerate(names)}
            filled = {name: source.values(module, each) for name, each in given.items() if each is not None}
            if isinstance(result, ast.JoinedStr) and any(texts != {UNKNOWN} for texts in filled.values()):
                yield from _combined(source, home, result, filled)


def _combined(source: Source, home: Any, result: ast.JoinedStr, filled: dict[str, set[str]]) -> Iterator[str]:
    whole = [""]
    for part in result.values:
        inner = part.value if isinstance(part, ast.FormattedValue) else part
        texts = filled[inner.id] if isinstance(inner, ast.Name) and inner.id in filled else source.values(home, inner)
        whole = [before + text for before in whole for text in sorted(texts)]
    yield from (re.sub(r"\*+", UNKNOWN, text) for text in whole)


def _returns(node: ast.FunctionDef) -> list[ast.expr]:
    return [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value is not None]


def stored() -> list[str]:
    """Return the layout of everything that is read back from Redis, a file or a client."""
    kinds: list[Any] = [AlertDoc, AlertView, Violation, ViolationView, Person, Visit, WatchListEntry]
    for module, node in source_of(ROOT, "crowdperf").calls():
        name = called(node)
        kind = argument(node, 1, "kind") if name == "decode_or_none" else argument(node, 9, "type")
        if name in ("decode", "decode_or_none") and isinstance(kind, ast.Name):
            owner = importlib.import_module(module.name)
            kinds.append(getattr(owner, kind.id, None))
    # The file config.json has a test of its own.
    kinds = [kind for kind in kinds if kind is not type(parse(b"{}"))]
    return [_layout(kind) for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


# Supervisor


def programs() -> list[str]:
    """Return the supervisor's sections and settings, with all programs on."""
    found = [f"kind {row.kind}: {row.instances}" for row in PROCESSES]
    text = (ROOT / "supervisord.conf").read_text(encoding="utf-8")
    found += _sections("supervisord.conf", text)
    paths = Paths(Path("/site/var"))
    for label, more in (("", {}), ("grouped ", {"cameras_per_process": 2})):
        config = parse(json.dumps({**SITE, **more}).encode())
        text = render_programs(Deployment(config, paths, read_environment({}), Path("/site")), "python")
        found += _sections(f"{label}programs.conf", text)
    return found


def _sections(label: str, text: str) -> list[str]:
    parser = configparser.RawConfigParser(inline_comment_prefixes=None)
    parser.read_string(text)
    lines = []
    for section in parser.sections():
        for name, value in parser.items(section):
            known = re.sub(r'CROWDPERF_SLICE="\w+"', 'CROWDPERF_SLICE="*"', MODULE.sub("<module>", value))
            lines.append(f"{label} [{section}]{SPLIT}{name}={known}")
    return lines


# Environment


def variables() -> list[str]:
    """Return the environment variables that the source, the start script and the documents name."""
    found = set()
    reading = {"get", "pop", "setdefault"}
    source = source_of(ROOT, "crowdperf")
    upper = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
    for module in source.modules.values():
        for node in ast.walk(module.tree):
            text = str(node.value) if isinstance(node, ast.Constant) else ""
            if text.startswith("CROWDPERF_") and upper.fullmatch(text):
                found.add(f"in the source {text}")
    for module, node in source.calls():
        if called(node) in reading and "environ" in ast.unparse(node.func) and node.args:
            found |= {f"in the source {text}" for text in source.values(module, node.args[0]) if upper.fullmatch(text)}
    for path in sorted([ROOT / "README.md", ROOT / "crowdperf.sh", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]):
        for name in re.findall(r"\bCROWDPERF_[A-Z_]+\b", path.read_text(encoding="utf-8")):
            found.add(f"documented {name}")
    for line in (ROOT / "docs/tuning.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `([A-Z_]+)` \|", line):
            found.add(f"documented {match[1]}")
    documented = {text.removeprefix("documented ") for text in found if text.startswith("documented ")}
    before = list(msgspec.to_builtins(read_environment({})).values())
    for name in sorted(documented | set(VARIABLES)):
        after = list(msgspec.to_builtins(read_environment({name: "7"})).values())
        changed = [f"{old!r} -> {new!r}" for old, new in zip(before, after, strict=True) if old != new]
        found.add(f"{name}=7 changes {', '.join(changed) or 'nothing'}")
    return list(found)


# Command line


class _Parsed(BaseException):
    """Carries the parser out of the command, before it does anything."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@contextlib.contextmanager
def _installation(config: str = "{}") -> Iterator[Path]:
    """Stand in an empty folder with that configuration, with no variable of the product set."""
    before = Path.cwd()
    kept = {name: text for name, text in os.environ.items() if not name.startswith("CROWDPERF_")}
    kept = {name: text for name, text in kept.items() if name not in VARIABLES}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, kept, clear=True):
        (Path(folder) / "config.json").write_text(config)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def commands() -> list[str]:
    """Return every command with its arguments, as argparse has them."""
    found: dict[str, tuple[int, argparse.ArgumentParser]] = {}

    def capture(parser: argparse.ArgumentParser, *_args: Any, **_named: Any) -> None:
        raise _Parsed(parser)

    def visit(words: list[str]) -> None:
        try:
            run_command(words)
        except _Parsed as parsed:
            trees = dict(_tree(parsed.parser, parsed.parser.prog))
            depth = len(parsed.parser.prog.split())
        new = [name for name in trees if name not in found]
        for name, parser in trees.items():
            # A command with a parser of its own is only named in the parser above.
            if name not in found or depth > found[name][0]:
                found[name] = depth, parser
        for name in new:
            rest = name.split()[1:]
            if rest and rest != words:
                visit(rest)

    with _installation(), mock.patch.object(argparse.ArgumentParser, "parse_args", capture):
        visit([])
    parsers = {name: parser for name, (_, parser) in found.items()} | dict(_tree(_bench_parser(), "bench"))
    return [line for name, parser in parsers.items() for line in _arguments(name, parser)]


def _bench_parser() -> argparse.ArgumentParser:
    def capture(parser: argparse.ArgumentParser, *_args: Any, **_named: Any) -> None:
        raise _Parsed(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", capture):
        try:
            importlib.import_module("bench.__main__").main()
        except _Parsed as parsed:
            return parsed.parser
    raise AssertionError("bench parsed nothing")


def _tree(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from _tree(below, f"{name} {word}")


def _arguments(name: str, parser: argparse.ArgumentParser) -> list[str]:
    lines, position = [name], 0
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        if action.choices is not None and list(action.choices) == [name.split()[-1]]:
            # The command's own name.
            continue
        facts = [type(action).__name__.strip("_").removesuffix("Action").lower()]
        if action.option_strings:
            label = " ".join(action.option_strings)
            facts += ["required"] if action.required else []
        else:
            position += 1
            label = f"argument {position}"
        if isinstance(action.type, type) and action.type.__module__ in ("builtins", "pathlib"):
            facts.append(f"type={action.type.__name__}")
        if action.nargs is not None:
            facts.append(f"nargs={action.nargs}")
        if action.choices is not None:
            facts.append(f"choices={','.join(sorted(map(str, action.choices)))}")
        if action.default is not None:
            facts.append(f"default={action.default}")
        lines.append(f"{name} {label}: {' '.join(facts)}")
    for group in parser._mutually_exclusive_groups:
        options = [" ".join(action.option_strings) or "argument" for action in group._group_actions]
        lines.append(f"{name} one of: {', '.join(options)}")
    return lines


def exit_codes() -> list[str]:
    """Return how commands end, and the words that the start script knows."""
    cases = (
        ("{}", ""),
        ("{}", "nonsense"),
        ("{}", "--help"),
        ("{}", "schema"),
        ("{}", "ctl start"),
        ("{}", "config history"),
        ("{}", "config rollback 9"),
        ("{}", "config show 9"),
        ("{}", "capture nowhere"),
        ("{}", "replay missing.mp4"),
        ("{}", "audit missing.mp4"),
        ("{}", "users list"),
        ("{}", "migrate"),
        ("{}", "import-sqlite missing.db"),
        ("{}", "dead-letters list"),
        ("{}", "export --from never"),
        ("{}", "ring --once"),
        ("{}", "models compare"),
        ('{"nonsense": 1}', "check"),
        ('{"nonsense": 1}', "ring"),
        ("{", "export"),
    )
    lines = [f"{config} {words or 'no command'}: {_status(config, words.split())}" for config, words in cases]
    script = (ROOT / "crowdperf.sh").read_text(encoding="utf-8")
    return lines + [f"crowdperf.sh {words}" for words in re.findall(r"^    (\S[^()$\n]*)\)", script, re.MULTILINE)]


def _status(config: str, words: list[str]) -> object:
    quiet = io.StringIO()
    with _installation(config), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            return run_command(words)
        except SystemExit as end:
            return end.code


# Metrics


def metrics() -> list[str]:
    """Return every row of the table of metrics, and the page that shows them all."""
    filled = Metrics()
    lines = []
    for (kind, name), spec in METRICS.items():
        lines.append(f"{kind} {name}{' of ' if spec.labels else ''}{' and '.join(spec.labels)}")
        if name.startswith(("camera_", "process_", "snapshot_", "stream_rate")):
            continue
        for labels in ([LABELS[label] for label in spec.labels], [])[: 2 if spec.optional_labels else 1]:
            if kind == "counter":
                filled.count(name, 1, *labels)
            elif kind == "gauge":
                filled.set_gauge(name, 1, *labels)
            elif kind == "text":
                filled.set_text(name, "live", *labels)
            else:
                filled.observe(name, 0.02)
    rates = [
        StreamRate(stream="tracks", camera="lobby", minimum=2.5, maximum=12.0, measured=0.0, state="low"),
        StreamRate(stream="audit", camera="", minimum=0.0, maximum=20.0, measured=None, state="unknown"),
    ]
    page = render_metrics([filled.snapshot("tracking-0", 0.0)], {"lobby": True, "yard": False}, rates).splitlines()
    measured = re.compile(r"^(crowdperf_(?:process|snapshot)_\S+) .*")
    # HELP is prose.
    return [*lines, *("page " + measured.sub(r"\1 *", line) for line in page if not line.startswith("# HELP"))]


# REST and config.json


def rest() -> list[str]:
    """Return routes, parameters and JSON of the REST API."""
    app = create_app(build_web_config(Deployment(parse(b"{}"), Paths(Path("var")))))
    lines = []
    for route in app.routes:
        for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)]):
            methods = ",".join(sorted(getattr(handler, "http_methods", {"websocket"})))
            lines.append(f"route {route.path} {methods} needs {handler.opt.get('need')}")
    described = app.openapi_schema.to_schema()
    for path, item in described["paths"].items():
        for method in METHODS:
            if method in item:
                name = f"{method.upper()} {path}"
                lines += [name, *(f"{name}{SPLIT}{line}" for line in _operation(item[method], described))]
    lines += [
        f"security {name} {json.dumps(each, sort_keys=True)}"
        for name, each in described["components"]["securitySchemes"].items()
    ]
    return lines


def _operation(row: dict[str, Any], described: dict[str, Any]) -> list[str]:
    lines = []
    for each in row.get("parameters", []):
        need = " required" if each.get("required") else ""
        lines += _flat(f"{each['in']} {each['name']}{need}", each.get("schema", {}), described)
    body = row.get("requestBody") or {}
    replies = row["responses"]
    lines += [f"answers {', '.join(sorted(replies))}", *(["body required"] if body.get("required") else [])]
    for label, part in (("body", body), *replies.items()):
        for media, content in (part.get("content") or {}).items():
            lines += _flat(f"{label} {media}", content.get("schema", {}), described)
        for header, content in (part.get("headers") or {}).items():
            lines += _flat(f"{label} header {header}", content.get("schema", {}), described)
    problems = {line for line in lines if "application/problem+json" in line}
    # The problems of all codes look alike: one line shows them.
    codes = sorted({line.split()[0] for line in problems})
    shape = sorted({line.partition("application/problem+json")[2].replace(" required", "!") for line in problems})
    if problems:
        lines = [line for line in lines if line not in problems]
        lines.append(f"problems {', '.join(codes)} {'; '.join(shape)}")
    return lines


def config_keys() -> list[str]:
    """Return every key of config.json with its type, bounds and default."""
    described = build_json_schema()
    return _flat("config", described, described)


def _flat(name: str, node: Any, described: dict[str, Any], around: tuple[str, ...] = ()) -> list[str]:
    """Write a JSON schema as lines, one a property, with references put in their place."""
    if not isinstance(node, dict):
        return [f"{name}: {json.dumps(node)}"]
    if "$ref" in node:
        reference = node["$ref"]
        if reference in around:
            return [f"{name}: the same again"]
        target: Any = described
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        own = {key: value for key, value in node.items() if key not in ("$ref", "$defs")}
        return _flat(name, {**target, **own}, described, (*around, reference))
    facts = {key: value for key, value in node.items() if key not in PROSE and not isinstance(value, dict)}
    branches = [branch for key in ("oneOf", "anyOf", "allOf") for branch in facts.pop(key, [])]
    required = facts.pop("required", None) or []
    for key in ("type", "enum"):
        if isinstance(facts.get(key), list):
            facts[key] = sorted(facts[key], key=str)
    discriminator = node.get("discriminator")
    if discriminator:
        facts["discriminator"] = [discriminator["propertyName"], *sorted(discriminator.get("mapping", {}))]
    kind = facts.pop("type", "")
    words = [" or ".join(kind) if isinstance(kind, list) else kind]
    words += [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(facts.items())]
    lines = [f"{name}: {' '.join(words).strip()}"]
    for key, value in node.get("properties", {}).items():
        lines += _flat(f"{name}.{key}{' required' if key in required else ''}", value, described, around)
    if isinstance(node.get("items"), dict):
        lines += _flat(f"{name}[]", node["items"], described, around)
    if isinstance(node.get("additionalProperties"), dict):
        lines += _flat(f"{name}.*", node["additionalProperties"], described, around)
    texts = sorted(_flat("", branch, described, around) for branch in branches)
    if texts and all(len(text) == 1 for text in texts):
        lines[0] += " one of" + " or".join(text[0].removeprefix(":") for text in texts)
    else:
        lines += [f"{name}|{at}{line}" for at, text in enumerate(texts) for line in text]
    return lines


# Benches


def benches() -> list[str]:
    """Return the names of the benches, and of the rows as far as the source shows them."""
    found = {f"bench {name}" for name in bench_names()}
    source = source_of(ROOT, "bench")
    makers = (paired.__name__, compared.__name__, f"_{paired.__name__}")
    for module, node in source.calls():
        given = None
        if called(node) == Row.__name__:
            given = argument(node, 9, "name")
        elif called(node) in makers:
            given = argument(node, 0, "name")
        if given is not None:
            found |= {f"row {text}" for text in source.values(module, given) - {UNKNOWN}}
    return list(found)


KINDS: dict[str, Callable[[], list[str]]] = {
    "streams": streams,
    "redis_keys": redis_keys,
    "stored": stored,
    "programs": programs,
    "variables": variables,
    "commands": commands,
    "exit_codes": exit_codes,
    "metrics": metrics,
    "rest": rest,
    "config_keys": config_keys,
    "benches": benches,
}


def collect(kind: str) -> list[str]:
    """Return the present lines of a kind, each once, in order."""
    return sorted(set(KINDS[kind]()))


def pinned(kind: str) -> list[str]:
    """Return the lines of a kind that are promised."""
    groups: dict[str, list[str]] = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    return [f"{head}{SPLIT}{line}" if head else line for head, lines in groups.items() for line in lines]


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for kind in KINDS:
        groups: dict[str, list[str]] = {}
        for line in collect(kind):
            head, _, rest = line.partition(SPLIT) if SPLIT in line else ("", "", line)
            groups.setdefault(head, []).append(rest)
        text = json.dumps(groups, indent=1, ensure_ascii=False)
        (FOLDER / f"{kind}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
