"""Which keys of a configuration need a restart; the others are applied while a process runs.

Pure. Called by the processes, for /status, and by the operator, which has to know when to restart
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tidegate.runtime.config.config_file import Role
    from tidegate.runtime.config.model import Config

#: Sections and keys that a running process applies, whatever its role.
LIVE: Final = (
    "listeners",
    "auth",
    "limits",
    "features",
    "drain",
    "log",
    "record",
    "shutdown_timeout_s",
)
_LIVE: Final = dict.fromkeys(LIVE, False)

#: By role, whether a key needs a restart. The longest matching prefix decides; a key that none
#: matches needs one. False: it is applied while the process runs, or the role does not use it.
NEEDS_RESTART: Final[Mapping[str, Mapping[str, bool]]] = {
    "edge": {
        **_LIVE,
        "cluster": False,
        "console": False,
        "store": False,
        "store.edge_lease_s": True,
        "link.listen": False,
        "link.credit_bytes": False,
        "link.mailbox_bytes": False,
        "link.stall_s": False,
    },
    "router": {
        **_LIVE,
        "cluster": False,
        "store.data_dir": False,
        "link.routers": False,
        "link.discovery_interval_s": False,
        "console": False,
    },
    "console": {
        **_LIVE,
        "admin": False,
        "admin.token_file": True,
        "cluster": False,
        "link": False,
        "store.data_dir": False,
        "store.edge_lease_s": False,
    },
    "serve": _LIVE,
}


def restart_part(config: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """Return the part of a configuration, as plain data, that needs a restart.

    Empty sections are left out. Unknown keys are kept: better one restart too many. Lists are taken
    whole.
    """
    return _part(config, NEEDS_RESTART[role], "")


def restart_needed(running: Config, wanted: Config, role: Role) -> list[str]:
    """Return the dotted keys in which two configurations differ and that need a restart, sorted.

    A key that is not given is the same as one that is given as its default.
    """
    old = dict(_leaves(restart_part(running.model_dump(mode="json"), role), ""))
    new = dict(_leaves(restart_part(wanted.model_dump(mode="json"), role), ""))
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def with_reloadable(running: Config, wanted: Config) -> Config:
    """Return ``running`` with those keys of ``wanted`` that need no restart."""
    return running.model_copy(update={key: getattr(wanted, key) for key in LIVE})


def _part(section: Mapping[str, Any], rules: Mapping[str, bool], above: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            inner = _part(value, rules, f"{name}.")
            if inner:
                found[key] = inner
        elif _needs_restart(name, rules):
            found[key] = value
    return found


def _needs_restart(name: str, rules: Mapping[str, bool]) -> bool:
    while name:
        if name in rules:
            return rules[name]
        name = name.rpartition(".")[0]
    return True


def _leaves(section: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
