"""The restart hash of a pod template: of the settings that need new pods. Pure.

Files (certificates, passwords, access rules, the admin token, the store's password) are in a
mounted Secret; processes reload them when they change, so they are not part of the hash. The
runtime defines which settings are reloadable. Pod templates do not depend on listeners.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from tidegate.runtime.config.reloadable import restart_part


def restart_hash(config: Mapping[str, Any], role: Literal["edge", "router"]) -> str:
    """Return the hash of the settings that need a restart."""
    return digest(restart_part(config, role))


def digest(value: object) -> str:
    """Return a short digest of a value made of plain types; independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
