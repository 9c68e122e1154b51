"""A pytest plugin for paho-mqtt's own MQTT 5 tests: the broker under test in place of theirs.

Their tests import ``mqtt.brokers`` (the paho.mqtt.testing broker), run it in a thread on a port and
stop it through the server object of its TCP listener. This module puts fakes of the same shape
into ``sys.modules`` that start, stop and restart a real broker process.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import paho.mqtt.client as paho
import pytest

from support.broker import Server, Tidegate
from support.certificates import Certificates
from support.mosquitto import Mosquitto

DEADLINE_S = 15.0


class FakeBroker:
    """The part of ``socketserver.TCPServer`` that their tests touch, over a broker process."""

    def __init__(self, broker: Server) -> None:
        self.broker = broker
        self.stopped = threading.Event()
        self.socket = SimpleNamespace(getsockname=lambda: ("127.0.0.1", broker.address("tcp").port))

    def shutdown(self) -> None:
        """Stop the broker process, start it again on the same port, and let ``run`` return.

        Here, because their own wait for a broker that starts is short.
        """
        self.broker.restart()
        self.stopped.set()

    def server_close(self) -> None:
        """Do nothing: the port is in use again."""


class Harness:
    """The broker process of this run, shared by their test classes one after the other."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tg-", ignore_cleanup_errors=True)
        self.broker = _make(Path(self._directory.name).resolve())
        self.listeners = SimpleNamespace(TCPListeners=SimpleNamespace(server=None))

    def run(self, config: list[str]) -> None:
        """Replace ``mqtt.brokers.run``: return when the broker has been shut down."""
        fake = FakeBroker(self.broker)
        self.listeners.TCPListeners.server = fake
        fake.stopped.wait()

    def close(self) -> None:
        """End the process and remove its data."""
        self.broker.cleanup()
        self._directory.cleanup()


def _make(directory: Path) -> Server:
    if os.environ.get("TIDEGATE_TEST_BROKER") == "mosquitto":
        certificates = Certificates(directory / "certificates")
        return Mosquitto(directory, certificates.server, certificates.authority)
    settings = {
        "listeners": [{"name": "tcp", "protocol": "tcp", "address": "127.0.0.1", "port": 0}],
        "auth": {"allow_anonymous": True},
        "store": {"data_dir": str(directory / "data")},
        "admin": {"port": 0},
    }
    return Tidegate(directory, settings, [])


def pytest_configure(config: pytest.Config) -> None:
    """Start the broker and put the fakes where their tests import them from."""
    harness = Harness()
    config.add_cleanup(harness.close)
    # Started here, because their own wait for it is short.
    harness.broker.start()
    package, brokers = ModuleType("mqtt"), ModuleType("mqtt.brokers")
    vars(brokers).update(run=harness.run, listeners=harness.listeners)
    vars(package).update(brokers=brokers)
    sys.modules.update({"mqtt": package, "mqtt.brokers": brokers})
    _reconnect_soon()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let their tests wait longer for an answer than the two seconds that an idle machine needs."""
    for callbacks in {vars(item.module)["Callbacks"] for item in items if hasattr(item, "module")}:
        for word, answers in _ANSWERS.items():
            setattr(callbacks, f"wait_{word}", _waiter(answers))


_ANSWERS = {
    "connected": "connecteds",
    "disconnected": "disconnecteds",
    "published": "publisheds",
    "subscribed": "subscribeds",
    "unsubscribed": "unsubscribeds",
}


def _waiter(answers: str) -> Callable[[Any], Any]:
    def wait(self: Any) -> Any:
        return getattr(self, answers).get(timeout=DEADLINE_S)

    return wait


def _reconnect_soon() -> None:
    # Their broker is back at once, ours is a process that starts. A client also waits this long
    # when its thread is started before it connects, as in most of their tests.
    original = paho.Client.__init__

    def steady(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        # 0.2 s; the parameters are called whole numbers, but nothing needs them to be.
        vars(self).update(_reconnect_min_delay=0.2, _reconnect_max_delay=0.2)

    paho.Client.__init__ = steady  # type: ignore[method-assign]  # from outside, for their tests
