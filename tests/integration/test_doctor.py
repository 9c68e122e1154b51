"""``tidegate doctor`` beside a running broker, and about real stores.

Input: a broker and stores of the test. Observed: the JSON that the command prints, and that it
changes nothing in the store.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.broker import StartBroker
from support.store_groups import AnyStore, start_store


def _doctor(file: Path, *arguments: str, cwd: Path | None = None) -> tuple[int, dict[str, Any]]:
    program = str(Path(sys.executable).with_name("tidegate"))
    done = subprocess.run(
        [program, "doctor", str(file), "--json", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.stdout, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, data


def _texts(data: dict[str, Any], area: str, level: str) -> list[str]:
    return [
        each["text"] for each in data["findings"] if (each["area"], each["level"]) == (area, level)
    ]


def test_beside_a_running_broker(start_broker: StartBroker) -> None:
    broker = start_broker(listeners=[{"name": "tcp", "address": "127.0.0.1", "port": 0}])
    settings = broker.settings | {
        "listeners": [{"name": "tcp", "port": broker.address("tcp").port}],
        "admin": {"port": broker.address("admin").port},
    }
    file = broker.directory / "same.yaml"
    file.write_text(yaml.safe_dump(settings))
    code, data = _doctor(file)
    assert code == 0, data
    used = [f"used by a running broker (process {broker.pid})" in text for text in _ports(data)]
    assert used == [True, True]
    (server, *_) = _texts(data, "store", "ok")
    assert server.startswith("Valkey ")
    assert any("append-only file is on" in text for text in _texts(data, "store", "ok"))
    assert any("the store's clock is" in text for text in _texts(data, "clocks", "ok"))


def _ports(data: dict[str, Any]) -> list[str]:
    return _texts(data, "ports", "ok")


@pytest.fixture(params=["valkey", "redis-limited", "valkey-cluster"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyStore]:
    """Run a store of each kind."""
    running = start_store(request.param, tmp_path)
    yield running
    running.stop()


def test_a_store_is_asked_and_not_changed(store: AnyStore, tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text(yaml.safe_dump({"store": {"url": store.url}, "admin": {"enabled": False}}))
    before = store.key_names()
    code, data = _doctor(file, "--role", "router")
    assert data["role"] == "router"
    assert (code, _texts(data, "store", "problem")) == (0, [])
    texts = _texts(data, "store", "ok")
    assert any("answers at" in text for text in texts)
    assert "the store's user may run the commands that were tried" in texts
    assert any("a round trip takes" in text for text in texts)
    # The servers of the tests have no maxmemory.
    assert any("maxmemory" in text for text in _texts(data, "store", "advice"))
    assert store.key_names() == before


def test_rights_that_are_missing_are_named(tmp_path: Path) -> None:
    store = start_store("valkey-limited", tmp_path)
    try:
        user = getattr(store, "USER")  # noqa: B009  # of the limited kind only
        store.command("ACL", "SETUSER", user, "-xadd", "-memory|usage")
        file = tmp_path / "router.yaml"
        file.write_text(yaml.safe_dump({"store": {"url": store.url}, "admin": {"enabled": False}}))
        code, data = _doctor(file, "--role", "router")
    finally:
        store.stop()
    assert code == 1
    (text,) = _texts(data, "store", "problem")
    assert text == "the store's user may not run memory|usage, xadd"


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    settings = {"store": {"url": f"unix://{tmp_path}/none"}, "admin": {"enabled": False}}
    file.write_text(yaml.safe_dump(settings))
    code, data = _doctor(file, "--role", "router")
    assert code == 1
    assert len(_texts(data, "store", "problem")) == 1
