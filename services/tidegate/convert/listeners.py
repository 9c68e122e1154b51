"""One listener of mosquitto as a listener of Tidegate.

Called by ``conversion``. What would let more clients in than mosquitto did is never written: then
the listener is left out, or closed to everybody, and a remark says what to do.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any, Final

from tidegate.convert import values
from tidegate.convert.conf_file import Line, Section
from tidegate.convert.findings import Findings
from tidegate.runtime.config.addresses import ANY, LOCALHOST
from tidegate.runtime.config.model import check_ciphers, check_mount_point

_DEFAULT_PORT: Final = 1883
_LOOPBACK: Final = "127.0.0.1"
_ANY_OF_DOMAIN: Final = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 - as the file says
_TLS_VERSIONS: Final = {"tlsv1.1": "1.2", "tlsv1.2": "1.2", "tlsv1.3": "1.3"}

#: What this module reads, besides what is about users.
NAMES: Final = frozenset(
    {
        *("bind_interface", "socket_domain", "enable_proxy_protocol", "listener_allow_anonymous"),
        *("max_connections", "max_qos", "maximum_qos", "mount_point", "protocol"),
        *("use_username_as_clientid", "websockets_origin", "max_topic_alias"),
        *("max_topic_alias_broker", "cafile", "capath", "certfile", "keyfile", "ciphers"),
        *("crlfile", "require_certificate", "tls_version", "use_identity_as_username"),
        *("use_subject_as_username", "bind_address", "port"),
    }
)


class Given:
    """The lines of one listener by name; of several the last counts."""

    __slots__ = ("_lines", "findings", "start")

    def __init__(self, section: Section, findings: Findings) -> None:
        self.start = section.start
        self.findings = findings
        self._lines = section.lines

    def line(self, *names: str) -> Line | None:
        """Return the last line with one of the names."""
        return next((line for line in reversed(self._lines) if line.name in names), None)

    def lines(self, name: str) -> list[Line]:
        """Return all lines with a name."""
        return [line for line in self._lines if line.name == name]

    def flag(self, name: str) -> bool:
        """Return a flag that is off by default."""
        line = self.line(name)
        return line is not None and values.flag(line)

    def number(self, *names: str) -> int | None:
        """Return a number, None without the line."""
        line = self.line(*names)
        return None if line is None else values.number(line)

    def path(self, name: str) -> Path | None:
        """Return a path, None without the line."""
        line = self.line(name)
        return None if line is None else values.path(line)


def convert_listener(given: Given) -> dict[str, Any] | None:
    """Return the listener as plain data; None if it cannot be carried over (there is a remark)."""
    for name, words in (
        ("psk_hint", "TLS-PSK is not supported"),
        ("tls_engine", "a key in an OpenSSL engine cannot be used"),
    ):
        line = given.line(name)
        if line is not None:
            text = f"the listener is not carried over: {words}; give it a certificate and a key"
            given.findings.remark(given.start or line, text)
            return None
    tls = _tls(given)
    if tls is None:
        return None
    protocol = _protocol(given, is_tls=bool(tls))
    if protocol is None:
        return None
    listener: dict[str, Any] = {"protocol": protocol}
    listener |= _place(given, protocol)
    if tls:
        listener["tls"] = tls
    return listener | _limits(given)


def _protocol(given: Given, *, is_tls: bool) -> str | None:
    line = given.line("protocol")
    name = "mqtt" if line is None else line.first
    if name == "websockets":
        assert line is not None
        given.findings.note(
            line,
            "clients that use another path than /mqtt, /ws or / are refused (HTTP 404): add it to "
            "`listeners[].paths`",
        )
        return "wss" if is_tls else "ws"
    if name == "mqtt":
        return "tls" if is_tls else "tcp"
    assert line is not None
    if name == "http_api":
        given.findings.remark(
            line, "the listener is not carried over: the admin server (`admin`) has health, /status"
        )
        return None
    raise line.error(f"expected mqtt or websockets, got {name or 'nothing'}")


def _place(given: Given, protocol: str) -> dict[str, Any]:
    start = given.start
    if start is None:
        port, host = given.number("port") or _DEFAULT_PORT, given.line("bind_address")
        address = None if host is None else host.first
        at = host
    else:
        words = start.value.split()
        if not words or not (words[0].isascii() and words[0].isdigit()) or int(words[0]) > 65535:
            raise start.error("expected a port from 0 to 65535")
        port, at = int(words[0]), start
        address = words[1] if len(words) > 1 and not words[1].startswith("#") else None
    if start is not None and port == 0:
        if address is None:
            raise start.error("port 0 needs the path of a Unix socket")
        return _unix(given, start, address, protocol)
    return {"address": _address(given, address, at), "port": port}


def _unix(given: Given, start: Line, path: str, protocol: str) -> dict[str, Any]:
    if protocol != "tcp":
        given.findings.remark(
            start, "a Unix socket has neither TLS nor WebSocket: it is plain MQTT"
        )
    return {"protocol": "unix", "address": str(Path(path).absolute()), "port": 0}


def _address(given: Given, host: str | None, at: Line | None) -> str:
    interface = given.line("bind_interface")
    if interface is not None:
        given.findings.remark(
            interface,
            "not carried over: the listener is bound to "
            f"{host or _LOOPBACK}; set `listeners[].address` to the address of the interface",
        )
    if host is None:
        if interface is not None:
            return _LOOPBACK
        domain = given.line("socket_domain")
        if domain is None:
            return ANY
        if domain.first not in _ANY_OF_DOMAIN:
            raise domain.error(f"expected ipv4 or ipv6, got {domain.first or 'nothing'}")
        return _ANY_OF_DOMAIN[domain.first]
    if host.lower() == LOCALHOST:
        return LOCALHOST
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        assert at is not None
        return _resolved(given, host, at)


def _resolved(given: Given, host: str, at: Line) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        found = []
    address = str(found[0][4][0]) if found else _LOOPBACK
    reason = "its address now" if found else f"{host} has no address here"
    given.findings.remark(
        at,
        f"not carried over: host names are not resolved; {address} is set ({reason}). Set "
        "`listeners[].address`",
    )
    return address


def _limits(given: Given) -> dict[str, Any]:
    found: dict[str, Any] = {}
    connections = given.number("max_connections")
    if connections is not None and connections > 0:
        found["max_connections"] = connections
    elif connections == 0:
        line = given.line("max_connections")
        assert line is not None
        given.findings.remark(line, "0 is no limit in Tidegate; delete the listener to close it")
    max_qos = given.number("max_qos", "maximum_qos")
    if max_qos is not None:
        found["max_qos"] = max_qos
    mount_point = given.line("mount_point")
    if mount_point is not None:
        try:
            found["mount_point"] = check_mount_point(values.text(mount_point))
        except ValueError as error:
            raise mount_point.error(str(error)) from None
    origins = [values.text(line) for line in given.lines("websockets_origin")]
    if origins:
        found["allowed_origins"] = origins
    proxy = given.line("enable_proxy_protocol")
    if proxy is not None and values.number(proxy):
        found["proxy_protocol"] = "required"
        given.findings.remark(
            proxy,
            "set `listeners[].trusted_proxies` to the networks of the proxies: nobody else may "
            "send a PROXY header, and until then no client can connect",
        )
    return found


# TLS


def _tls(given: Given) -> dict[str, Any] | None:
    """Return the TLS settings: empty without TLS, None if the listener has to be left out."""
    certificate, key = given.path("certfile"), given.path("keyfile")
    if certificate is None or key is None:
        for name, other in (("certfile", "keyfile"), ("keyfile", "certfile")):
            line = given.line(name)
            if line is not None:
                raise line.error(f"needs {other}, too")
        return _without_tls(given)
    tls: dict[str, Any] = {"certificates": [{"certificate": str(certificate), "key": str(key)}]}
    version = given.line("tls_version")
    if version is not None:
        if version.first not in _TLS_VERSIONS:
            raise version.error(f"expected tlsv1.2 or tlsv1.3, got {version.first or 'nothing'}")
        tls["minimum_version"] = _TLS_VERSIONS[version.first]
        if version.first == "tlsv1.1":
            given.findings.remark(version, "clients that have no TLS 1.2 cannot connect")
    _ciphers(given, tls)
    return tls if _client_certificates(given, tls) else None


def _without_tls(given: Given) -> dict[str, Any] | None:
    for name in ("require_certificate", "use_identity_as_username", "use_subject_as_username"):
        if given.flag(name):
            line = given.line(name)
            assert line is not None
            given.findings.remark(
                line, "not carried over: without certfile and keyfile the listener has no TLS"
            )
    return {}


def _ciphers(given: Given, tls: dict[str, Any]) -> None:
    line = given.line("ciphers")
    if line is None:
        return
    if tls.get("minimum_version") == "1.3":
        given.findings.note(line, "without effect: it is about TLS 1.2, and tls_version is tlsv1.3")
        return
    try:
        tls["ciphers"] = check_ciphers(values.text(line))
    except ValueError as error:
        given.findings.remark(line, f"not carried over: {error}; the default suites are used")


def _client_certificates(given: Given, tls: dict[str, Any]) -> bool:
    """Add what is about client certificates; return whether the listener can be carried over."""
    identity = "cn" if given.flag("use_identity_as_username") else "off"
    if identity == "off" and given.flag("use_subject_as_username"):
        identity = "dn"
    required = given.flag("require_certificate")
    if not required and identity == "off":
        crl = given.line("crlfile")
        if crl is not None:
            given.findings.note(crl, "without effect, as in mosquitto: require_certificate is off")
        return True
    authorities = _authorities(given)
    if authorities is None:
        line = given.line(
            "require_certificate", "use_identity_as_username", "use_subject_as_username"
        )
        assert line is not None
        given.findings.remark(
            given.start or line,
            "the listener is not carried over: client certificates need a cafile to be verified "
            "with",
        )
        return False
    tls |= {"client_ca": str(authorities), "client_certificates": "required"}
    crl_file = given.path("crlfile")
    if crl_file is not None:
        tls["client_crl"] = str(crl_file)
    if identity != "off":
        tls["identity_as_username"] = identity
    return True


def _authorities(given: Given) -> Path | None:
    """Return the file with the CA certificates; of a directory one that has to be made."""
    file, directory = given.path("cafile"), given.path("capath")
    if directory is not None:
        line = given.line("capath")
        assert line is not None
        bundle = file or directory.with_name(f"{directory.name}-bundle.pem")
        given.findings.remark(
            line,
            "not carried over: one file has all CA certificates; make it with "
            f"`cat {directory}/*.pem {'>>' if file else '>'} {bundle}`",
        )
        return bundle
    return file
