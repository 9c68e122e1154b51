"""An edge with all that belongs to it: listeners, identity, permission, files, draining.

What ``tidegate serve`` and ``tidegate edge`` have in common; what the edge speaks to is the only
difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from tidegate.edge.administration import control_of, readings_of
from tidegate.edge.authn import Authenticator
from tidegate.edge.authz import AclFileError, Authorizer
from tidegate.edge.drain import Drainer
from tidegate.edge.edge import Edge
from tidegate.edge.exchange import Method
from tidegate.edge.listeners import Listeners
from tidegate.edge.passwords import PasswordFileError
from tidegate.edge.tls import TlsConfigurationError
from tidegate.edge.watch import FileWatch
from tidegate.link.api import RouterLink
from tidegate.roles.process import Process, now_ms
from tidegate.runtime.admin import Control, Json
from tidegate.runtime.metrics import Readings
from tidegate.runtime.tracing import Tracer

#: What the environment is to blame for when an edge cannot start.
BLAMED: tuple[type[Exception], ...] = (
    OSError,
    AclFileError,
    PasswordFileError,
    TlsConfigurationError,
)


class EdgeSide:
    """See the module's docstring. Files are read at once; ``start``, then ``open``."""

    def __init__(
        self,
        process: Process,
        edge_id: str,
        link: RouterLink,
        tracer: Tracer | None,
        methods: Mapping[str, Method] | None = None,
    ) -> None:
        """Raises AclFileError, PasswordFileError."""
        config, counters = process.config, process.counters
        self._process = process
        self.authenticator = Authenticator(config.auth, counters)
        self.edge = Edge(
            edge_id,
            link,
            config,
            self.authenticator,
            Authorizer(config.auth, counters),
            counters,
            now_ms,
        )
        self.edge.authentication_methods = dict(methods or {})
        self.edge.tracer = tracer
        self.listeners = Listeners(
            config.listeners,
            self.edge.handler_factory,
            max_packet_size_bytes=config.limits.max_packet_size_bytes,
            opening_timeout_s=config.limits.connect_timeout_s,
        )
        self.drainer = Drainer(self.edge, config.drain, self.listeners.stop_accepting)
        process.exporter.add(listener_readings(self.listeners))
        process.exporter.add(readings_of(self.edge))

    def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Begin to keep time and to watch files; nobody is accepted yet."""
        stack.callback(self.authenticator.close)
        self.edge.start()
        stack.push_async_callback(self._stop)
        self._watch_files(stack)

    async def open(self) -> None:
        """Accept clients. Raises OSError, TlsConfigurationError."""
        await self.listeners.start()

    async def drain(self, reason: str) -> None:
        """Let every client go; return when nobody is left, or the deadline has passed."""
        self.drainer.start(reason)
        await self.drainer.wait()

    async def _stop(self) -> None:
        await self.listeners.stop_accepting()
        await self.edge.stop()
        await self.listeners.close()

    def _watch_files(self, stack: contextlib.AsyncExitStack) -> None:
        """Read passwords, ACL and certificates again when they change, and at SIGHUP."""
        edge, process = self.edge, self._process

        def reload_acl() -> None:
            edge.authorizer.reload()
            edge.authorization_changed()

        auth = process.config.auth
        for name, files, reload in (
            ("password_file", edge.authenticator.files(), edge.authenticator.reload),
            ("acl_file", edge.authorizer.files(), reload_acl),
        ):
            watch = FileWatch(
                name, files, reload, process.counters, interval_s=auth.reload_interval_s
            )
            process.on_hangup(watch.trigger)
            process.background(stack, watch.run())
        process.on_hangup(self.listeners.reload_certificates)

    def control(self, status: Callable[[], Json]) -> Control:
        """What operators may see and do; ``status`` says what the role knows."""
        return control_of(self.edge, self.drainer, status)

    def problem(self) -> str:
        """Why clients should not be sent here."""
        return self.drainer.sentence() if self.drainer.is_draining else ""

    def places(self, admin_url: str) -> str:
        """Name the listeners and the admin server, as the ready line does."""
        places = []
        for listener in self._process.config.listeners:
            path = listener.paths[0] if listener.protocol in {"ws", "wss"} else ""
            places += [
                f"{name}={listener.protocol.value}://{address}{path}"
                for name, addresses in self.listeners.addresses.items()
                if name == listener.label
                for address in addresses
            ]
        if admin_url:
            places.append(f"admin={admin_url}")
        return " ".join(places)


def listener_readings(listeners: Listeners) -> Readings:
    """What /metrics says of each listener."""
    states = listeners.states
    return Readings(
        (
            (
                "listener_connections",
                "Sockets that are open, handshakes included.",
                ["listener"],
                lambda: [([state.label], len(state.connections)) for state in states],
            ),
            (
                "listener_accepted_total",
                "Sockets accepted.",
                ["listener"],
                lambda: [([state.label], state.counters.accepted) for state in states],
            ),
            (
                "listener_refused_total",
                "Sockets that ended before they could speak MQTT.",
                ["listener", "reason"],
                lambda: [
                    ([label, reason.value], count)
                    for (label, reason), count in listeners.refused().items()
                ],
            ),
            (
                "certificate_not_after_seconds",
                "When the first certificate of a listener expires, Unix time.",
                ["listener"],
                lambda: [
                    ([label], when) for label, when in listeners.certificate_not_after().items()
                ],
            ),
            (
                "certificate_reloads_total",
                "Times that changed certificate files were read.",
                ["listener", "result"],
                lambda: [
                    ([state.label, result], count)
                    for state in states
                    for result, count in (
                        ("ok", state.counters.reloads),
                        ("failed", state.counters.reload_failures),
                    )
                ],
            ),
        )
    )
