"""Password and ACL files of listeners: each listener by its own, live, one process and several."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from support import mqtt_bytes
from support.broker import StartBroker
from support.live import Live, digest_of
from support.mqtt_bytes import V5
from support.raw_client import RawClient
from tidegate.edge.auth.password_file import delete_user, set_user

pytestmark = pytest.mark.usefixtures("no_connection_is_left")


class Files:
    """Two listeners with files of their own, and one with the common files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("common", "inner", "outer"):
            set_user(self.users(name), name, "secret", "sha512", create=True)
            self.allow(name, f"{name}/#")

    def users(self, name: str) -> Path:
        return self.directory / f"{name}-users"

    def rules(self, name: str) -> Path:
        return self.directory / f"{name}-acl"

    def allow(self, name: str, topic_filter: str) -> None:
        self.rules(name).write_text(f"user {name}\ntopic readwrite {topic_filter}\n")

    def section(self, name: str) -> dict[str, str]:
        return {"password_file": str(self.users(name)), "acl_file": str(self.rules(name))}

    def settings(self, **cluster: Any) -> dict[str, Any]:
        tcp = {"protocol": "tcp", "address": "127.0.0.1", "port": 0}
        return {
            "listeners": [
                {"name": "common", **tcp},
                {"name": "inner", **tcp, **self.section("inner")},
                {"name": "outer", **tcp, **self.section("outer")},
            ],
            "auth": self.section("common"),
            **cluster,
        }


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def connect(live: Live, listener: str, user: str) -> tuple[RawClient, int]:
    place = live.server.address(listener)
    raw = await RawClient.open(f"tcp://{place.host}:{place.port}", version=V5)
    name = f"{listener}-{user}"
    await raw.send(mqtt_bytes.connect(name, username=user, password=b"secret"))
    return raw, (await raw.expect("CONNACK")).reason


def _publish(topic: str) -> bytes:
    return mqtt_bytes.publish(topic, b"x", qos=1, packet_id=1)


@pytest.mark.parametrize("cluster", [{}, {"cluster": {"edges": 2, "routers": 1}}])
async def test_each_listener_has_its_users_and_rules(
    start_broker: StartBroker, files: Files, cluster: dict[str, Any]
) -> None:
    settings = files.settings(**cluster)
    live = Live(start_broker(**settings), settings)
    for listener in ("common", "inner", "outer"):
        for user in ("common", "inner", "outer"):
            raw, reason = await connect(live, listener, user)
            assert reason == (0 if user == listener else 0x86), (listener, user)
            if not reason:
                for topic in ("common", "inner", "outer"):
                    await raw.send(_publish(f"{topic}/t"))
                    puback = await raw.expect("PUBACK")
                    assert (puback.reason == 0x87) is (topic != user), (user, topic)
            raw.close()


async def test_each_file_is_reloaded_on_its_own(start_broker: StartBroker, files: Files) -> None:
    settings = files.settings()
    live = Live(start_broker(**settings), settings)
    inner, _ = await connect(live, "inner", "inner")
    outer, _ = await connect(live, "outer", "outer")
    files.rules("outer").write_text("nonsense\n")
    files.allow("inner", "other/#")
    os.kill(live.server.pid, signal.SIGHUP)
    changed = str(files.rules("inner"))
    wanted = digest_of(files.rules("inner").read_bytes())
    await live.until(lambda said: said["files"][changed]["digest"] == wanted, "no reload")
    assert "expected topic" in live.configuration()["files"][str(files.rules("outer"))]["problem"]
    for raw, topic, reason in (
        (inner, "inner/t", 0x87),
        (inner, "other/t", 0x10),
        (outer, "outer/t", 0x10),
    ):
        await raw.send(_publish(topic))
        assert (await raw.expect("PUBACK")).reason == reason
    delete_user(files.users("inner"), "inner")
    os.kill(live.server.pid, signal.SIGHUP)
    await inner.expect("DISCONNECT", reason=0x87)
    await inner.expect_closed()
    outer.close()


async def test_another_file_of_a_listener_counts_at_once(
    start_broker: StartBroker, files: Files
) -> None:
    settings = files.settings()
    live = Live(start_broker(**settings), settings)
    inner, _ = await connect(live, "inner", "inner")
    outer, _ = await connect(live, "outer", "outer")
    live.settings["listeners"][1] |= files.section("outer")
    await live.take()
    await inner.expect("DISCONNECT", reason=0x87)  # no user of that file
    await inner.expect_closed()
    again, reason = await connect(live, "inner", "outer")
    assert reason == 0
    assert str(files.users("inner")) not in live.configuration()["files"]
    outer.close()
    again.close()
