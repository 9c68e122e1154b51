"""Fields that the API server has dropped because they do not exist, such as a misspelt one. Pure.

The stored spec does not have them, but ``kubectl apply`` keeps what was written in an annotation. A
client that lets the API server validate strictly is refused instead. Called by ``reconcile``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tidegate_operator.spec.problems import unknown_keys

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def dropped_fields(body: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each field of the manifest that the stored spec does not have."""
    text = (body["metadata"].get("annotations") or {}).get(_LAST_APPLIED, "")
    try:
        manifest = json.loads(text) if text else {}
    except ValueError:
        return []
    spec = manifest.get("spec") if isinstance(manifest, dict) else None
    return unknown_keys(spec) if isinstance(spec, dict) else []
