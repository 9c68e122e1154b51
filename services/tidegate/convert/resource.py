"""A configuration as an MqttBroker resource, and the Secrets with the files that it names.

Called by the command line after ``conversion``. Writes the resource as plain data: the operator
validates it, and a test does so with the CRD's schema.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tidegate.convert.conf_file import Line
from tidegate.convert.findings import Findings
from tidegate.runtime.config.addresses import LOCALHOST, parse_address
from tidegate.runtime.config.spelling import camel

_API_VERSION: Final = "tidegate.io/v1alpha1"
#: The operator keeps this port of the pods.
_ADMIN_PORT: Final = 18083
_LOWEST_PORT: Final = 1024
#: Added to ports that pods cannot have.
_PORT_OFFSET: Final = 8000
_MAX_SECRET_BYTES: Final = 1_000_000
#: Sections of the configuration that the resource has, too.
_SAME_SECTIONS: Final = ("limits", "features", "log")
#: Keys of a listener that the resource has, too.
_SAME_KEYS: Final = ("max_connections", "max_qos", "mount_point", "allowed_origins")
_TLS_KEYS: Final = ("client_certificates", "minimum_version", "ciphers", "identity_as_username")


class Secrets:
    """The Secrets of a broker; the same files are in one Secret."""

    __slots__ = ("_broker", "_found", "_names", "findings")

    def __init__(self, broker: str, findings: Findings) -> None:
        self._broker = broker
        self.findings = findings
        self._names: dict[tuple[tuple[str, str], ...], str] = {}
        self._found: list[dict[str, Any]] = []

    def add(self, purpose: str, files: Mapping[str, str], kind: str = "Opaque") -> str:
        """Return the name of the Secret with these files (by key); it is made if there is none."""
        content = tuple(files.items())
        if content not in self._names:
            name = self._names[content] = f"{self._broker}-{purpose}"
            self._make(name, files, kind)
        return self._names[content]

    def documents(self) -> list[dict[str, Any]]:
        """Return those whose files could be read."""
        return self._found

    def _make(self, name: str, files: Mapping[str, str], kind: str) -> None:
        data: dict[str, str] = {}
        for key, path in files.items():
            try:
                content = Path(path).read_bytes()
            except OSError:
                content = b""
            if not 0 < len(content) <= _MAX_SECRET_BYTES:
                what = "is too large for a Secret" if content else "cannot be read, or is empty"
                named = " ".join(f"--from-file={each}={file}" for each, file in files.items())
                self.findings.remark_on_file(
                    Path(path),
                    0,
                    f"{what}: the Secret {name} is not written, and pods do not start without it. "
                    f"Make it: kubectl create secret generic {name} {named}",
                )
                return
            data[key] = base64.b64encode(content).decode()
        self._found.append(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name},
                "type": kind,
                "data": data,
            }
        )


def make_resource(
    config: Mapping[str, Any], name: str, source: Line, findings: Findings
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the MqttBroker and its Secrets. ``source`` is named where no line is to blame."""
    secrets = Secrets(name, findings)
    spec: dict[str, Any] = {"listeners": _listeners(config, secrets, source)}
    auth = config.get("auth", {})
    spec["auth"] = {
        camel(key): value for key, value in auth.items() if key not in {"password_file", "acl_file"}
    }
    if "password_file" in auth:
        spec["auth"]["passwords"] = _passwords(auth, "passwords", secrets)
    if "acl_file" in auth:
        spec["acl"] = _rules(auth, "acl", secrets)
    for section in _SAME_SECTIONS:
        if section in config:
            spec[section] = {camel(key): value for key, value in config[section].items()}
    if "max_memory_bytes" in config.get("store", {}):
        findings.remark(
            source,
            "memory_limit is not carried over: set the memory limit of the store's pod, "
            "`redis.bundled.resources`",
        )
    broker = {
        "apiVersion": _API_VERSION,
        "kind": "MqttBroker",
        "metadata": {"name": name},
        "spec": spec,
    }
    return broker, secrets.documents()


def _listeners(config: Mapping[str, Any], secrets: Secrets, source: Line) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    ports: set[int] = set()
    for listener in config["listeners"]:
        label = f"{listener['protocol']}-{listener['port']}"
        if listener["protocol"] == "unix":
            secrets.findings.remark(
                source,
                f"the Unix socket {listener['address']} is not carried over: pods have none. Let "
                "its clients use a listener with a port",
            )
        elif listener["port"] in ports:
            secrets.findings.remark(
                source,
                f"a second listener on port {listener['port']} ({listener['address']}) is not "
                "carried over: a pod has every port once. Give it another port",
            )
        else:
            ports.add(listener["port"])
            found.append(_listener(listener, label, secrets, source))
    return found


def _listener(
    listener: Mapping[str, Any], label: str, secrets: Secrets, source: Line
) -> dict[str, Any]:
    port = listener["port"]
    found: dict[str, Any] = {"name": label, "protocol": listener["protocol"], "port": port}
    if port < _LOWEST_PORT or port == _ADMIN_PORT:
        found |= {"port": port + _PORT_OFFSET, "servicePort": port}
    if _is_loopback(listener["address"]):
        found["service"] = {"type": "None"}
        secrets.findings.remark(
            source,
            f"the listener {label} is on loopback only: no Service publishes it "
            "(`service.type: None`), so that nobody new can reach it. Delete `service` to publish "
            "it",
        )
    found |= {camel(key): listener[key] for key in _SAME_KEYS if key in listener}
    if "proxy_protocol" in listener:
        secrets.findings.remark(
            source,
            f"the PROXY protocol of the listener {label} is not carried over: set proxyProtocol "
            "and trustedProxies together; until then no client gets through the proxy",
        )
    if "allow_anonymous" in listener:
        found["allowAnonymous"] = listener["allow_anonymous"]
    if "password_file" in listener:
        found["passwords"] = _passwords(listener, f"{label}-passwords", secrets)
    if "acl_file" in listener:
        found["acl"] = _rules(listener, f"{label}-acl", secrets)
    if "tls" in listener:
        found["tls"] = _tls(listener["tls"], label, secrets)
    return found


def _tls(tls: Mapping[str, Any], label: str, secrets: Secrets) -> dict[str, Any]:
    (pair,) = tls["certificates"]
    files = {"tls.crt": pair["certificate"], "tls.key": pair["key"]}
    found: dict[str, Any] = {"secretName": secrets.add(f"{label}-tls", files, "kubernetes.io/tls")}
    for key, file in (("client_ca", "ca.crt"), ("client_crl", "ca.crl")):
        if key in tls:
            purpose = f"{label}-{key.replace('_', '-')}"
            name = secrets.add(purpose, {file: tls[key]})
            found[camel(key)] = {"secretName": name, "key": file}
    return found | {camel(key): tls[key] for key in _TLS_KEYS if key in tls}


def _passwords(section: Mapping[str, Any], purpose: str, secrets: Secrets) -> dict[str, Any]:
    name = secrets.add(purpose, {"passwords": section["password_file"]})
    return {"secretName": name, "key": "passwords"}


def _rules(section: Mapping[str, Any], purpose: str, secrets: Secrets) -> dict[str, Any]:
    name = secrets.add(purpose, {"acl": section["acl_file"]})
    return {"source": {"secretName": name, "key": "acl"}}


def _is_loopback(address: str) -> bool:
    if address == LOCALHOST:
        return True
    try:
        return parse_address(address).is_loopback
    except ValueError:
        return False
