"""Fields that the API server has dropped because they do not exist, such as a misspelt one. Pure.

The stored spec does not have them, but ``kubectl apply`` keeps what was written in an annotation. A
client that lets the API server validate strictly is refused instead. Called by ``reconcile``, and
by ``backups`` for an MqttBackup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tidegate.runtime.config.model import Section
from tidegate.runtime.config.spelling import camel
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.problems import unknown_keys

_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
#: What a manifest may have.
_TOP_LEVEL: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


def dropped_fields(body: Mapping[str, Any], model: type[Section] = MqttBrokerSpec) -> list[str]:
    """Return one sentence for each field of the manifest that the stored spec does not have."""
    text = (body["metadata"].get("annotations") or {}).get(_LAST_APPLIED, "")
    try:
        manifest = json.loads(text) if text else {}
    except ValueError:
        return []
    if not isinstance(manifest, dict):
        return []
    spec = manifest.get("spec")
    outside = [_misplaced(key, model) for key in manifest if key not in _TOP_LEVEL]
    return outside + (unknown_keys(spec, model) if isinstance(spec, dict) else [])


def _misplaced(key: str, model: type[Section]) -> str:
    """Return a sentence for a key beside ``spec``: one that is not indented, most likely."""
    known = {field.alias or camel(name) for name, field in model.model_fields.items()}
    return f"{key}: unknown key" + (f"; did you mean spec.{key}?" if key in known else "")
