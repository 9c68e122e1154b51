"""What the admin page /listeners says: addresses, connections, certificates with their ends.

Called by ``roles``. Reads ``Listeners`` and changes nothing; what it says of files is what is in
force, not what is in them now.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.edge.transport.client_trust import Validity
from tidegate.edge.transport.tls import TlsContexts
from tidegate.runtime.admin.control import Json
from tidegate.runtime.config.model import AuthConfig, ListenerConfig

if TYPE_CHECKING:
    from tidegate.edge.transport.listeners import Listeners


def listener_report(
    listeners: Listeners, configs: Sequence[ListenerConfig], auth: AuthConfig
) -> Json:
    """Describe the listeners of a configuration that is in force."""
    connections = listeners.connections_of()
    counters = listeners.counters()
    contexts = listeners.tls_contexts()
    refused: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (label, reason), count in listeners.refused().items():
        refused[label][reason.value] = count
    return {
        "listeners": [
            {
                **_settings(config, auth),
                "addresses": listeners.addresses.get(config.label, []),
                "connections": connections.get(config.label, 0),
                "accepted": counters[config.label].accepted if config.label in counters else 0,
                "refused": refused[config.label],
                **_tls(config, contexts.get(config.label)),
            }
            for config in configs
        ]
    }


def _settings(config: ListenerConfig, auth: AuthConfig) -> Json:
    allowed = config.allow_anonymous
    return {
        "listener": config.label,
        "protocol": config.protocol.value,
        "paths": config.paths if config.protocol.value in {"ws", "wss", "auto"} else [],
        "mount_point": config.mount_point,
        "max_connections": config.max_connections,
        "max_qos": config.max_qos,
        "proxy_protocol": config.proxy_protocol,
        "allow_anonymous": auth.allow_anonymous if allowed is None else allowed,
    }


def _tls(config: ListenerConfig, contexts: TlsContexts | None) -> Json:
    if contexts is None:
        return {"tls": None}
    current = contexts.current
    names = dict[Path, Sequence[str]](current.names)
    trust = current.client_trust
    return {
        "tls": {
            "minimum_version": config.tls.minimum_version,
            "client_certificates": config.tls.client_certificates,
            "certificates": list(_validities(current.certificates, names)),
            "client_ca": list(_validities(trust.authorities, {})),
            "client_crl": list(_validities(trust.lists, {})),
        }
    }


def _validities(found: Iterable[Validity], names: dict[Path, Sequence[str]]) -> Iterable[Json]:
    now_s, seen = time.time(), set[Path]()
    for each in found:
        # The first certificate of a file is the listener's own, the others are its chain.
        own = each.path not in seen
        seen.add(each.path)
        yield {
            "path": str(each.path),
            "what": each.what,
            "names": list(names.get(each.path, ())) if own else [],
            "not_before": each.not_before,
            "not_after": each.not_after,
            "problem": each.problem(now_s),
        }
