"""Whose a session is: client identifiers of two mount points, and of two users.

Inputs: raw clients against ``tidegate serve``, with listeners that have mount points, or users of a
password file. Observed: CONNACK, what becomes of the other one's connection, session and messages,
and what operators see.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support import mqtt_bytes
from support.broker import StartBroker, Tidegate
from support.mqtt_bytes import V5, V31, V311
from support.raw_client import DEADLINE_S, RawClient

pytestmark = pytest.mark.usefixtures("no_connection_is_left")

VERSIONS = [pytest.param(V31, id="3.1"), pytest.param(V311, id="3.1.1"), pytest.param(V5, id="5.0")]
NO_LOCAL = 0x04
PROGRAM = Path(sys.executable).with_name("tidegate")
REFUSED = {V31: 5, V311: 5, V5: 0x87}
TOO_MANY = {V31: 3, V311: 3, V5: 0x97}


async def _connect(
    broker: Tidegate,
    listener: str,
    client_id: str,
    version: int = V5,
    *,
    durable: bool = True,
    **options: Any,
) -> RawClient:
    client = await _open(broker, listener, version)
    if durable and version == V5:
        options["props"] = [("session_expiry", 300)]
    await client.connect(client_id, clean=not durable, **options)
    return client


async def _open(broker: Tidegate, listener: str, version: int) -> RawClient:
    address = broker.address(listener)
    return await RawClient.open(f"tcp://{address.host}:{address.port}", version=version)


def _admin(broker: Tidegate, path: str, method: str = "GET") -> tuple[int, Any]:
    address = broker.addresses["admin"]
    request = urllib.request.Request(f"http://{address.host}:{address.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _metric(broker: Tidegate, name: str) -> float:
    address = broker.addresses["admin"]
    url = f"http://{address.host}:{address.port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as reply:
        text: str = reply.read().decode()
    found = re.search(f"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


# Mount points


@pytest.fixture
def mounted(start_broker: StartBroker) -> Tidegate:
    """A broker with a listener without mount point, and two with one."""
    return start_broker(
        auth={"allow_anonymous": True},
        listeners=[
            {"name": "plain", "port": 0},
            {"name": "a", "port": 0, "mount_point": "a/"},
            {"name": "b", "port": 0, "mount_point": "b/"},
        ],
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("durable", [False, True])
async def test_an_identifier_of_another_mount_point_is_another_client(
    mounted: Tidegate, version: int, durable: bool
) -> None:
    clients = {}
    for listener in ("a", "b", "plain"):
        client = await _connect(mounted, listener, "same", version, durable=durable)
        assert client.connack is not None
        assert not client.connack.session_present
        await client.subscribe(("t", 1))
        clients[listener] = client
    for listener, client in clients.items():
        await client.deliver("t", listener.encode(), qos=0)
        received = await client.expect("PUBLISH", payload=listener.encode())
        assert received.topic == "t"
        await client.expect_nothing()


@pytest.mark.parametrize("version", VERSIONS)
async def test_each_mount_point_has_a_durable_session_of_its_own(
    mounted: Tidegate, version: int
) -> None:
    name = f"durable-{version}"
    for listener in ("plain", "a", "b"):
        client = await _connect(mounted, listener, name, version)
        await client.subscribe(("news", 1))
        await client.disconnect()
        writer = await _connect(mounted, listener, "writer", version, durable=False)
        await writer.deliver("news", listener.encode())
        await writer.disconnect()
    for listener in ("plain", "a", "b"):
        client = await _connect(mounted, listener, name, version)
        assert client.connack is not None
        assert client.connack.session_present or version == V31
        await client.expect("PUBLISH", payload=listener.encode(), topic="news")
        await client.expect_nothing()
        client.close()
    # Clean start ends the one, not the others.
    await (await _connect(mounted, "a", name, version, durable=False)).disconnect()
    for listener, there in (("a", False), ("b", True), ("plain", True)):
        client = await _connect(mounted, listener, name, version)
        if there:
            await client.expect("PUBLISH", payload=listener.encode())
        else:
            await client.expect_nothing()


async def test_a_takeover_ends_the_connection_of_its_own_mount_point(mounted: Tidegate) -> None:
    older = [await _connect(mounted, listener, "taken") for listener in ("plain", "a", "b")]
    await _connect(mounted, "a", "taken")
    await older[1].expect_closed(reasons=[0x8E])
    await older[0].expect_nothing()
    await older[2].expect_nothing()


async def test_no_local_and_wills_go_by_the_mount_point(mounted: Tidegate) -> None:
    will = mqtt_bytes.Will("state", b"gone", qos=1)
    outside = await _connect(mounted, "plain", "one")
    await outside.subscribe(("a/#", 1 | NO_LOCAL))
    inside = await _connect(mounted, "a", "one", will=will)
    await inside.publish("t", b"x")
    await outside.expect("PUBLISH", topic="a/t", payload=b"x")
    inside.reset()
    received = await outside.expect("PUBLISH", topic="a/state", payload=b"gone")
    await outside.acknowledge(received)


async def test_an_assigned_identifier_is_the_clients_own(mounted: Tidegate) -> None:
    client = await _open(mounted, "a", V5)
    await client.connect("")
    assert client.connack is not None
    assigned = str(client.connack.get("assigned_client_id"))
    assert assigned.startswith("auto-")
    assert "\0" not in assigned


async def test_operators_see_identifiers_with_their_mount_points(mounted: Tidegate) -> None:
    for listener in ("plain", "a", "b"):
        await _connect(mounted, listener, "seen")
    await _connect(mounted, "b", "only")
    names = {"seen", "only"}
    pages, after = [], ""
    while True:
        _, page = _admin(mounted, f"/clients?limit=1&after={quote(after, safe='')}")
        pages += page["clients"]
        if page["next"] is None:
            break
        after = page["next"]
    found = [(c["mount_point"], c["client_id"]) for c in pages if c["client_id"] in names]
    assert found == [("a/", "seen"), ("b/", "only"), ("b/", "seen"), ("", "seen")]
    assert _admin(mounted, "/clients/seen")[1]["mount_point"] == ""
    assert _admin(mounted, "/clients/seen?mount_point=b%2F")[1]["listener"] == "b"
    assert _admin(mounted, "/clients/seen?mount_point=c%2F")[0] == 404
    assert _admin(mounted, "/clients/only")[1]["mount_point"] == "b/"


async def test_an_operator_ends_one_of_them(mounted: Tidegate) -> None:
    clients = [await _connect(mounted, listener, "ended") for listener in ("a", "b")]
    assert _admin(mounted, "/clients/ended")[0] == 409
    assert _admin(mounted, "/clients/ended", "DELETE")[0] == 409
    _ctl(mounted, "disconnect", "ended", "--mount-point", "b/")
    await clients[1].expect_closed(reasons=[0x98])
    await clients[0].expect_nothing()
    _ctl(mounted, "end-session", "ended", "--mount-point", "a/")
    await clients[0].expect_closed(reasons=[0x98])
    for listener, there in (("a", False), ("b", True)):
        client = await _connect(mounted, listener, "ended")
        assert client.connack is not None
        assert client.connack.session_present == there


def _ctl(broker: Tidegate, *words: str) -> str:
    address = broker.addresses["admin"]
    where = f"http://{address.host}:{address.port}"
    command = [str(PROGRAM), "ctl", "--admin", where, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


# Users


class _Shared:
    """A broker that several users share."""

    def __init__(
        self,
        start_broker: StartBroker,
        directory: Path,
        limits: dict[str, int] | None = None,
        **auth: Any,
    ) -> None:
        file = directory / "users"
        file.touch(0o600)
        for name in ("ann", "bob"):
            command = [str(PROGRAM), "passwd", "-b", str(file), name, "secret"]
            subprocess.run(command, check=True)
        settings = {"allow_anonymous": True, "password_file": str(file)} | auth
        listeners = [{"name": "tcp", "port": 0}]
        self.broker = start_broker(auth=settings, listeners=listeners, limits=limits or {})

    async def connect(
        self, client_id: str, user: str, version: int = V5, *, durable: bool = True
    ) -> RawClient:
        """A client of a user, "" for none."""
        who = {"username": user, "password": b"secret"} if user else {}
        return await _connect(
            self.broker,
            "tcp",
            client_id,
            version,
            durable=durable,
            **who,
        )

    async def refused(
        self,
        client_id: str,
        user: str,
        version: int,
        *,
        clean: bool,
        reasons: dict[int, int] = REFUSED,
    ) -> None:
        """A client that another user's session, or too many of its own, keep out."""
        client = await _open(self.broker, "tcp", version)
        await client.send(
            mqtt_bytes.connect(
                client_id,
                version=version,
                clean=clean,
                props=[("session_expiry", 300)] if version == V5 and not clean else [],
                username=user or None,
                password=b"secret" if user else None,
            )
        )
        await client.expect_refused(reasons=[reasons[version]])


