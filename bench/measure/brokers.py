"""Tidegate as it is deployed: one process, a cluster on one machine, a cluster as in Kubernetes.

Each is started with the Python of a checkout, so that two checkouts can be compared.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from measure import peers
from measure.running import Running
from support.certificates import Authority, KeyPair
from support.ports import free_port

#: What a scenario may need; it costs nothing where it is not used.
LIMITS: Final = {"max_queued_messages": 1_000_000, "max_packet_size_bytes": 8_388_608}
#: Clients that must get in one after another before a cluster counts as started.
ALL_EDGES: Final = 16
#: The name that certificates of routers contain.
ROUTER_NAME: Final = "tidegate-router"
READY: Final = "tidegate ready"


@dataclass(slots=True, frozen=True)
class Broker:
    """A column of the table."""

    name: str
    title: str
    start: Callable[[Path], Running]
    #: What the scenarios know it as.
    product: str = "tidegate"


@dataclass(slots=True, frozen=True)
class Checkout:
    """A working tree with a virtual environment in ``.venv``."""

    root: Path

    @property
    def python(self) -> Path:
        """The interpreter that has this checkout installed."""
        return self.root / ".venv" / "bin" / "python"

    def knows(self, key: str) -> bool:
        """Return whether its configuration has this key at the top: an older checkout may not."""
        code = "from tidegate.runtime.config.model import Config; print(*Config.model_fields)"
        return key in self.output(code).split()

    def output(self, code: str) -> str:
        """Return what Python code prints that runs with this checkout."""
        return subprocess.run(
            [self.python, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()


def clients_certificate(directory: Path) -> KeyPair:
    """Make the certificate of the TLS listeners."""
    return Authority(directory / "clients").server("localhost")


def _settings(**settings: Any) -> dict[str, Any]:
    base = {
        "limits": LIMITS,
        "auth": {"allow_anonymous": True},
        "admin": {"enabled": False},
        "log": {"level": "warning"},
    }
    return base | settings


def _write(file: Path, settings: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def _command(checkout: Checkout, role: str, file: Path) -> list[str | Path]:
    return [checkout.python, "-P", "-m", "tidegate", role, "--config", file]


def _listeners(ports: dict[str, int], certificate: KeyPair, **settings: Any) -> list[Any]:
    listeners: list[dict[str, Any]] = [
        {"protocol": kind, "address": "127.0.0.1", "port": ports.get(kind, 0), **settings}
        for kind in ("tcp", "ws", "tls")
    ]
    pair = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
    listeners[-1]["tls"] = {"certificates": [pair]}
    return listeners


def _ports_of(ready: str) -> dict[str, int]:
    """Read the ports of a line ``tidegate ready tcp=tcp://127.0.0.1:1883 …``."""
    ports = {}
    for word in ready.removeprefix(READY).split():
        scheme, found, rest = word.partition("=")[2].partition("://")
        if found and scheme in {"tcp", "ws", "tls"}:
            ports[scheme] = int(rest.split("/")[0].rpartition(":")[2])
    return ports


def serve(checkout: Checkout, directory: Path, edges: int = 0, routers: int = 0) -> Running:
    """Start ``tidegate serve``: one process, or with ``edges`` the cluster of one machine."""
    running = Running(directory)
    settings = _settings(listeners=_listeners({}, clients_certificate(directory)))
    settings["store"] = {"data_dir": str(directory / "data")}
    if checkout.knows("console"):
        settings["console"] = {"enabled": False}
    if edges:
        settings["cluster"] = {"edges": edges, "routers": routers}
    file = _write(directory / "serve.yaml", settings)
    command = _command(checkout, "serve", file)
    try:
        running.ports = _ports_of(running.wait_for_line(running.spawn(command, "serve"), READY))
        running.wait_for_clients(running.ports["tcp"], ALL_EDGES if edges else 1)
    except BaseException:
        running.stop()
        raise
    return running


def cluster(checkout: Checkout, directory: Path, edges: int, routers: int) -> Running:
    """Start a cluster as Kubernetes runs it: TCP and mutual TLS between its processes."""
    running = Running(directory)
    try:
        _start_parts(running, checkout, edges, routers)
        running.wait_for_clients(running.ports["tcp"], ALL_EDGES)
    except BaseException:
        running.stop()
        raise
    return running


def _start_parts(running: Running, checkout: Checkout, edges: int, routers: int) -> None:
    directory = running.directory
    authority = Authority(directory / "link")
    pairs = {"edge": authority.client("tidegate-edge"), "router": authority.server(ROUTER_NAME)}
    store = {"url": _start_store(running, checkout)}

    def link(role: str, **settings: Any) -> dict[str, Any]:
        tls = {
            "certificate": str(pairs[role].certificate),
            "key": str(pairs[role].key),
            "ca": str(authority.certificate),
        }
        return settings | {"tls": tls}

    def start(role: str, number: int, **settings: Any) -> str:
        name = f"{role}-{number}"
        file = _write(directory / f"{name}.yaml", _settings(name=name, **settings))
        command: list[str | Path] = [
            checkout.python,
            "-P",
            "-m",
            "tidegate",
            role,
            "--config",
            file,
        ]
        return running.wait_for_line(running.spawn(command, name), READY)

    addresses = []
    for number in range(1, routers + 1):
        ready = start("router", number, store=store, link=link("router", listen="127.0.0.1:0"))
        addresses.append(next(w[5:] for w in ready.split() if w.startswith("link=")))
    certificate = clients_certificate(directory)
    for number in range(1, edges + 1):
        # The first one's ports are the system's choice, the others share them.
        listeners = _listeners(running.ports, certificate, reuse_port=True)
        ready = start("edge", number, listeners=listeners, link=link("edge", routers=addresses))
        running.ports = _ports_of(ready)


def _start_store(running: Running, checkout: Checkout) -> str:
    server = checkout.output("import tidegate.store.embedded as e; print(e.find_server())")
    data = running.directory / "data"
    data.mkdir()
    port = free_port()
    command: list[str | Path] = [server, "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--dir", data, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    running.spawn(command, "store")
    return f"redis://127.0.0.1:{port}"


def brokers_of(checkout: Checkout, edges: int, routers: int, suffix: str = "") -> dict[str, Broker]:
    """Return the three ways of running a checkout; ``suffix`` tells two checkouts apart."""
    parts = f"{edges} + {routers}"
    after = f" ({suffix})" if suffix else ""
    made = [
        Broker("one", f"one process{after}", lambda at: serve(checkout, at)),
        Broker(
            "unix",
            f"cluster {parts}, Unix sockets{after}",
            lambda at: serve(checkout, at, edges, routers),
        ),
        Broker(
            "mtls",
            f"cluster {parts}, TCP with mutual TLS{after}",
            lambda at: cluster(checkout, at, edges, routers),
        ),
    ]
    return {broker.name: broker for broker in made}


def peers_found() -> tuple[dict[str, Broker], list[str]]:
    """Return the peers that are installed, and the names of the others."""
    found, missing = {}, []
    for name, title, program, start in peers.PEERS:
        path = peers.find(program)
        if path is None:
            missing.append(program)
            continue
        found[name] = Broker(
            name,
            title,
            lambda at, start=start, path=path: start(path, at, clients_certificate(at)),  # type: ignore[misc]  # defaults bind now
            name,
        )
    return found, missing
