"""Edit the decoded config.json, without I/O, and define the JSON between web and `crowdperf config`.

The document holds only what the operator wrote. Omitted settings stay omitted. Items with an id (cameras, lines, zones)
are found by it.

Only `crowdperf config` and `crowdperf probe-source` see camera passwords. The web process asks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import msgspec
from msgspec import Struct

from crowdperf.primitives.digest import compute_digest
from crowdperf.primitives.redaction import MASK, redact_url
from crowdperf.settings.base import get_default
from crowdperf.settings.camera import Camera
from crowdperf.supervision.config_versions import ConfigVersion

LINE_GEOMETRY_KEYS = ("p1", "p2", "points")
"""Settings of a line's position: p1 and p2, or points."""
SHAPE_COLLECTIONS = ("lines", "zones")


class Edit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change.

    create adds an item. replace sets all of it. delete removes it. merge sets some fields as in RFC 7396; a list item
    with a known id changes that item.
    """

    mode: Literal["create", "replace", "merge", "delete"]
    path: tuple[str, ...]
    """Collections and ids in turn: `("cameras", "plaza", "lines", "gate")`, `("alerts.rules", "crowded")`."""
    value: Any = None


class EditError(Exception):
    """A change that does not fit the configuration; `status` is the matching HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def apply_edits(document: Mapping[str, Any], edits: Sequence[Edit]) -> dict[str, Any]:
    """Return a copy of the document with every edit applied in turn, or raise EditError."""
    changed: dict[str, Any] = deepcopy(dict(document))
    for edit in edits:
        _apply_edit(changed, edit)
    return changed


def _apply_edit(document: dict[str, Any], edit: Edit) -> None:
    holder = document
    for collection, name in zip(edit.path[:-2:2], edit.path[1:-2:2]):
        holder = _find_item(_get_items(holder, collection), collection, name)
    collection, name = edit.path[-2:]
    items = _get_items(holder, collection)
    matches = [index for index, item in enumerate(items) if isinstance(item, dict) and item.get("id") == name]
    if edit.mode == "create" and matches:
        raise EditError(
            409, f"there is {_describe_item(collection, name)} already. Remedy: choose another id, or change it."
        )
    if edit.mode != "create" and not matches:
        raise _make_not_found_error(collection, name)
    if edit.mode == "delete":
        del items[matches[0]]
        return
    if not isinstance(edit.value, dict):
        raise EditError(400, "the change is no JSON object. Remedy: send one.")
    if edit.value.get("id", name) != name:
        raise EditError(400, f"the id {edit.value['id']!r} is not that of the address. Remedy: leave it out.")
    if edit.mode == "create":
        items.append({"id": name, **_restore_secrets(edit.value, None)})
    elif edit.mode == "replace":
        items[matches[0]] = {"id": name, **_restore_secrets(edit.value, items[matches[0]])}
    else:
        items[matches[0]] = _merge_patch(items[matches[0]], _restore_secrets(edit.value, items[matches[0]]))


def _get_items(holder: dict[str, Any], collection: str) -> list[Any]:
    *blocks, last = collection.split(".")
    for block in blocks:
        holder = holder.setdefault(block, {})
    items = holder.setdefault(last, [])
    if not isinstance(items, list):
        raise EditError(400, f"{collection!r} is no list in the configuration. Remedy: correct the file.")
    return items


def _find_item(items: list[Any], collection: str, name: str) -> dict[str, Any]:
    for item in items:
        if isinstance(item, dict) and item.get("id") == name:
            return item
    raise _make_not_found_error(collection, name)


def _make_not_found_error(collection: str, name: str) -> EditError:
    return EditError(404, f"there is no {_describe_item(collection, name)}. Remedy: look at the ids there are.")


def _describe_item(collection: str, name: str) -> str:
    return f"{collection.rpartition('.')[2].removesuffix('s')} {name if len(name) <= 80 else name[:77] + '…'!r}"


