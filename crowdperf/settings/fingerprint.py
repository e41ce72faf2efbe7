"""Names a block of settings together with its values, so that a figure knows whether it still speaks of them."""

from __future__ import annotations

import hashlib

import msgspec

from crowdperf.settings.base import Settings


def compute_fingerprint(block: Settings) -> str:
    """16 hex digits that change with every setting of the block but its `name`, which people may correct.

    Settings at their default are left out: a new one, as an update of crowdperf brings, changes no fingerprint.
    """
    set_by_somebody = {
        field.encode_name: getattr(block, field.name)
        for field in msgspec.structs.fields(block)
        if field.name != "name" and getattr(block, field.name) != _get_default(field)
    }
    return hashlib.sha256(msgspec.json.encode(set_by_somebody, order="sorted")).hexdigest()[:16]


def _get_default(field: msgspec.structs.FieldInfo) -> object:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
