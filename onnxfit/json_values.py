"""What JSON can hold."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def fingerprint(run: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a run depends on; what JSON does not have counts as its text."""
    text = json.dumps(run, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def finite(value: Any) -> Any:
    """Replace what JSON does not have: NaN and infinities by null, paths by their text."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, PurePath):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
