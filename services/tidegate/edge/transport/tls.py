"""Certificates of a listener: contexts chosen by SNI, reloaded when their files change.

Called by `Listeners` (reload) and by `ConnectionHandshake` (a context for a new connection). A
connection keeps the context that it began with, so a reload never affects an open one.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from tidegate.edge.transport.accepted_connection import ListenerCounters
from tidegate.edge.transport.client_trust import (
    ClientTrust,
    UnusableFile,
    Validity,
    client_trust,
    problems_of,
    validities_in,
)
from tidegate.runtime.config.file_version import FileDigests, Signature, signature_of
from tidegate.runtime.config.model import (
    CertificateConfig,
    ListenerConfig,
    ListenerProtocol,
    TlsConfig,
)
from tidegate.runtime.reload.config_status import ConfigStatus
from tidegate.runtime.reload.errors import error_text, is_read_error

log = logging.getLogger(__name__)

_ALPN: Final = {
    ListenerProtocol.TLS: ["mqtt"],
    ListenerProtocol.WSS: ["http/1.1"],
    ListenerProtocol.AUTO: ["mqtt", "http/1.1"],
}
_VERIFY: Final = {
    "off": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


#: What follows when a listener's certificate, or one that it is sent with, is not valid.
NOT_ACCEPTED: Final = "clients do not accept it"


class TlsConfigurationError(Exception):
    """A certificate, key or CA file cannot be used; the message names listener and file."""


class ServerSslObject(ssl.SSLObject):
    """An SSLObject that keeps the server name that its client asked for."""

    sni = ""


class RecordBuffers:
    """What OpenSSL reads and writes for all connections of a listener, one after the other.

    Each call puts in what has arrived and takes out what is to be sent, so nothing is left in them
    for the next connection. One pair for each connection would keep the largest content that it
    ever had until the connection ends: OpenSSL's memory buffers never shrink.
    """

    __slots__ = ("incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()


@dataclass(slots=True, frozen=True)
class ContextSet:
    """The contexts of one listener, from one reading of its files."""

    default: ssl.SSLContext
    exact: dict[str, ssl.SSLContext]
    wildcard: dict[str, ssl.SSLContext]
    #: Of the listener's certificates and of the CA certificates that are sent with them.
    certificates: tuple[Validity, ...]
    client_trust: ClientTrust
    #: The server names of each certificate, by its file.
    names: tuple[tuple[Path, tuple[str, ...]], ...] = ()
    buffers: RecordBuffers = field(default_factory=RecordBuffers)

    def find(self, name: str) -> ssl.SSLContext:
        """Return the context for a server name: exact, wildcard (one label), or the default."""
        lowered = name.lower().rstrip(".")
        found = self.exact.get(lowered)
        if found is None:
            found = self.wildcard.get(lowered.partition(".")[2], self.default)
        return found


class TlsContexts:
    """The contexts of one listener, reloaded when its files change."""

    __slots__ = (
        "_config",
        "_config_status",
        "_digests",
        "_label",
        "_next_check",
        "_problem",
        "_seen",
        "_unreadable",
        "_wall_clock",
        "_warned",
        "current",
    )

    def __init__(
        self,
        listener: ListenerConfig,
        config_status: ConfigStatus | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the files. Raises `TlsConfigurationError`. ``config_status`` gets later ones."""
        self._config_status = config_status or ConfigStatus()
        self._label = listener.label
        self._config = listener
        # Taken before reading: a change while reading is found by the next check.
        self._seen = _signatures(listener.tls)
        reading = FileDigests(files_of(listener.tls))
        self.current = load(listener)
        self._digests = reading.unchanged()
        self._next_check = 0.0
        #: Whether the last reading failed for a reason that is not in the files; its error text.
        self._unreadable = False
        self._problem = ""
        self._wall_clock = wall_clock
        #: What has been logged of certificates that are not valid now.
        self._warned: set[str] = set()
        self._loaded()

    @property
    def certificate_not_after(self) -> float:
        """When the first certificate expires, seconds since the epoch."""
        return _first_end(self.current.certificates)

    @property
    def client_ca_not_after(self) -> float:
        """When the first CA certificate of clients expires; infinite without one."""
        return _first_end(self.current.client_trust.authorities)

    @property
    def client_crl_next_update(self) -> float:
        """When the first revocation list has to be replaced; infinite without one."""
        return _first_end(self.current.client_trust.lists)

    def pop_digests(self) -> dict[Path, str]:
        """Return the digests of the files as first read; empty when called again."""
        digests, self._digests = self._digests, {}
        return digests

    def is_due(self, now: float) -> bool:
        """Whether the next check of the files is due."""
        return now >= self._next_check

    def reload(self, now: float, counters: ListenerCounters) -> None:
        """Check the files; if they changed, read them. If they are bad, the contexts stay.

        A file that cannot be read is tried again at every check, and logged once.
        """
        self._next_check = now + self._config.tls.reload_interval_s
        self._warn_of_invalid()
        seen = _signatures(self._config.tls)
        again = self._unreadable and seen == self._seen
        if seen == self._seen and not again:
            return
        self._seen = seen
        paths = files_of(self._config.tls)
        reading = FileDigests(paths)
        try:
            self.current = load(self._config)
        except TlsConfigurationError as exc:
            self._unreadable = is_read_error(exc)
            if again and str(exc) == self._problem:
                return
            self._problem = str(exc)
            counters.reload_failures += 1
            self._config_status.mark_rejected(paths, error_text(exc))
            log.warning(
                "certificate reload failed, keeping the previous certificates",
                extra={"listener": self._label, "error": str(exc)},
            )
            return
        self._unreadable = False
        counters.reloads += 1
        self._config_status.mark_applied(reading.unchanged())
        log.info(
            "certificates reloaded",
            extra={"listener": self._label, "not_after": self.certificate_not_after},
        )
        self._loaded()

    def _loaded(self) -> None:
        for gap in self.current.client_trust.gaps:
            log.warning(
                "client certificates without revocation list",
                extra={"listener": self._label, "problem": gap},
            )
        self._warn_of_invalid()

    def _warn_of_invalid(self) -> None:
        """Log what has expired or is not valid yet, once."""
        current, now_s = self.current, self._wall_clock()
        trust = current.client_trust
        validities = (*current.certificates, *trust.authorities, *trust.lists)
        found = {text: path for path, text in problems_of(validities, now_s)}
        for text, path in found.items():
            if text not in self._warned:
                log.warning(
                    "certificate or revocation list is not valid",
                    extra={"listener": self._label, "path": str(path), "problem": text},
                )
        self._warned = set(found)


