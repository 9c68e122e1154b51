"""What a supervisor hands to the processes it starts."""

from __future__ import annotations

import contextlib
import signal
import stat
from pathlib import Path

import pytest

from support.ports import free_port
from tidegate.edge.transport.acceptor import bind
from tidegate.roles.child import ChildProcess
from tidegate.roles.supervisor import Supervisor
from tidegate.runtime.config import config_file
from tidegate.runtime.config.model import Config, ListenerConfig
from tidegate.runtime.reload.errors import NotApplied

URL = "unix:///run/valkey"

SETTINGS = """
listeners:
- {address: 127.0.0.1, port: 0}
- {name: web, protocol: ws, address: 127.0.0.1, port: 0, paths: [/m]}
auth: {password_file: users, allow_anonymous: true}
store: {data_dir: data, durability: always}
link: {credit_bytes: 70000, listen: "127.0.0.1:1", routers: ["h:1"]}
admin: {port: 0, token_file: token}
cluster: {edges: 2, routers: 2}
log: {format: json}
"""


async def _children(directory: Path, text: str = SETTINGS) -> dict[str, Config]:
    file = directory / "tidegate.yaml"
    file.write_text(text)
    (directory / "made").mkdir()
    supervisor = Supervisor(config_file.load(file), print)
    listeners = supervisor._ports.reserve(supervisor.config.listeners)
    supervisor._ports.commit()
    supervisor._make_children(directory / "made", URL, listeners)
    supervisor._ports.close()
    return {
        child.name: config_file.from_flags(
            config_file.Flags(config=child.file), "edge" if child.role == "edge" else "router"
        )
        for child in supervisor._children
    }


async def test_everybody_gets_what_was_set_and_a_place_of_its_own(tmp_path: Path) -> None:
    children = await _children(tmp_path)
    assert list(children) == ["router-1", "router-2", "edge-1", "edge-2"]
    made = tmp_path / "made"
    for name, config in children.items():
        assert config.name == name
        assert config.store.url == URL
        assert config.store.durability == "always"
        assert config.auth.password_file == tmp_path / "users"
        assert config.link.routers == [f"unix:{made}/router-{n}.link" for n in (1, 2)]
        assert config.link.credit_bytes == 70_000
        assert config.admin.address == f"unix:{made}/{name}.admin"
        # Its socket is for the supervisor only, which has the token's door.
        assert config.admin.token_file is None
        assert not config.cluster.is_split
        assert config.log.format == "json"
        assert stat.S_IMODE((made / f"{name}.yaml").stat().st_mode) == 0o600
    assert children["router-2"].link.listen == f"unix:{made}/router-2.link"


async def test_all_edges_listen_on_the_same_ports(tmp_path: Path) -> None:
    children = await _children(tmp_path)
    one, two = (children[name].listeners for name in ("edge-1", "edge-2"))
    assert one == two
    assert [listener.label for listener in one] == ["tcp-0", "web"]
    assert all(listener.reuse_port and listener.port for listener in one)
    assert one[1].paths == ["/m"]
    assert children["router-1"].listeners == []


async def test_a_name_of_the_supervisor_goes_before_those_of_its_processes(tmp_path: Path) -> None:
    children = await _children(tmp_path, SETTINGS + "name: left\n")
    assert children["edge-2"].name == "left-edge-2"


async def test_a_file_that_is_missing_is_said_before_anything_starts(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"listeners": [{"port": 0}], "cluster": {"edges": 2}}
        | {"auth": {"password_file": tmp_path / "none"}}
    )
    with pytest.raises(OSError, match="none: cannot be read"):
        async with contextlib.AsyncExitStack() as stack:
            await Supervisor(config, print).start(stack)


async def test_the_port_of_another_broker_is_not_shared(tmp_path: Path) -> None:
    (held,) = bind(ListenerConfig(port=0, reuse_port=True))
    with held:
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}"):
            await _children(tmp_path, f"listeners: [{{port: {port}}}]\ncluster: {{edges: 2}}\n")


async def test_a_process_that_is_starting_is_not_ended_by_a_hangup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = ChildProcess("edge-1", "edge", tmp_path / "c", tmp_path / "a")
    sent: list[signal.Signals] = []
    monkeypatch.setattr(child, "signal", sent.append)
    child.reload()
    assert sent == []
    child._became_ready()
    child.reload()
    assert sent == [signal.SIGHUP]


async def test_ports_of_a_change_that_cannot_be_handed_on_are_free_again(tmp_path: Path) -> None:
    """It is tried again and again, each time with other sockets."""
    supervisor = Supervisor(Config(), print)
    (tmp_path / "made").mkdir()
    supervisor._make_children(tmp_path / "made", URL, [])
    (tmp_path / "made").rename(tmp_path / "gone")
    port = free_port()
    changed = Config.model_validate({"listeners": [{"port": port}]})
    with pytest.raises(NotApplied, match="No such file or directory"):
        await supervisor.reconfigure(changed)
    (free,) = bind(ListenerConfig(port=port))
    free.close()
