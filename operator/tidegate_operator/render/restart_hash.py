"""Which part of a configuration needs new pods: a hash of it is on the pod template.

Files (certificates, passwords, access rules, the admin token, the store's password) are in a Secret
that is mounted whole; processes look at them again when they change, so they are never part of the
hash. Of the configuration itself, the runtime says what a process takes up while it runs. Ports and
files of listeners are not named in pod templates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from tidegate.runtime.config.reloadable import restart_part


def restart_hash(config: Mapping[str, Any], role: Literal["edge", "router"]) -> str:
    """Return what changes when pods have to be replaced for a configuration."""
    return digest(restart_part(config, role))


def digest(value: object) -> str:
    """Return a short name for a value made of plain types; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