def _merge_patch(before: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as in RFC 7396, but lines and zones item by item: a partial shape keeps its other fields."""
    after = dict(before)
    if any(name in change for name in LINE_GEOMETRY_KEYS):
        for name in LINE_GEOMETRY_KEYS:
            after.pop(name, None)
    for name, value in change.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, dict) and isinstance(after.get(name), dict):
            after[name] = _merge_patch(after[name], value)
        elif name in SHAPE_COLLECTIONS and isinstance(value, list):
            known = {item.get("id"): item for item in after.get(name, []) if isinstance(item, dict)}
            after[name] = [
                _merge_patch(known[item["id"]], item) if isinstance(item, dict) and item.get("id") in known else item
                for item in value
            ]
        else:
            after[name] = value
    return after


def _restore_secrets(value: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put the camera's stored URL back where the edit holds its redacted form.

    The whole URL must match: with another host, the password would go to that host.

    Raises:
        EditError: 400, a different URL contains `***`.
    """
    url = value.get("url")
    if not isinstance(url, str) or MASK not in url:
        return dict(value)
    kept = before.get("url") if before else None
    if not isinstance(kept, str) or redact_url(kept) != url:
        raise EditError(400, "the url holds *** and is not this camera's. Remedy: write user and password again.")
    return {**value, "url": kept}


def compute_revision(camera: Camera) -> str:
    """Hash the camera's settings for ETag and If-Match, without its password."""
    shown = msgspec.structs.replace(camera, url=redact_url(camera.url))
    return compute_digest(msgspec.msgpack.encode(shown), 16)


def omit_defaults(settings: Struct) -> dict[str, Any]:
    """Convert a Struct to JSON values as in the file, without settings that equal their defaults."""
    document: dict[str, Any] = {}
    for item in msgspec.structs.fields(settings):
        value = getattr(settings, item.name)
        if value == get_default(item):
            continue
        if isinstance(value, list) and value and isinstance(value[0], Struct):
            document[item.encode_name] = [omit_defaults(row) for row in value]
        else:
            document[item.encode_name] = (
                omit_defaults(value) if isinstance(value, Struct) else msgspec.to_builtins(value)
            )
    if document.get("points"):
        # A polyline's ends are derived.
        document.pop("p1", None)
        document.pop("p2", None)
    return document


ConfigAction = Literal["edit", "rollback", "versions", "show", "diff"]


class ConfigRequest(Struct, frozen=True, kw_only=True):
    """A request to `crowdperf config ask`."""

    do: ConfigAction
    edits: tuple[Edit, ...] = ()
    expect: dict[str, str] = {}
    """Camera -> the revision that it must still have (If-Match)."""
    number: int = 0
    other: int = 0
    """Version to compare with in a diff; 0 is the present file."""
    who: str = ""
    comment: str = ""
    aspects: dict[str, float] = {}
    """Camera -> width / height of its picture, where known."""


class ConfigResponse(Struct, frozen=True, kw_only=True):
    """The answer. Status 200 is success; otherwise `detail` gives the reason and nothing was changed."""

    status: int = 200
    detail: str = ""
    reasons: tuple[str, ...] = ()
    version: int = 0
    revisions: dict[str, str] = {}
    cameras: tuple[dict[str, Any], ...] = ()
    """The edited cameras of the new configuration, URLs redacted."""
    restarts: tuple[str, ...] = ()
    """Programs that the change starts, stops or restarts."""
    running: bool = False
    """Whether supervisord runs and can do that."""
    versions: tuple[ConfigVersion, ...] = ()
    text: str = ""
    """Output of show and diff, without secrets."""


class ProbeRequest(Struct, frozen=True, kw_only=True):
    """A request to `crowdperf probe-source`: open a source once and return a picture."""

    url: str
    camera: str = ""
    """The camera whose stored URL is used when `url` is its redacted form."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"


class ProbeResult(Struct, frozen=True, kw_only=True):
    """The answer: a picture, or the error."""

    ok: bool
    detail: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    jpeg: bytes = b""
