"""mosquitto_pub and mosquitto_sub against the broker, as a new user tries it.

Input: command lines. Output: what the subscriber prints and what the programs exit with. They speak
TCP, TLS and Unix sockets; WebSocket is left to paho and MQTT.js.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from support import processes
from support.broker import Server, StartBroker
from support.certificates import Certificates
from support.tools import require

TRANSPORTS = ["tcp", "tls", "unix", "auto", "auto-tls"]
VERSIONS = ["mqttv31", "mqttv311", "mqttv5"]
DEADLINE_S = 15.0

_markers = itertools.count(1)


def reach(broker: Server, transport: str, certificates: Certificates) -> list[str]:
    """Return the options that lead to the listener of ``transport``."""
    listener, _, spoken = transport.partition("-")
    if not broker.has(listener):
        pytest.skip(f"{broker.product} has no listener {listener}")
    address = broker.address(listener)
    if listener == "unix":
        return ["--unix", address.path]
    options = ["-h", "127.0.0.1", "-p", str(address.port)]
    if "tls" in {listener, spoken}:
        options += ["--cafile", str(certificates.authority.certificate)]
    return options


def publish(*options: str) -> subprocess.CompletedProcess[str]:
    """Run mosquitto_pub to its end."""
    return subprocess.run(
        [require("mosquitto_pub"), *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Subscriber:
    """A running mosquitto_sub and the lines it printed, one per message: ``topic payload``."""

    def __init__(self, *options: str) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = processes.start(
            [require("mosquitto_sub"), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def lines(self, count: int) -> list[str]:
        """Wait for the next ``count`` lines."""
        end = time.monotonic() + DEADLINE_S
        got: list[str] = []
        while len(got) < count:
            try:
                got.append(self._lines.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                raise AssertionError(f"{count} lines wanted, printed: {got}") from None
        return got

    def end(self) -> None:
        """Kill it and close its pipe."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def subscribed(way: list[str], *options: str) -> Iterator[Subscriber]:
    """Yield a subscriber that is known to be subscribed.

    It also subscribes to a retained marker, after its own filters and in the same SUBSCRIBE: once
    the marker is printed, all of them are in force.
    """
    marker = f"marker/{next(_markers)}"
    assert publish(*way, "-t", marker, "-m", "here", "-r", "-q", "1").returncode == 0
    subscriber = Subscriber(*way, "-F", "%t %q %r %p", *options, "-t", marker)
    try:
        assert marker in subscriber.lines(1)[0]
        yield subscriber
    finally:
        subscriber.end()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_messages_of_every_qos_arrive_in_order(
    broker: Server, certificates: Certificates, transport: str, version: str
) -> None:
    way = [*reach(broker, transport, certificates), "-V", version]
    topic = f"mosquitto/{transport}/{version}"
    with subscribed(way, "-q", "2", "-t", topic) as subscriber:
        for qos in "012":
            assert publish(*way, "-t", topic, "-m", f"of qos {qos}", "-q", qos).returncode == 0
        assert subscriber.lines(3) == [f"{topic} {qos} 0 of qos {qos}" for qos in "012"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_retained_message_is_kept_replaced_and_removed(
    broker: Server, certificates: Certificates, version: str
) -> None:
    way = [*reach(broker, "tcp", certificates), "-V", version]
    topic = f"retained/{version}"
    for payload in ("first", "second"):
        assert publish(*way, "-t", topic, "-m", payload, "-r", "-q", "1").returncode == 0
    reader = Subscriber(*way, "-F", "%t %q %r %p", "-q", "1", "-t", topic, "-C", "1")
    assert reader.lines(1) == [f"{topic} 1 1 second"]
    assert reader.process.wait(DEADLINE_S) == 0
    reader.end()
    assert publish(*way, "-t", topic, "-n", "-r", "-q", "1").returncode == 0
    # Filters are answered in order: the marker comes first only if nothing is retained before it.
    with subscribed(way, "-q", "1", "-t", topic):
        pass


@pytest.mark.parametrize("version", VERSIONS)
def test_the_will_of_a_client_that_is_killed_is_published(
    broker: Server, certificates: Certificates, version: str
) -> None:
    way = [*reach(broker, "tcp", certificates), "-V", version]
    topic = f"will/{version}"
    with subscribed(way, "-q", "1", "-t", topic) as watcher:
        will = ["--will-topic", topic, "--will-payload", "it died", "--will-qos", "1"]
        with subscribed(way, *will, "-t", "nothing") as victim:
            victim.process.kill()
            assert watcher.lines(1) == [f"{topic} 1 0 it died"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_persistent_session_gets_what_was_published_meanwhile(
    broker: Server, certificates: Certificates, version: str
) -> None:
    way = [*reach(broker, "tcp", certificates), "-V", version]
    topic = f"queue/{version}"
    me = ["-i", f"sleeper-{version}", "-c", "-q", "1", "-F", "%p", "-t", topic]
    if version == "mqttv5":
        me += ["-x", "3600"]
    assert subprocess.run(
        [require("mosquitto_sub"), *way, *me, "-E"], check=False, timeout=DEADLINE_S
    ).returncode in {0, 27}
    for number in range(5):
        assert publish(*way, "-t", topic, "-m", str(number), "-q", "1").returncode == 0
    sleeper = Subscriber(*way, *me, "-C", "5")
    assert sleeper.lines(5) == ["0", "1", "2", "3", "4"]
    sleeper.end()


def test_user_properties_arrive_in_order_with_duplicates(
    broker: Server, certificates: Certificates
) -> None:
    way = [*reach(broker, "tcp", certificates), "-V", "mqttv5"]
    reader = ["-t", "properties", "-F", "%t %p %P"]
    with subscribed(way, *reader) as subscriber:
        sent = ["b", "1", "a", "2", "b", "3", "a", "2"]
        options: list[str] = []
        for name, value in zip(sent[::2], sent[1::2], strict=True):
            options += ["-D", "publish", "user-property", name, value]
        assert publish(*way, "-t", "properties", "-m", "x", *options).returncode == 0
        assert subscriber.lines(1) == ["properties x b:1 a:2 b:3 a:2"]


def test_a_large_message_arrives_whole(broker: Server, certificates: Certificates) -> None:
    way = reach(broker, "tls", certificates)
    payload = "0123456789abcdef" * 4096
    with subscribed(way, "-q", "2", "-t", "large") as subscriber:
        sent = subprocess.run(
            [require("mosquitto_pub"), *way, "-t", "large", "-q", "2", "-s"],
            input=payload,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert sent.returncode == 0
        assert subscriber.lines(1) == [f"large 2 0 {payload}"]


def test_a_password_file_of_mosquitto_lets_in_whom_it_names(
    start_broker: StartBroker, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("passwords")
    file = directory / "passwords"
    make = [require("mosquitto_passwd"), "-b"]
    subprocess.run([*make, "-c", str(file), "ann", "one"], check=True, capture_output=True)
    subprocess.run([*make, str(file), "bob", "two"], check=True, capture_output=True)
    broker = start_broker(auth={"allow_anonymous": False, "password_file": str(file)})
    way = [*reach(broker, "tcp", certificates), "-t", "t", "-m", "m", "-q", "1"]
    assert publish(*way, "-u", "ann", "-P", "one").returncode == 0
    assert publish(*way, "-u", "bob", "-P", "two").returncode == 0
    for login in (["-u", "ann", "-P", "two"], ["-u", "eve", "-P", "one"], ["-u", "ann"], []):
        for version in VERSIONS:
            refused = publish(*way, "-V", version, *login)
            assert refused.returncode != 0, login
            # Return code 4 or 5, reason code 0x86 or 0x87, in mosquitto's words.
            said = refused.stderr.lower()
            assert "not authori" in said or "bad user name or password" in said, said


def test_an_acl_file_is_followed_as_mosquitto_does(
    start_broker: StartBroker, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("acl")
    passwords, rules = directory / "passwords", directory / "acl"
    make = [require("mosquitto_passwd"), "-b"]
    subprocess.run([*make, "-c", str(passwords), "ann", "one"], check=True, capture_output=True)
    rules.write_text(
        "topic read open/#\n\nuser ann\ntopic readwrite ann/#\ntopic deny ann/secret\n"
        "topic readwrite marker/#\npattern read of/%u/#\n"
    )
    broker = start_broker(
        auth={
            "allow_anonymous": False,
            "password_file": str(passwords),
            "acl_file": str(rules),
        }
    )
    ann = [*reach(broker, "tcp", certificates), "-u", "ann", "-P", "one", "-V", "mqttv5"]
    with subscribed(ann, "-q", "1", "-t", "ann/#", "-t", "of/#", "-t", "open/#") as subscriber:
        for topic in ("ann/secret", "of/ann/x", "open/x", "ann/fine"):
            publish(*ann, "-t", topic, "-m", "m", "-q", "1")
        assert subscriber.lines(1) == ["ann/fine 1 0 m"]
