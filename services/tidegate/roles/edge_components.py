"""An edge with its components: listeners, authentication, authorization, file watches, draining.

Used by ``tidegate serve`` and ``tidegate edge``, which differ in the router link that they hand in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tidegate.edge.administration import control_of, readings_of
from tidegate.edge.auth.acl import AclFile, AclFileError, Authorizer
from tidegate.edge.auth.authentication import Authenticator
from tidegate.edge.auth.methods import Method
from tidegate.edge.auth.passwords import PasswordFile, PasswordFileError
from tidegate.edge.drain.drain import Drainer
from tidegate.edge.drain.listener_removal import ListenerRemoval
from tidegate.edge.edge import Edge
from tidegate.edge.listener_report import listener_report
from tidegate.edge.transport.listeners import Listeners
from tidegate.edge.transport.tls import TlsConfigurationError, TlsContexts
from tidegate.link.interfaces import RouterLink
from tidegate.roles.process import Process
from tidegate.runtime.admin.control import Control, Json
from tidegate.runtime.config.file_version import FileDigests, Signature, signature_of
from tidegate.runtime.config.model import AuthConfig, Config, LimitsConfig, ListenerConfig
from tidegate.runtime.reload.errors import NotApplied, error_text
from tidegate.runtime.reload.file_watches import FileWatches
from tidegate.runtime.telemetry.metrics import CallbackMetrics

#: Errors with which the start of an edge fails because of its environment.
STARTUP_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    AclFileError,
    PasswordFileError,
    TlsConfigurationError,
)

#: What it means when an edge ends without a router or a store.
ENDS_NOT_STORED: Final = (
    "ends of connections not stored: they count as lost once the lease of this edge has ended"
)


class EdgeComponents:
    """See the module's docstring. Files are read at once; ``start``, then ``open``."""

    def __init__(
        self,
        process: Process,
        edge_id: str,
        link: RouterLink,
        methods: Mapping[str, Method] | None = None,
    ) -> None:
        """Raises AclFileError, PasswordFileError."""
        config, counters, config_status = process.config, process.counters, process.config_status
        self._process = process
        self._passwords, self._rules = (
            FileWatches(name, reload, counters, config_status)
            for name, reload in (
                ("password_file", self._reload_passwords),
                ("acl_file", self._reload_rules),
            )
        )
        # Before the files are read, so that a change meanwhile is detected.
        signatures = _signatures(config)
        digests = FileDigests(signatures)
        self.authenticator = Authenticator(config.auth, counters, config.listeners)
        self.edge = Edge(
            edge_id,
            link,
            config,
            self.authenticator,
            Authorizer(config.auth, config.listeners),
            counters,
            process.clock.now_ms,
            methods,
            process.name,
        )
        self._watch_files(config, signatures)
        config_status.mark_applied(digests.unchanged())
        self.listeners = Listeners(
            config.listeners,
            self.edge.handler_factory,
            max_packet_size_bytes=config.limits.max_packet_size_bytes,
            connect_timeout_s=config.limits.connect_timeout_s,
            config_status=config_status,
            on_refused=self.edge.context.recorder.turned_away,
            has_unsent=self.edge.has_unsent,
        )
        self._limit_listeners(config.limits)
        self.drainer = Drainer(self.edge, config.drain, self.listeners.stop_accepting)
        self._listener_removal = ListenerRemoval(self.edge, self.drainer)
        process.exporter.add(listener_metrics(self.listeners))
        process.exporter.add(readings_of(self.edge))

    def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start timers and file watches; no client is accepted yet."""
        stack.callback(self.authenticator.close)
        self.edge.start()
        stack.push_async_callback(self.listeners.close)
        self._process.close_within(stack, self.edge.stop, ENDS_NOT_STORED)
        stack.push_async_callback(self.listeners.stop_accepting)
        stack.push_async_callback(self._listener_removal.stop)
        for watch in (self._passwords, self._rules):
            self._process.on_hangup(watch.trigger)
            self._process.background(stack, watch.run())
        self._process.on_hangup(self.listeners.reload_certificates)

    async def open(self) -> None:
        """Accept clients, unless it is draining. Raises OSError, TlsConfigurationError."""
        if not self.drainer.is_draining:
            await self.listeners.start()

    async def drain(self, reason: str) -> None:
        """Drain all clients; return when none is connected, or the deadline has passed."""
        self.drainer.start(reason)
        await self.drainer.wait()

    # Files and settings that change

    def _watch_files(self, config: Config, signatures: Mapping[Path, Signature]) -> None:
        """Watch the files that are in use now; ``signatures``: from before they were read."""
        for watches, paths in (
            (self._passwords, self.authenticator.files()),
            (self._rules, self.edge.context.authorizer.files()),
        ):
            files = {path: signatures[path] for path in paths}
            watches.watch(files, config.auth.reload_interval_s)

    def _reload_passwords(self, path: Path) -> None:
        self.authenticator.reload(path)
        self.edge.users_changed()

    def _reload_rules(self, path: Path) -> None:
        self.edge.context.authorizer.reload(path)
        self.edge.authorization_changed()

    async def reconfigure(self, config: Config) -> None:
        """Apply other settings: all of them, or none. Raises NotApplied.

        Everything that may fail comes first: files are read, sockets are bound, listeners accept.
        """
        edge, listeners = self.edge, self.listeners
        if self.drainer.is_draining:
            raise NotApplied("this process is draining")
        auth, limits = config.auth, config.limits
        signatures = _signatures(config)
        digests = FileDigests(signatures)
        interruptions = listeners.interruptions
        try:
            passwords = self.authenticator.prepare(auth, config.listeners)
            rules = edge.context.authorizer.prepare(auth, config.listeners)
            change = await listeners.prepare(
                config.listeners,
                max_packet_size_bytes=limits.max_packet_size_bytes,
                connect_timeout_s=limits.connect_timeout_s,
            )
            removed = await listeners.apply(change)
        except STARTUP_ERRORS as error:
            disturbs = listeners.interruptions > interruptions
            raise NotApplied(error_text(error), disturbs=disturbs) from error
        read = {*passwords, *rules}
        self._apply_auth(config, passwords, rules)
        self._watch_files(config, signatures)
        self._process.config_status.mark_applied(
            {path: digest for path, digest in digests.unchanged().items() if path in read}
        )
        self._limit_listeners(limits)
        edge.reconfigure(config)
        self.drainer.reconfigure(config.drain)
        self._listener_removal.start(removed)
        if edge.context.refusal is not None:  # draining has started meanwhile
            await listeners.stop_accepting()

    def _limit_listeners(self, limits: LimitsConfig) -> None:
        self.listeners.limit_unfinished_bytes(limits.max_unfinished_bytes)
        self.listeners.limit_addresses(
            limits.max_connections_per_address, limits.ipv6_prefix_length
        )

    def _apply_auth(
        self,
        config: Config,
        passwords: Mapping[Path, PasswordFile],
        rules: Mapping[Path, AclFile],
    ) -> None:
        auth, listeners, connected = config.auth, config.listeners, self.edge.listeners_in_use()
        self.authenticator.apply(auth, listeners, passwords, connected)
        self.edge.users_changed()
        if self.edge.context.authorizer.apply(auth, listeners, rules, connected):
            self.edge.authorization_changed()

    def control(self, status: Callable[[], Json]) -> Control:
        """Return what operators can see and do; ``status`` returns the part of the role."""
        return replace(
            control_of(self.edge, self.drainer, status),
            pages={**self._process.pages(), "/listeners": self._listeners_page},
        )

    def _listeners_page(self) -> Json:
        config = self._process.config
        return listener_report(self.listeners, config.listeners, config.auth)

    def problem(self) -> str:
        """Why no clients should be sent here; "" if there is no reason."""
        return self.drainer.not_ready_reason() if self.drainer.is_draining else ""

    def endpoints(self, admin_url: str) -> str:
        """Name the listeners and the admin server, as the ready line does."""
        endpoints = []
        for listener in self._process.config.listeners:
            path = listener.paths[0] if listener.protocol in {"ws", "wss"} else ""
            endpoints += [
                f"{name}={listener.protocol.value}://{address}{path}"
                for name, addresses in self.listeners.addresses.items()
                if name == listener.label
                for address in addresses
            ]
        if admin_url:
            endpoints.append(f"admin={admin_url}")
        return " ".join(endpoints)


def _signatures(config: Config) -> dict[Path, Signature]:
    """Return those of all password and ACL files."""
    sections: list[AuthConfig | ListenerConfig] = [config.auth, *config.listeners]
    paths = (path for each in sections for path in (each.password_file, each.acl_file))
    return {path: signature_of(path) for path in paths if path is not None}


def _ends(
    listeners: Listeners, end_of: Callable[[TlsContexts], float]
) -> list[tuple[list[str], float]]:
    ends = ((label, end_of(tls)) for label, tls in listeners.tls_contexts().items())
    return [([label], end_s) for label, end_s in ends if math.isfinite(end_s)]


def listener_metrics(listeners: Listeners) -> CallbackMetrics:
    """Return the metrics of the listeners."""
    return CallbackMetrics(
        (
            (
                "listener_connections",
                "Open sockets, handshakes included.",
                ["listener"],
                lambda: [([label], count) for label, count in listeners.connections_of().items()],
            ),
            (
                "listener_accepted_total",
                "Sockets accepted.",
                ["listener"],
                lambda: [([label], each.accepted) for label, each in listeners.counters().items()],
            ),
            (
                "listener_refused_total",
                "Sockets closed before the MQTT connection, by reason.",
                ["listener", "reason"],
                lambda: [
                    ([label, reason.value], count)
                    for (label, reason), count in listeners.refused().items()
                ],
            ),
            (
                "connections_waited_total",
                "Times that bytes of a connection without CONNACK waited for a later turn of the"
                " event loop.",
                [],
                lambda: [([], listeners.waited)],
            ),
            (
                "connect_pauses_total",
                "Pauses in the work for connections without CONNACK of addresses where most come to"
                " nothing.",
                [],
                lambda: [([], listeners.pauses)],
            ),
            (
                "connections_limit",
                "Connections that the limit of open files allows.",
                [],
                lambda: [([], listeners.connection_limit)],
            ),
            (
                "certificate_not_after_seconds",
                "Earliest expiry of a certificate of the listener, in Unix time.",
                ["listener"],
                lambda: _ends(listeners, lambda tls: tls.certificate_not_after),
            ),
            (
                "client_ca_not_after_seconds",
                "Earliest expiry of a CA certificate for client certificates, in Unix time.",
                ["listener"],
                lambda: _ends(listeners, lambda tls: tls.client_ca_not_after),
            ),
            (
                "client_crl_next_update_seconds",
                "When the first revocation list has to be replaced, in Unix time.",
                ["listener"],
                lambda: _ends(listeners, lambda tls: tls.client_crl_next_update),
            ),
            (
                "certificate_reloads_total",
                "Reloads of changed certificate files, by result.",
                ["listener", "result"],
                lambda: [
                    ([label, result], count)
                    for label, each in listeners.counters().items()
                    for result, count in (
                        ("ok", each.reloads),
                        ("failed", each.reload_failures),
                    )
                ],
            ),
        )
    )
