"""The same clients against a real mosquitto, and against Tidegate with the converted file.

Input: two mosquitto.conf as their users write them: one set of files for TCP, WebSocket and TLS
listeners in an included directory, and one with files of listeners. Observed: who gets in, which
publishes are refused, and what is delivered. Reason codes of refused connections and mount points
differ, as docs/differences-from-mosquitto.md says.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from support.broker import READY_DEADLINE_S, Address, Server, Tidegate
from support.certificates import Authority, Certificates, KeyPair
from support.mosquitto import Mosquitto
from support.paho_client import V5, V311, PahoClient
from support.ports import free_port
from support.tools import require
from support.waiting import wait_for

DEADLINE_S = 15.0
TOPICS = ("public/a", "ann/secret", "bob/secret", "devices/device-1/up", "closed/x", "alarms")
#: Everybody may read and write below it: what arrives there arrives last.
MARKER = "echo"


class ConfiguredMosquitto(Mosquitto):
    """mosquitto with a configuration of the test's own."""

    def __init__(self, directory: Path, conf: Path, addresses: dict[str, Address]) -> None:
        super().__init__(directory, KeyPair(conf, conf), None)  # type: ignore[arg-type]
        self.addresses = addresses
        self._conf = conf

    def start(self) -> None:
        """Start it and return when all listeners accept connections."""
        process = self._spawn([require("mosquitto"), "-c", str(self._conf)])
        wait_for(
            lambda: (
                all(_accepts(each) for each in self.addresses.values())
                or process.poll() is not None
            ),
            READY_DEADLINE_S,
            "mosquitto accepts connections or ends",
        )
        assert process.poll() is None, self.stderr()


def _accepts(address: Address) -> bool:
    try:
        socket.create_connection((address.host, address.port), 1.0).close()
    except OSError:
        return False
    return True


class ConvertedTidegate(Tidegate):
    """``tidegate serve`` with a file that is used as it is."""

    def __init__(self, directory: Path, file: Path, addresses: dict[str, Address]) -> None:
        super().__init__(directory, {}, [])
        self._file = file
        self._wanted = addresses

    def start(self) -> None:
        """Start it and return when it is ready."""
        program = str(Path(sys.executable).with_name("tidegate"))
        arguments = ["--data-dir", str(self.directory / "data"), "--admin", "off"]
        process = self._spawn([program, "serve", "--config", str(self._file), *arguments])
        wait_for(
            lambda: self._find_ready_line() or process.poll() is not None,
            READY_DEADLINE_S,
            "it is ready",
        )
        assert self._find_ready_line(), self.stdout() + self.stderr()
        self.addresses = self._wanted


