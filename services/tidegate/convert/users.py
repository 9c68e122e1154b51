"""Who may connect, and what clients may read and write: files, anonymous clients, plugins.

Called by ``conversion``. With ``per_listener_settings`` these lines belong to a listener, else to
the whole broker, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tidegate.convert import values
from tidegate.convert.conf_file import Line
from tidegate.convert.directives import PREFIXES
from tidegate.convert.findings import Findings

_PLUGINS: Final = frozenset({"auth_plugin", "plugin", "global_plugin"})
_FILES: Final = ("password_file", "acl_file")
_OTHERS: Final = frozenset(
    {
        *("allow_anonymous", "allow_zero_length_clientid", "auto_id_prefix", "psk_file"),
        "auth_plugin_deny_special_chars",
    }
)

#: All lines that are about users.
NAMES: Final = frozenset({*_FILES, *_OTHERS, *_PLUGINS})
#: Those of them that this module reads.
READ: Final = frozenset({*_FILES, "allow_anonymous", "allow_zero_length_clientid"})


def is_about_users(name: str) -> bool:
    """Whether a line belongs to a listener with ``per_listener_settings``, else to all."""
    return name in NAMES or name.startswith(PREFIXES)


def convert_users(lines: Sequence[Line], findings: Findings) -> dict[str, Any]:
    """Return ``password_file``, ``acl_file`` and ``allow_anonymous`` of the lines of one scope.

    What a plugin decided about cannot be carried over, so nobody gets in without a user name then.
    """
    found: dict[str, Any] = {"allow_anonymous": False}
    for line in lines:
        if line.name in _FILES:
            found[line.name] = str(values.path(line))
        elif line.name == "allow_anonymous":
            found["allow_anonymous"] = values.flag(line)
    plugin = next((line for line in lines if line.name in _PLUGINS), None)
    if plugin is not None and found["allow_anonymous"]:
        found["allow_anonymous"] = False
        findings.remark(
            plugin,
            "`allow_anonymous: false` is set, because nothing takes the place of the plugin's "
            "checks yet",
        )
    return found


def empty_client_ids(lines: Sequence[Line]) -> bool | None:
    """Return ``allow_zero_length_clientid``; None if it is not set."""
    line = next(
        (each for each in reversed(lines) if each.name == "allow_zero_length_clientid"), None
    )
    return None if line is None else values.flag(line)
