"""A flood of wrong passwords and the right one among them, over sockets.

Input: connections from addresses of 127.0.0.0/8 against ``tidegate serve`` with costly hashes.
Output: when the right password is answered, and how many hashes were computed.
"""

from __future__ import annotations

import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V311
from support.raw_client import DEADLINE_S
from tidegate.edge.auth import password_file

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

#: A hash takes 0.05 s or more: two threads would need 4 s for all, one needs 8.
WRONG = 150
#: Those that may be computed first: a turn in each order, the ones that run, and the flood's begin.
MAX_HASHES = 40
USERS = 5


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("passwords") / "users"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(password_file, "PBKDF2_ITERATIONS", 60_000)
        for number in range(USERS):
            name, password = f"user{number}", f"right{number}"
            password_file.set_user(path, name, password, "sha512-pbkdf2", create=not number)
    return path


@pytest.fixture
def guarded(start_broker: StartBroker, users: Path) -> Tidegate:
    return start_broker(auth={"password_file": str(users)}, listeners=[{"name": "tcp", "port": 0}])


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _open(port: int, source: str, user: str, password: str, version: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
    found.settimeout(DEADLINE_S)
    found.sendall(
        mqtt_bytes.connect(
            f"c-{user}-{source}", username=user, password=password.encode(), version=version
        )
    )
    return found


def _hashes(broker: Tidegate) -> int:
    admin = broker.address("admin")
    with urllib.request.urlopen(f"http://{admin.host}:{admin.port}/metrics", timeout=10) as answer:
        found = re.search(
            r"^tidegate_password_hashes_total (.*)$", answer.read().decode(), re.MULTILINE
        )
    assert found is not None
    return int(float(found[1]))


@pytest.mark.parametrize("leaves", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize(
    ("addresses", "names"),
    [(1, 1000), (1, USERS), (100, 1000), (100, 1)],
    ids=["one-unknown", "one-known", "many-unknown", "many-one-user"],
)
def test_a_flood_of_wrong_passwords_delays_a_right_one_little(
    guarded: Tidegate, sockets: ExitStack, addresses: int, names: int, leaves: bool
) -> None:
    """[MQTT-3.1.4-2] takes its time; a hostile client costs itself (G6)."""
    port = guarded.address().port
    flood = [
        sockets.enter_context(
            _open(port, f"127.0.1.{1 + n % addresses}", f"user{n % names}", f"wrong{n}", V311)
        )
        for n in range(WRONG)
    ]
    if leaves:
        for each in flood:
            each.close()
    with _open(port, "127.0.0.1", "user0", "right0", V5) as good:
        answer = good.recv(100)
    assert _hashes(guarded) <= MAX_HASHES
    assert answer[3] == 0, "CONNACK with reason code 0"


def test_passwords_of_clients_that_have_gone_are_not_hashed(
    guarded: Tidegate, sockets: ExitStack
) -> None:
    port = guarded.address().port
    for n in range(60):
        _open(port, f"127.0.1.{1 + n}", "user1", f"wrong{n}", V311).close()
    with _open(port, "127.0.0.1", "user0", "right0", V5) as good:
        assert good.recv(100)[3] == 0
    assert _hashes(guarded) <= MAX_HASHES


def test_a_wait_that_cannot_end_in_time_is_answered_at_once(
    start_broker: StartBroker, users: Path, sockets: ExitStack
) -> None:
    """0x89; 3 before MQTT 5, counted as busy."""
    broker = start_broker(
        auth={"password_file": str(users), "password_threads": 1},
        listeners=[{"name": "tcp", "port": 0}],
        limits={"connect_timeout_s": 1},
    )
    port = broker.address().port
    with _open(port, "127.0.0.1", "user1", "wrong", V5) as first:
        first.recv(100)  # how long a hash takes is known
    versions = [V311, V5] * 50
    flood = [
        sockets.enter_context(_open(port, "127.0.0.2", "user1", f"wrong{n}", version))
        for n, version in enumerate(versions)
    ]
    answers = [each.recv(100) for each in flood]
    codes = {(version, answer[3]) for version, answer in zip(versions, answers, strict=True)}
    assert codes >= {(V311, 3), (V5, 0x89)}
    assert codes <= {(V311, 3), (V5, 0x89), (V311, 4), (V5, 0x86)}
