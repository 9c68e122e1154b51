"""Debian's mosquitto on free loopback ports, with the same interface as the broker under test.

It is the reference: tests are written against it, and the scenarios of
tests/outside/test_against_mosquitto.py are run against both.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from support.broker import READY_DEADLINE_S, Address, Server
from support.certificates import Authority, KeyPair
from support.ports import free_port
from support.tools import require
from support.waiting import wait_for

_ATTEMPTS = 5


class Mosquitto(Server):
    """mosquitto with TCP, TLS, WS, WSS and Unix listeners, anonymous clients and persistence."""

    product = "mosquitto"

    def __init__(
        self,
        directory: Path,
        server: KeyPair,
        authority: Authority,
        options: tuple[str, ...] = ("allow_anonymous true",),
    ) -> None:
        super().__init__(directory)
        self._server = server
        self._authority = authority
        self._options = options

    def start(self) -> None:
        """Start it on ports that were free a moment ago; try others if one was taken meanwhile."""
        program = require("mosquitto")
        for attempt in range(_ATTEMPTS):
            if attempt or not self.addresses:
                self.addresses = self._choose()
            file = self.directory / "mosquitto.conf"
            file.write_text("\n".join(self._lines()) + "\n")
            process = self._spawn([program, "-c", str(file)])
            wait_for(
                lambda: self._accepts() or self.process is None or self.process.poll() is not None,
                READY_DEADLINE_S,
                "mosquitto accepts connections or ends",
            )
            if process.poll() is None:
                return
        raise AssertionError(f"mosquitto does not start:\n{self.stderr()}")

    def _choose(self) -> dict[str, Address]:
        chosen = {
            name: Address(name, "127.0.0.1", free_port()) for name in ("tcp", "tls", "ws", "wss")
        }
        chosen["unix"] = Address("unix", "", 0, str(self.directory / "mqtt.sock"))
        return chosen

    def _lines(self) -> list[str]:
        tls = [
            f"certfile {self._server.certificate}",
            f"keyfile {self._server.key}",
            "tls_version tlsv1.2",
        ]
        lines = [
            *self._options,
            "persistence true",
            f"persistence_location {self.directory}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            f"listener {self.addresses['tcp'].port} 127.0.0.1",
            f"listener {self.addresses['tls'].port} 127.0.0.1",
            *tls,
            f"cafile {self._authority.certificate}",
            f"listener {self.addresses['ws'].port} 127.0.0.1",
            "protocol websockets",
            f"listener {self.addresses['wss'].port} 127.0.0.1",
            "protocol websockets",
            *tls,
            f"listener 0 {self.addresses['unix'].path}",
        ]
        # Started by root it would become another user, who may not read the directory.
        return (["user root"] if os.geteuid() == 0 else []) + lines

    def _accepts(self) -> bool:
        unix = Path(self.addresses["unix"].path)
        return unix.exists() and all(
            _accepts(address) for name, address in self.addresses.items() if name != "unix"
        )


def _accepts(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), 1.0).close()
    except OSError:
        return False
    return True