def files_of(config: TlsConfig) -> list[Path]:
    """Return every file of a listener's TLS settings."""
    paths = [path for each in config.certificates for path in (each.certificate, each.key)]
    paths += (path for path in (config.client_ca, config.client_crl) if path is not None)
    return paths


def _signatures(config: TlsConfig) -> list[Signature]:
    """Return those of every file, through symbolic links (``..data`` of a mounted Secret)."""
    return [signature_of(path) for path in files_of(config)]


def load(listener: ListenerConfig) -> ContextSet:
    """Read all files of a listener. Raises `TlsConfigurationError` naming the one that is bad."""
    exact: dict[str, ssl.SSLContext] = {}
    wildcard: dict[str, ssl.SSLContext] = {}
    contexts: list[ssl.SSLContext] = []
    validities: list[Validity] = []
    names_of: list[tuple[Path, tuple[str, ...]]] = []
    trust = _client_trust(listener)
    for certificate in listener.tls.certificates:
        context = _context(listener, certificate, trust)
        leaf = _leaf(listener, certificate.certificate)
        validities += _validities(listener, certificate.certificate)
        names = certificate.server_names or _names(listener, certificate.certificate, leaf)
        names_of.append((certificate.certificate, tuple(names)))
        for name in names:
            lowered = name.lower().rstrip(".")
            if lowered.startswith("*."):
                wildcard.setdefault(lowered[2:], context)
            else:
                exact.setdefault(lowered, context)
        contexts.append(context)
    found = ContextSet(contexts[0], exact, wildcard, tuple(validities), trust, tuple(names_of))

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        if name is not None:
            if isinstance(connection, ServerSslObject):
                connection.sni = name
            connection.context = found.find(name)

    found.default.sni_callback = choose
    return found


def _client_trust(listener: ListenerConfig) -> ClientTrust:
    try:
        return client_trust(listener.tls)
    except UnusableFile as exc:
        raise _error(listener, exc.path, exc) from exc
    except OSError as exc:
        raise _error(listener, Path(exc.filename or listener.tls.client_ca or ""), exc) from exc


def _validities(listener: ListenerConfig, path: Path) -> list[Validity]:
    try:
        return validities_in(path, NOT_ACCEPTED)
    except (OSError, ValueError) as exc:
        raise _error(listener, path, exc) from exc


def _first_end(validities: tuple[Validity, ...]) -> float:
    return min((each.not_after for each in validities), default=float("inf"))


def _context(
    listener: ListenerConfig, certificate: CertificateConfig, trust: ClientTrust
) -> ssl.SSLContext:
    config = listener.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = ServerSslObject
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if config.minimum_version == "1.3" else ssl.TLSVersion.TLSv1_2
    )
    # A peer must not be able to cause public-key work again on an open connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # OpenSSL sends two, for a browser's parallel connections: an MQTT client has one.
    context.num_tickets = 1
    if config.ciphers:
        context.set_ciphers(config.ciphers)
    context.set_alpn_protocols(_ALPN.get(listener.protocol, ["mqtt"]))
    context.verify_mode = _VERIFY[config.client_certificates]
    path = certificate.certificate
    try:
        context.load_cert_chain(certificate.certificate, certificate.key, password=_no_password)
        if config.client_ca is not None:
            path = config.client_ca
            trust.load_into(context, config)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise _error(listener, path, exc) from exc
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted, which is not supported")


def _error(listener: ListenerConfig, path: Path, exc: Exception) -> TlsConfigurationError:
    reason = getattr(exc, "strerror", None) or getattr(exc, "reason", None) or str(exc)
    return TlsConfigurationError(f"listener {listener.label}: cannot use {path}: {reason}")


def _leaf(listener: ListenerConfig, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError, x509.InvalidVersion) as exc:
        raise _error(listener, path, exc) from exc


def _names(listener: ListenerConfig, path: Path, leaf: x509.Certificate) -> list[str]:
    """Return the names of a certificate; OpenSSL loads some whose names cannot be parsed."""
    try:
        return names_in(leaf)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise _error(listener, path, exc) from exc


def names_in(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names of a certificate; its common name if it has none."""
    try:
        extension = certificate.extensions.get_extension_for_oid(
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        )
    except x509.ExtensionNotFound:
        names: list[str] = []
    else:
        assert isinstance(extension.value, x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    return names or _common_names(certificate)


def _common_names(certificate: x509.Certificate) -> list[str]:
    attributes = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [str(attribute.value) for attribute in attributes]