@dataclass(slots=True, frozen=True)
class Who:
    """A client: how it comes, and as whom."""

    transport: str
    login: tuple[str, str] | None = None
    certificate: str = ""
    protocol: MQTTProtocolVersion = V5


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair | Authority]:
    made = Certificates(tmp_path_factory.mktemp("pki"))
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "Another authority")
    return {
        "authority": made.authority,
        "server": made.server,
        "device-1": made.client,
        "stranger": stranger.client("device-1"),
    }


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory with a password file that mosquitto_passwd wrote, and an ACL file."""
    program = require("mosquitto_passwd")
    for position, (user, word) in enumerate((("ann", "sea"), ("bob", "wind"))):
        create = ["-c"] if position == 0 else []
        command = [program, "-b", *create, str(tmp_path / "passwords"), user, word]
        subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "acl").write_text(
        "# guests\ntopic read public/#\n\nuser ann\ntopic readwrite ann/#\ntopic write public/#\n"
        "topic deny closed/#\ntopic read #\n\nuser bob\ntopic bob/secret\n\n"
        "pattern readwrite devices/%u/#\npattern readwrite echo/%c\n"
    )
    yield tmp_path
    shutil.rmtree(tmp_path / "data", ignore_errors=True)


def _root() -> list[str]:
    # Started by root it would become another user, who may not read the directory.
    return ["user root"] if os.geteuid() == 0 else []


def _shared_files(directory: Path, pki: dict[str, Any], ports: dict[str, int]) -> list[str]:
    """One set of files for three listeners, two of them in an included directory."""
    included = directory / "conf.d"
    included.mkdir()
    (included / "10-websockets.conf").write_text(
        f"listener {ports['ws']} 127.0.0.1\nprotocol websockets\n"
    )
    (included / "20-tls.conf").write_text(
        f"listener {ports['tls']} 127.0.0.1\ncertfile {pki['server'].certificate}\n"
        f"keyfile {pki['server'].key}\ncafile {pki['authority'].certificate}\n"
        "require_certificate true\nuse_identity_as_username true\n"
    )
    return [
        *_root(),
        *("allow_anonymous true", "persistence false", "log_type all", "log_dest stderr"),
        *(f"password_file {directory}/passwords", f"acl_file {directory}/acl"),
        *(f"listener {ports['tcp']} 127.0.0.1", f"include_dir {included}"),
    ]


def _files_of_listeners(directory: Path, pki: dict[str, Any], ports: dict[str, int]) -> list[str]:
    return [
        "per_listener_settings true",
        *_root(),
        *(f"listener {ports['tcp']} 127.0.0.1", f"password_file {directory}/passwords"),
        *(f"listener {ports['ws']} 127.0.0.1", "protocol websockets", "allow_anonymous true"),
        *(f"acl_file {directory}/acl", "max_qos 1"),
        *(f"listener {ports['tls']} 127.0.0.1", f"certfile {pki['server'].certificate}"),
        *(f"keyfile {pki['server'].key}", f"password_file {directory}/passwords"),
        *(f"acl_file {directory}/acl", "tls_version tlsv1.2"),
    ]


CLIENTS = [
    Who("tcp"),
    Who("tcp", ("ann", "sea")),
    Who("tcp", ("ann", "sea"), protocol=V311),
    Who("tcp", ("ann", "wrong")),
    Who("tcp", ("nobody", "sea")),
    Who("tcp", ("bob", "wind")),
    Who("ws"),
    Who("ws", ("ann", "sea")),
    Who("ws", ("bob", "wind"), protocol=V311),
    Who("ws", ("bob", "sea")),
    Who("tls"),
    Who("tls", certificate="device-1"),
    Who("tls", certificate="stranger"),
    Who("tls", ("ann", "sea")),
    Who("tls", ("ann", "sea"), certificate="device-1"),
]


@pytest.mark.parametrize("write", [_shared_files, _files_of_listeners], ids=["shared", "each"])
def test_the_same_clients_are_served(write: Any, directory: Path, pki: dict[str, Any]) -> None:
    ports = {name: free_port() for name in ("tcp", "ws", "tls")}
    addresses = {name: Address(name, "127.0.0.1", port) for name, port in ports.items()}
    conf = directory / "mosquitto.conf"
    conf.write_text("\n".join(write(directory, pki, ports)) + "\n")

    before = _outcomes(ConfiguredMosquitto(directory, conf, addresses), pki)
    file = _converted(conf, directory)
    after = _outcomes(ConvertedTidegate(directory, file, addresses), pki)

    assert after == before
    got_in = [outcome for outcome in before.values() if outcome != "refused"]
    assert 3 <= len(got_in) < len(CLIENTS), "the clients are all alike"


def _converted(conf: Path, directory: Path) -> Path:
    """Convert with the command, and check the result with the command."""
    program = str(Path(sys.executable).with_name("tidegate"))
    done = subprocess.run(
        [program, "convert", str(conf), "--output", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    remarks = [line for line in done.stderr.splitlines() if line.startswith("remark:")]
    assert all(": user: " in line for line in remarks), done.stderr
    assert done.returncode == (3 if remarks else 0)
    file = directory / "tidegate.yaml"
    checked = subprocess.run(
        [program, "check", str(file)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    return file


def _outcomes(server: Server, pki: dict[str, Any]) -> dict[Who, Any]:
    try:
        server.start()
        found: dict[Who, Any] = {who: _outcome(server, who, pki) for who in CLIENTS}
        for word in ("sea", "wrong"):
            found[Who("mosquitto_pub", ("ann", word))] = _publishes(server, "ann", word)
    finally:
        server.cleanup()
    return found


def _publishes(server: Server, user: str, word: str) -> bool:
    """Whether mosquitto_pub ends well."""
    address = server.address("tcp")
    where = ["-h", address.host, "-p", str(address.port), "-t", "ann/x", "-m", "x", "-q", "1"]
    command = [require("mosquitto_pub"), "-V", "5", *where, "-u", user, "-P", word]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False)
    return done.returncode == 0


def _outcome(server: Server, who: Who, pki: dict[str, Any]) -> Any:
    """What a client sees: refused, or its refused publishes and what was delivered to it."""
    client_id = f"c-{CLIENTS.index(who)}"
    certificate = pki[who.certificate] if who.certificate else None
    try:
        client = PahoClient(
            server,
            client_id,
            protocol=who.protocol,
            transport=who.transport,
            login=who.login,
            authority=pki["authority"],
            certificate=certificate,
        )
    except (ssl.SSLError, ConnectionError):
        return "refused"
    with client:
        if client.reason is None or client.reason.is_failure:
            return "refused"
        return _conversation(client, f"{MARKER}/{client_id}", who.protocol == V5)


def _conversation(client: PahoClient, marker: str, has_codes: bool) -> Any:
    codes: dict[int, int] = {}

    def note(_client: Any, _user: Any, packet_id: int, reason: Any, _properties: Any) -> None:
        codes[packet_id] = reason.value

    client.paho.on_publish = note
    client.subscribe("#", 1)
    sent = {topic: client.paho.publish(topic, topic.encode(), 1) for topic in (*TOPICS, marker)}
    wait_for(lambda: len(codes) == len(sent), DEADLINE_S, "all are acknowledged")
    refused = [topic for topic, each in sent.items() if has_codes and codes[each.mid] >= 0x80]
    wait_for(lambda: marker in _delivered(client), DEADLINE_S, "the marker is delivered")
    return refused, _delivered(client)


def _delivered(client: PahoClient) -> list[str]:
    return sorted(message.topic for message in list(client.messages))
