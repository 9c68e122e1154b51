"""Other brokers, with the settings that make the scenarios comparable."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from measure.running import Running, StartError
from support.certificates import KeyPair
from support.ports import free_port

#: Debian keeps daemons where an ordinary user's PATH does not look.
_PATH: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_ATTEMPTS: Final = 3


def find(program: str) -> str | None:
    """Return the path of a program, None if it is not installed."""
    return shutil.which(program, path=_PATH)


def _start(
    directory: Path, kinds: tuple[str, ...], command: Callable[[dict[str, int]], list[str]]
) -> Running:
    """Start a program on free ports, on others if one was taken meanwhile."""
    for attempt in range(_ATTEMPTS):
        running = Running(directory)
        running.ports = {kind: free_port() for kind in kinds}
        running.spawn(command(running.ports), f"peer-{attempt}")
        try:
            running.wait_for_clients(running.ports["tcp"])
        except StartError:
            running.stop()
        else:
            return running
    printed = (directory / f"peer-{_ATTEMPTS - 1}.out").read_text(errors="replace")
    raise StartError(f"a peer does not start: {printed[-400:]}")


def mosquitto(program: str, directory: Path, certificate: KeyPair) -> Running:
    """Start mosquitto without persistence and without limits of queues."""

    def command(ports: dict[str, int]) -> list[str]:
        file = directory / "mosquitto.conf"
        file.write_text(
            f"listener {ports['tcp']} 127.0.0.1\n"
            f"listener {ports['ws']} 127.0.0.1\nprotocol websockets\n"
            f"listener {ports['tls']} 127.0.0.1\n"
            f"certfile {certificate.certificate}\nkeyfile {certificate.key}\n"
            "allow_anonymous true\npersistence false\nmax_queued_messages 0\n"
            f"set_tcp_nodelay true\n{_user()}"
        )
        return [program, "-c", str(file)]

    return _start(directory, ("tcp", "ws", "tls"), command)


def nats(program: str, directory: Path, certificate: KeyPair) -> Running:
    """Start a NATS server with MQTT, twice because it has one MQTT listener: without and with TLS.

    The second one has no clients in the scenarios of the first, and costs nothing there.
    """
    plain = _nats(program, directory, None)
    try:
        with_tls = _nats(program, directory, certificate)
    except BaseException:
        plain.stop()
        raise
    plain.ports["tls"] = with_tls.ports["tcp"]
    plain.processes += with_tls.processes
    return plain


def _nats(program: str, directory: Path, certificate: KeyPair | None) -> Running:
    name = "nats-tls" if certificate else "nats"
    tls = (
        f'tls {{ cert_file: "{certificate.certificate}", key_file: "{certificate.key}" }}'
        if certificate
        else ""
    )

    def command(ports: dict[str, int]) -> list[str]:
        file = directory / f"{name}.conf"
        file.write_text(
            f"server_name: {name}\nlisten: 127.0.0.1:{ports['clients']}\n"
            f'jetstream {{ store_dir: "{directory / name}" }}\n'
            "max_payload: 8MB\nmax_pending: 64MB\nmax_connections: 100000\n"
            f"mqtt {{\n host: 127.0.0.1\n port: {ports['tcp']}\n {tls}\n}}\n"
        )
        return [program, "-c", str(file)]

    if certificate is None:
        return _start(directory, ("tcp", "clients"), command)
    # Its listener answers no plain CONNECT: the line that it prints has to do.
    running = Running(directory)
    running.ports = {kind: free_port() for kind in ("tcp", "clients")}
    try:
        running.wait_for_line(running.spawn(command(running.ports), name), "Server is ready")
    except BaseException:
        running.stop()
        raise
    return running


def _user() -> str:
    # mosquitto changes to the user "mosquitto" if root starts it, who cannot read our files.
    return "user root\n" if os.getuid() == 0 else ""


Start = Callable[[str, Path, KeyPair], Running]
#: Name, title, program, how it is started.
PEERS: Final[tuple[tuple[str, str, str, Start], ...]] = (
    ("mosquitto", "mosquitto", "mosquitto", mosquitto),
    ("nats", "NATS server", "nats-server", nats),
)
