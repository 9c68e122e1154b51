"""Which part of a configuration needs new pods: a hash of it is on the pod template.

Files (certificates, passwords, access rules, the admin token, the store's password) are in a Secret
that is mounted whole; processes look at them again when they change, so they are never part of the
hash. Of the configuration itself, processes take up what ``TAKEN_UP`` names while they run: nothing
yet. Ports and files of listeners are not named in pod templates, so that the day when a process
takes up a setting, naming it here is all that is left to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

#: Keys at the top of a ``Config`` that running processes take up by themselves.
TAKEN_UP: Final[frozenset[str]] = frozenset()


def restart_part(config: Mapping[str, Any], taken_up: frozenset[str] = TAKEN_UP) -> dict[str, Any]:
    """Return the part of a configuration that counts only from the next start on."""
    return {key: value for key, value in config.items() if key not in taken_up}


def restart_hash(config: Mapping[str, Any], taken_up: frozenset[str] = TAKEN_UP) -> str:
    """Return what changes when pods have to be replaced for a configuration."""
    return digest(restart_part(config, taken_up))


def digest(value: object) -> str:
    """Return a short name for a value made of plain types; the order of keys does not count."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