@pytest.mark.parametrize("version", VERSIONS)
async def test_another_user_is_refused(
    start_broker: StartBroker, tmp_path: Path, version: int
) -> None:
    shared = _Shared(start_broker, tmp_path)
    for durable in (False, True):
        mine = await shared.connect("c", "ann", version, durable=durable)
        await mine.subscribe(("t", 1))
        for user in ("bob", ""):
            for clean in (False, True):
                await shared.refused("c", user, version, clean=clean)
        await mine.expect_nothing()
        await mine.disconnect()
        if durable:
            await shared.refused("c", "bob", version, clean=True)
            again = await shared.connect("c", "ann", version)
            await again.deliver("t", b"mine", qos=0)
            await again.expect("PUBLISH", payload=b"mine")
    assert _metric(shared.broker, 'tidegate_connections_refused_total{reason="session_owner"}') == 9
    assert "session belongs to another user" in shared.broker.stderr()


async def test_a_clean_sessions_identifier_is_free_when_it_has_ended(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    shared = _Shared(start_broker, tmp_path)
    for user in ("ann", "bob", "", "ann"):
        client = await shared.connect("c", user, durable=False)
        client.reset()


async def test_users_may_change_where_it_is_configured_so(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    shared = _Shared(start_broker, tmp_path, session_owner="any")
    mine = await shared.connect("c", "ann")
    theirs = await shared.connect("c", "bob")
    await mine.expect_closed(reasons=[0x8E])
    assert theirs.connack is not None
    assert theirs.connack.session_present


async def test_an_operator_gives_an_identifier_to_another_user(
    start_broker: StartBroker, tmp_path: Path
) -> None:
    shared = _Shared(start_broker, tmp_path)
    mine = await shared.connect("c", "ann")
    await mine.subscribe(("t", 1))
    await mine.disconnect()
    assert "Ended" in _ctl(shared.broker, "end-session", "c")
    theirs = await shared.connect("c", "bob")
    assert theirs.connack is not None
    assert not theirs.connack.session_present
    await theirs.deliver("t", b"x", qos=1)
    await theirs.expect_nothing()
    assert _admin(shared.broker, "/sessions/nobody", "DELETE")[0] == 404


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_user_has_so_many_durable_sessions(
    start_broker: StartBroker, tmp_path: Path, version: int
) -> None:
    shared = _Shared(start_broker, tmp_path, limits={"max_sessions_per_user": 2})
    for number in range(2):
        await (await shared.connect(f"c{number}", "ann", version)).disconnect()
    await shared.refused("c2", "ann", version, clean=False, reasons=TOO_MANY)
    # Those that it has, sessions without expiry, other users, and one in the place of another.
    await (await shared.connect("c1", "ann", version)).disconnect()
    await (await shared.connect("c2", "ann", version, durable=False)).disconnect()
    await (await shared.connect("c2", "bob", version)).disconnect()
    await (await shared.connect("c0", "ann", version, durable=False)).disconnect()
    mine = await _until_accepted(shared, "c3", "ann", version)
    assert mine.connack is not None
    assert not mine.connack.session_present
    name = 'tidegate_connections_refused_total{reason="session_quota"}'
    assert _metric(shared.broker, name) >= 1
    assert "the user has too many sessions" in shared.broker.stderr()


async def _until_accepted(shared: _Shared, client_id: str, user: str, version: int) -> RawClient:
    """Connect as soon as the end of another session is known."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await shared.connect(client_id, user, version)
            except AssertionError:
                continue
